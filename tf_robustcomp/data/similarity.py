"""Multi-scale structural similarity of images, with a gradient."""

import math
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.utils.errors import InvalidArgument

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales (Wang, Simoncelli, Bovik 2003)
WINDOW = 11  # pixels of a side
DEVIATION = 1.5  # of the window's weights, in pixels
STABLE = (0.01**2, 0.03**2)  # constants of luminance and of contrast, for images in [0, 1]
LEAST = 1e-4  # below it a scale's similarity counts as this: its power has no gradient at 0


def scale_weights(size: tuple[int, int]) -> np.ndarray:
    """Return the weights of the scales for images of a size (h, w), with sum 1.

    Small images have fewer than five scales: as many as leave the window whole; none below 11 pixels.
    """
    scales = int(math.log2(max(min(size) / WINDOW, 0.5))) + 1 if min(size) >= WINDOW else 0
    weights = np.array(WEIGHTS[:scales])
    return weights / weights.sum()


def ms_ssim(x: Any, y: Any) -> Any:
    """Return the multi-scale structural similarity (n,) of images (n, h, w, c) in [0, 1], at most 1, with a gradient.

    Raises:
        InvalidArgument: a side has less than 11 pixels.
    """
    weights = scale_weights(tuple(x.shape[1:3]))
    if not len(weights):
        raise InvalidArgument(f"MS-SSIM needs sides of {WINDOW} pixels. Received: shape {tuple(x.shape)}")
    product = 1.0
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _half(x), _half(y)
        luminance, contrast = _similarity(x, y)
        of_scale = luminance * contrast if scale == len(weights) - 1 else contrast
        product = product * ops.maximum(ops.mean(of_scale, axis=(1, 2)), LEAST) ** float(weight)
    return ops.mean(product, axis=-1)


def _similarity(x, y):
    """Luminance and contrast terms at every place of the window: each (n, h - 10, w - 10, c)."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    product, squares = mean_x * mean_y, ops.square(mean_x) + ops.square(mean_y)
    luminance = (2 * product + STABLE[0]) / (squares + STABLE[0])
    covariance, variances = _windowed(x * y) - product, _windowed(ops.square(x) + ops.square(y)) - squares
    return luminance, (2 * covariance + STABLE[1]) / (variances + STABLE[1])


def _windowed(x):
    """Means over the window, row by row, then column by column."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (places / DEVIATION) ** 2)
    kernel = np.tile((weights / weights.sum()).astype("float32")[:, None, None, None], (1, 1, x.shape[-1], 1))
    for turned in (kernel, kernel.swapaxes(0, 1)):
        x = ops.depthwise_conv(x, ops.convert_to_tensor(turned), padding="valid")
    return x


def _half(x):
    """Images of half the size, means of 2 x 2 pixels; an odd side's last one counts twice."""
    rows, columns = (length % 2 for length in x.shape[1:3])
    if rows or columns:
        x = ops.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="symmetric")
    return ops.average_pool(x, 2, padding="valid")
