"""Keep the encoder's promise: no image is further from its decoded form than a given distortion."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.utils.checks import check_positive

SWEEPS = 2  # over all latents
HOPELESS = 4.0  # images this many times above the bound after a sweep are not searched further
ROUNDING = 1e-3  # fraction of the bound kept in reserve: another machine's decoder may differ in the last bits


def choose(
    model: Any, images: np.ndarray, max_distortion: float, encode: Callable, decode: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """Return symbols and kind of each image, such that its distortion is at most ``max_distortion``.

    In this order, the first that meets the bound: the learned code of stage 1; a code near it, found by `search`; the
    same for each later stage; storing the image losslessly.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        max_distortion: float > 0, sum of squared errors of an image.
        encode, decode: functions ``(model, images, stage)`` and ``(model, symbols, stage)`` for any number of images.

    Returns:
        ``(symbols (n, d), kinds (n,) uint8)``: a kind is the stage, or 0 for stored.
    """
    bound = check_positive("max_distortion", max_distortion) * (1 - ROUNDING)
    symbols = encode(model, images)
    kinds = np.zeros(len(images), np.uint8)
    for stage in range(1, model.stages + 1):
        width, before = model.stage_width(stage), model.stage_width(stage - 1)
        rows = np.flatnonzero(kinds == 0)
        if not len(rows):
            break
        found, reached = search(model, images[rows], symbols[rows, :width], bound, stage, before, decode)
        met = reached <= bound
        symbols[rows[met], :width] = found[met]
        kinds[rows[met]] = stage
    return symbols, kinds


def search(
    model: Any,
    images: np.ndarray,
    symbols: np.ndarray,
    bound: float,
    stage: int,
    first: int,
    decode: Callable,
    sweeps: int = SWEEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower the distortion by coordinate descent on the symbols, all images at once, until each meets the bound.

    Args:
        model: compressor.
        images: (n, h, w, c).
        symbols: (n, d of that stage), where it starts.
        bound: distortion at which an image is left alone.
        stage: of the code.
        first: latents before this one stay as they are.
        decode: function ``(model, symbols, stage)``.
        sweeps: int, passes over the latents at most; each tries every value of each latent.

    Returns:
        ``(symbols, distortion (n,))``, never worse than at the start.
    """
    symbols = symbols.copy()
    reached = squared_error(images, decode(model, symbols, stage))
    for sweep in range(sweeps):
        before = reached.copy()
        for latent in range(first, symbols.shape[1]):
            rows = np.flatnonzero((reached > bound) & ((sweep == 0) | (reached < HOPELESS * bound)))
            if not len(rows):
                return symbols, reached
            tried = np.repeat(symbols[rows], model.levels, axis=0)
            tried[:, latent] = np.tile(np.arange(model.levels, dtype=symbols.dtype), len(rows))
            originals = np.repeat(images[rows], model.levels, axis=0)
            values = squared_error(originals, decode(model, tried, stage)).reshape(len(rows), model.levels)
            best = values.argmin(axis=1)
            better = values.min(axis=1) < reached[rows]
            symbols[rows[better], latent] = best[better]
            reached[rows[better]] = values.min(axis=1)[better]
        if np.all((reached >= before) | (reached <= bound)):
            break
    return symbols, reached
