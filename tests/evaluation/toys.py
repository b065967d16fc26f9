"""Compressors whose worst cases are known in closed form."""

import numpy as np
from keras import ops

CENTRE = 0.5


def shrinking(factor):
    """f(x) = c + factor (x - c): distortion is k ||x - c||^2 with k = (1 - factor)^2."""
    return lambda images: CENTRE + factor * (images - CENTRE)


def gaussian_images(rng, count=40, deviation=0.02, side=4):
    """Images around c, so narrow that no worst case meets the borders of [0, 1]."""
    return np.clip(CENTRE + deviation * rng.normal(size=(count, side, side, 1)), 0, 1).astype("float32")


def blur(images):
    """A compressor that does not care how an image is turned by 90 degrees: it keeps only the mean."""
    return ops.ones_like(images) * ops.mean(images, axis=(1, 2, 3), keepdims=True)
