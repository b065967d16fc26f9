"""Random crops of photographs: decoded once, then cut by (seed, step)."""

from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.data import pictures
from tf_robustcomp.utils.errors import DataError
from tf_robustcomp.utils.progress import bar

HELD_OUT = 10  # every so many pictures, one is for test


def photographs(folder: str | Path, part: str = "train", least: int = 1) -> list[np.ndarray]:
    """Return the pictures of a folder, decoded, each uint8 (h, w, 3).

    Args:
        folder: is searched for pictures; grey ones become coloured, transparency is dropped.
        part: "train", or "test", every tenth picture; the folders ``train`` and ``test`` of the folder where both are.
        least: pixels of a side; smaller pictures are left out.

    Raises:
        DataError: the folder is missing, or no picture in it is large enough.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no folder of pictures")
    own = all((folder / name).is_dir() for name in ("train", "test"))
    paths = list(pictures.find([folder / part if own else folder]).values())
    if not own:
        paths = [path for number, path in enumerate(paths) if (number % HELD_OUT == HELD_OUT - 1) == (part == "test")]
    found = []
    with bar(len(paths), "decoding", True, "picture") as shown:
        for path in paths:
            for pixels in pictures.read(path).pixels:
                coloured = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
                if min(coloured.shape[:2]) >= least:
                    found.append(np.ascontiguousarray(coloured))
            shown.update()
    if not found:
        raise DataError(f"{folder}: no picture for {part} has sides of {least} pixels")
    return found


def crops(images: list[np.ndarray], count: int, side: int, seed: int, step: int, shrink: float = 1.0) -> np.ndarray:
    """Return the crops of a step, float32 (count, side, side, 3) in [0, 1]: a function of (seed, step).

    Pictures are drawn by their number of pixels; crops are mirrored and transposed at random.  With ``shrink`` above 1
    half of them are cut larger, by a factor between 1 and that, and made smaller.
    """
    from PIL import Image

    rng = np.random.default_rng((seed, step))
    pixels = np.array([image.shape[0] * image.shape[1] for image in images], float)
    found = np.empty((count, side, side, 3), np.float32)
    for row, number in zip(found, rng.choice(len(images), count, p=pixels / pixels.sum()), strict=True):
        image = images[number]
        larger = side if shrink == 1 or rng.random() < 0.5 else int(side * rng.uniform(1, shrink))
        top, left = (rng.integers(length - larger + 1) for length in image.shape[:2])
        crop = image[top : top + larger, left : left + larger]
        if larger > side:
            crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BOX))
        down, right, transposed = rng.random(3) < 0.5
        crop = crop[:: -1 if down else 1, :: -1 if right else 1]
        np.divide(crop.swapaxes(0, 1) if transposed else crop, 255, out=row, dtype=np.float32)
    return found


def crop_batches(
    images: list[np.ndarray], count: int, side: int, seed: int, first_step: int = 0, shrink: float = 1.0
) -> Any:
    """Return endless batches of `crops` as a ``tf.data.Dataset``, cut beside the training step."""
    import tensorflow as tf

    def cut(step):
        batch = tf.numpy_function(lambda at: crops(images, count, side, seed, int(at), shrink), [step], tf.float32)
        return tf.ensure_shape(batch, (count, side, side, 3))

    steps = tf.data.Dataset.counter(first_step)
    return steps.map(cut, num_parallel_calls=2, deterministic=True).prefetch(4)
