"""Images to train and to evaluate compressors on: any source of images, with or without labels, in one size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tf_robustcomp.data import pictures
from tf_robustcomp.data.images import as_bytes, is_source, load_images, resized
from tf_robustcomp.utils.checks import check_images
from tf_robustcomp.utils.errors import DataError

HELD_OUT = 10  # one in so many images, the last ones, are the test set where the source has none of its own
PARTS = ("train", "test")


def images_of(source: str, part: str, size: Sequence[int], count: int | None = None) -> np.ndarray:
    """Return images of a source in the size of a model.

    Args:
        source: ``mnist``, ``digits``, a .npz file with ``x_train`` and ``x_test`` (no labels are needed), a .npy file
            of images (n, h, w) or (n, h, w, c), or a folder of pictures.  Pictures are cut into tiles of ``size``,
            whole ones where the picture is as large as that.  The last tenth of a .npy file's images and of a folder's
            pictures is for test, unless the folder has the folders ``train`` and ``test``.
        part: "train" or "test".
        size: (height, width).
        count: int, images at most.

    Returns:
        array (n, height, width, c), float32 in [0, 1].

    Raises:
        DataError: the source is missing or not of this form, or its images would be squashed.
    """
    if Path(source).is_dir():
        images = _tiles(Path(source), part, size, count)
    elif source.endswith(".npy"):
        every = as_bytes(source, pictures.read_npy(source))
        images = every[_rows(source, len(every), part)][:count]
    elif is_source(source):
        images = getattr(load_images(source, labels=False), f"x_{part}")[:count]
    else:
        raise DataError(f"{source}: not mnist, digits, a .npz or .npy file, or a folder of pictures")
    height, width = images.shape[1:3]
    if height * size[1] != width * size[0]:
        raise DataError(
            f"{source}: images of {height} x {width} would be squashed to {size[0]} x {size[1]}; give them that shape, "
            "or a folder of pictures, which is cut into tiles"
        )
    return check_images(resized(images, size), name=source)


def _rows(source, count, part):
    """The slice of ``count`` items that is for training or for test."""
    if count < 2:
        raise DataError(f"{source}: must hold two images at least, one of them for test. Found: {count}")
    first = count - max(1, count // HELD_OUT)
    return slice(first) if part == "train" else slice(first, None)


def _tiles(folder, part, size, count):
    own = all((folder / name).is_dir() for name in PARTS)
    paths = list(pictures.find([folder / part if own else folder]).values())
    paths = paths if own else paths[_rows(folder, len(paths), part)]
    found: list[np.ndarray] = []
    tiles = 0
    for path in paths:
        pixels = pictures.read(path).pixels
        found.append(pixels)
        tiles += len(_cut(pixels, size, colour=False))
        if count is not None and tiles >= count:
            break
    colour = any(pixels.shape[3] >= 3 for pixels in found)
    return np.concatenate([_cut(pixels, size, colour) for pixels in found])[:count]


def _cut(pixels, size, colour):
    """Tiles of pictures, whole ones where there are some, grey or in colour."""
    height, width = (
        whole - whole % side if whole > side else whole for whole, side in zip(pixels.shape[1:3], size, strict=True)
    )
    pixels = pixels[:, :height, :width, : 3 if colour else 1]
    if colour and pixels.shape[3] != 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=3)
    return pictures.to_tiles(pixels, (*size, pixels.shape[3]))
