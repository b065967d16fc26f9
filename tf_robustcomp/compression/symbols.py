"""Any number of images to symbols and back, batch by batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.utils.progress import bar

BATCH = 250


def encode_all(model: Any, images: np.ndarray, stage: int | None = None, progress: bool = False) -> np.ndarray:
    """Return the symbols (n, d) that the network gives images (n, h, w, c)."""
    parts = [ops.convert_to_numpy(model.encode(part, stage)) for part in batches(images, progress, "encoding")]
    return np.concatenate(parts).astype(np.int32)


def decode_all(model: Any, symbols: np.ndarray, stage: int | None = None, progress: bool = False) -> np.ndarray:
    """Return the images (n, h, w, c) of symbols (n, d)."""
    images, first = np.empty((len(symbols), *model.image_shape), np.float32), 0
    for part in batches(symbols, progress, "decoding"):
        images[first : first + len(part)] = ops.convert_to_numpy(model.decode(part, stage))
        first += len(part)
    return images


def batches(values: Any, progress: bool = False, what: str = "") -> Iterator[Any]:
    """Yield consecutive parts of at most `BATCH` values."""
    starts = range(0, len(values), BATCH)
    with bar(len(starts), what, progress, "batch") as shown:
        for first in starts:
            yield values[first : first + BATCH]
            shown.update()
