"""Run the transforms of a codec on images of any size: padded by reflection, large ones tile by tile without seams.

A tile is larger than what is kept of it by the reach of the convolutions, so that every pixel is what it would be in
the whole image, up to the last bits.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import without_gradients
from tf_robustcomp.compression.transforms import BLOCK
from tf_robustcomp.utils.progress import bar

TILE = 768  # pixels of a side that are kept
PROGRESS_TILES = 4  # from so many on, a terminal shows a bar


def padded(images: Any, side: int) -> Any:
    """Return images (n, h, w, c) whose sides are multiples of ``side``, continued by reflection."""
    for axis in (1, 2):
        length = images.shape[axis]
        if length % side:
            images = ops.take(images, reflected(length, -(-length // side) * side), axis=axis)
    return images


def reflected(length: int, wanted: int) -> np.ndarray:
    """Return indices (wanted,) into an axis that continue it by reflection, the edge repeated, however short it is."""
    place = np.arange(wanted) % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place).astype("int32")


def analysed(model: Any, image: np.ndarray, features: Any) -> np.ndarray:
    """Return the scaled latents (1, rows, columns, latents) of one image (1, h, w, c), float32."""
    height, width = (-(-length // model.side) * model.side for length in image.shape[1:3])
    rows, columns = reflected(image.shape[1], height), reflected(image.shape[2], width)
    y = np.empty((1, height // BLOCK, width // BLOCK, model.latents), np.float32)
    with without_gradients():
        for kept, inside, whole in cut((height, width), model.blocks, "encoding"):
            tile = ops.convert_to_tensor(image[:, rows[whole[0]]][:, :, columns[whole[1]]].astype(np.float32))
            part = ops.convert_to_numpy(model.gain(model.analysis(tile, features), features))
            y[:, _blocks(kept[0]), _blocks(kept[1])] = part[:, _blocks(inside[0]), _blocks(inside[1])]
    return y


def synthesise(model: Any, y: np.ndarray, features: Any, image: np.ndarray) -> None:
    """Write the image of scaled latents into ``image`` (1, h, w, c), float32 in [0, 1]."""
    height, width = (BLOCK * length for length in y.shape[1:3])
    with without_gradients():
        for kept, inside, whole in cut((height, width), model.blocks, "decoding"):
            tile = ops.convert_to_tensor(np.ascontiguousarray(y[:, _blocks(whole[0]), _blocks(whole[1])]))
            part = ops.convert_to_numpy(model.synthesis(model.inverse(tile, features), features))
            target = image[:, kept[0], kept[1]]
            part = part[:, inside[0], inside[1]][:, : target.shape[1], : target.shape[2]]
            np.clip(part, 0.0, 1.0, out=target)


def _reach(blocks: Sequence[int]) -> int:
    """Pixels from which on nothing is seen, a multiple of 64: of `Analysis` and of `Synthesis`."""
    return -(-(28 + 8 * blocks[0] + 16 * blocks[1] + 32 * blocks[2]) // 64) * 64


def cut(size: tuple[int, int], blocks: Sequence[int], what: str) -> Iterator[tuple]:
    """Yield for each tile three pairs of slices: what is kept, where that is inside the tile, and the whole tile.

    Args:
        size: (height, width) in pixels, multiples of 64.
        blocks: residual blocks of the transforms, which decide how far tiles overlap.
        what: that a progress bar shows.
    """
    reach, axes = _reach(blocks), []
    for length in size:
        starts = range(0, length, TILE)
        parts = []
        for start in starts:
            stop = min(start + TILE, length)
            first, last = max(start - reach, 0), min(stop + reach, length)
            parts.append((slice(start, stop), slice(start - first, stop - first), slice(first, last)))
        axes.append(parts)
    count = len(axes[0]) * len(axes[1])
    with bar(count, what, count >= PROGRESS_TILES, "tile") as shown:
        for row in axes[0]:
            for column in axes[1]:
                yield tuple(zip(row, column, strict=True))
                shown.update()


def _blocks(part):
    return slice(part.start // BLOCK, part.stop // BLOCK)
