"""Keep the encoder's promise: no image is further from its decoded form than a given distortion."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.utils.checks import check_positive

SWEEPS = 3  # over all latents
HOPELESS = 4.0  # images this many times above the bound are not searched: hardly one of them ever meets it
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

    A latent moves to one of its two neighbouring values at most in a sweep.  Trying all L values of each costs several
    times as many decodings, and on photographs it meets the bound on fewer images.

    Args:
        model: compressor.
        images: (n, h, w, c).
        symbols: (n, d of that stage), where it starts.
        bound: distortion at which an image is left alone.
        stage: of the code.
        first: latents before this one stay as they are.
        decode: function ``(model, symbols, stage)``.
        sweeps: int, passes over the latents at most.

    Returns:
        ``(symbols, distortion (n,))``, never worse than at the start.
    """
    symbols = symbols.copy()
    reached = squared_error(images, decode(model, symbols, stage))
    for _ in range(sweeps):
        before = reached.copy()
        for latent in range(first, symbols.shape[1]):
            rows = np.flatnonzero((reached > bound) & (reached < HOPELESS * bound))
            if not len(rows):
                return symbols, reached
            for move in (-1, 1):
                tried = symbols[rows]
                tried[:, latent] = np.clip(tried[:, latent] + move, 0, model.levels - 1)
                values = squared_error(images[rows], decode(model, tried, stage))
                better = values < reached[rows]
                symbols[rows[better]], reached[rows[better]] = tried[better], values[better]
                rows = rows[~better]
                if not len(rows):
                    break
        if np.all((reached >= before) | (reached <= bound)):
            break
    return symbols, reached
