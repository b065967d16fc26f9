"""Shift images: noise of a given norm, and rotation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def noise_deviation(rho: float, image_shape: Sequence[int]) -> float:
    """Return the standard deviation of Gaussian noise whose squared norm over an image is ``rho`` in the mean."""
    return math.sqrt(rho / math.prod(image_shape))


def noisy(images: np.ndarray, rho: float, seed: int = 0) -> np.ndarray:
    """Add Gaussian noise of mean squared norm ``rho``, and clip to [0, 1]: float32 (n, h, w, c) -> the same."""
    noise = np.random.default_rng(seed).normal(scale=noise_deviation(rho, images.shape[1:]), size=images.shape)
    return np.clip(images + noise, 0, 1).astype(np.float32)


def rotate(images: Any, angles: Any) -> Any:
    """Rotate images about their centre: nearest neighbour, zeros outside, positive = counter-clockwise.

    Equal to ``scipy.ndimage.rotate(order=0, reshape=False)`` except where a source point lies, to rounding, half way
    between two pixels or on the border; at multiples of 90 degrees of square images exactly ``numpy.rot90``.

    Args:
        images: tensor (n, h, w, c).
        angles: degrees, any real number: (n,), or a scalar for all.

    Returns:
        tensor (n, h, w, c), differentiable in ``images`` (each pixel of it is a copy of one, or zero).
    """
    images = ops.convert_to_tensor(images)
    height, width, channels = images.shape[1:]
    count = ops.shape(images)[0]
    cosine, sine = _cosine_and_sine(ops.broadcast_to(ops.cast(angles, "float32"), (count,)))
    down, right = np.meshgrid(_from_centre(height), _from_centre(width), indexing="ij")
    down, right = (ops.convert_to_tensor(offsets.ravel()) for offsets in (down, right))
    row, row_inside = _nearest(cosine * down + sine * right, height)
    column, column_inside = _nearest(cosine * right - sine * down, width)
    first = ops.expand_dims(ops.arange(count, dtype="int32") * (height * width), 1)
    pixels = ops.take(ops.reshape(images, (-1, channels)), first + row * width + column, axis=0)
    inside = ops.cast(ops.expand_dims(ops.logical_and(row_inside, column_inside), -1), images.dtype)
    return ops.reshape(pixels * inside, (-1, height, width, channels))


def angles_of_all_pictures(height: int, width: int) -> np.ndarray:
    """Return an angle for each picture that `rotate` can make of an image: there are finitely many.

    A rotated picture changes only where the source point of one of its pixels comes to lie half way between two pixels,
    or on the border.  Those angles solve r cos(angle - direction) = t; one angle is taken between each two of them.

    Args:
        height, width: of the image.

    Returns:
        array (k,) of degrees in [0, 360), rising.  Two changes that are less than 1e-9 degrees apart count as one.
    """
    down, right = (offsets.ravel() for offsets in np.meshgrid(*map(_from_centre, (height, width)), indexing="ij"))
    radius, changes = np.hypot(down, right).astype(float), [np.zeros(1)]
    # The source row is down cos + right sin, the source column right cos - down sin, both from the centre.
    for side, direction in ((height, np.arctan2(right, down)), (width, np.arctan2(-down, right))):
        for edge in (0.0, *np.arange(0.5, side - 1), side - 1.0):
            cosine = (edge - (side - 1) / 2) / np.maximum(radius, 1e-12)
            reached = np.abs(cosine) <= 1
            apart = np.arccos(cosine[reached])
            changes += [direction[reached] + apart, direction[reached] - apart]
    changed = np.unique(np.round(np.degrees(np.concatenate(changes)) % 360, 9))
    return (changed + np.append(changed[1:], changed[0] + 360)) / 2 % 360


def wrap(angles: Any) -> Any:
    """Return the same angles in [-180, 180) degrees."""
    return angles - 360.0 * ops.floor((angles + 180.0) / 360.0)


def _cosine_and_sine(degrees):
    """Each (n, 1), exactly 0 and +-1 at multiples of 90 degrees."""
    quarters = ops.round(degrees / 90.0)
    rest = (degrees - 90.0 * quarters) * (np.pi / 180.0)
    cosine, sine = ops.cos(rest), ops.sin(rest)
    quarter = quarters - 4.0 * ops.floor(quarters / 4.0)
    odd = ops.logical_or(quarter == 1.0, quarter == 3.0)
    cosine, sine = ops.where(odd, -sine, cosine), ops.where(odd, cosine, sine)
    sign = ops.expand_dims(ops.where(quarter >= 2.0, -1.0, 1.0), 1)
    return sign * ops.expand_dims(cosine, 1), sign * ops.expand_dims(sine, 1)


def _from_centre(side):
    return np.arange(side, dtype="float32") - np.float32((side - 1) / 2)


def _nearest(offset, side):
    """Source pixel of each point on one axis, clipped to the image, and whether the point was in the image."""
    position = offset + np.float32((side - 1) / 2)
    inside = ops.logical_and(position >= 0.0, position <= side - 1.0)
    return ops.clip(ops.cast(ops.floor(position + 0.5), "int32"), 0, side - 1), inside
