"""The distortion of images: the sum of squared errors."""

from typing import Any

import numpy as np
from keras import ops


def distortion(x: Any, y: Any) -> Any:
    """Return the sum of squared errors of each image, in float32 in every precision: (n, h, w, c) twice -> (n,)."""
    difference = ops.cast(x, "float32") - ops.cast(y, "float32")
    return ops.sum(ops.square(difference), axis=(1, 2, 3))


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of squared errors of each image in float64, for results: arrays (n, h, w, c) -> (n,)."""
    return np.sum((x.astype("float64") - y) ** 2, axis=(1, 2, 3))


def per_image(values: Any) -> Any:
    """Reshape (n,) to (n, 1, 1, 1), to scale or to choose whole images."""
    return ops.reshape(values, (-1, 1, 1, 1))
