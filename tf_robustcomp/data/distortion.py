"""The distortion of images: the sum of squared errors."""

import itertools
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.utils.errors import InvalidArgument


def distortion(x: Any, y: Any) -> Any:
    """Return the sum of squared errors of each image, in float32 in every precision: (n, h, w, c) twice -> (n,).

    Raises:
        InvalidArgument: the shapes differ; broadcast images would give a number that means nothing.
    """
    shapes = [tuple(getattr(images, "shape", ())) for images in (x, y)]
    if any(a != b for a, b in itertools.zip_longest(*shapes, fillvalue=0) if None not in (a, b)):
        raise InvalidArgument(f"images and reconstructions must have one shape. Received: {shapes[0]} and {shapes[1]}")
    difference = ops.cast(x, "float32") - ops.cast(y, "float32")
    return ops.sum(ops.square(difference), axis=(1, 2, 3))


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of squared errors of each image in float64, for results: arrays (n, h, w, c) -> (n,)."""
    return np.sum((x.astype("float64") - y) ** 2, axis=(1, 2, 3))


def per_image(values: Any) -> Any:
    """Reshape (n,) to (n, 1, 1, 1), to scale or to choose whole images."""
    return ops.reshape(values, (-1, 1, 1, 1))
