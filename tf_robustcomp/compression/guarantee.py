"""Keep the encoder's promise: no image is further from its decoded form than a given distortion."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders import CodeSearch, Encoder, SearchEncoder
from tf_robustcomp.compression.symbols import decode_all, encode_all
from tf_robustcomp.utils.checks import check_positive

HOPELESS = 4.0  # images this many times above the bound are not searched: hardly one of them ever meets it
ROUNDING = 1e-3  # fraction of the bound kept in reserve: another machine's decoder may differ in the last bits


def choose(
    model: Any, images: np.ndarray, max_distortion: float, encoder: Encoder | None = None, decode: Callable = decode_all
) -> tuple[np.ndarray, np.ndarray]:
    """Return symbols and kind of each image, such that its distortion is at most ``max_distortion``.

    In this order, the first that meets the bound: the network's code of stage 1; the code that the encoder finds; the
    same for each later stage; storing the image losslessly.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        max_distortion: float > 0, sum of squared errors of an image.
        encoder: looks for codes of images whose network's code is further away than that; default: steps on single
            symbols.
        decode: function ``(model, symbols, stage)`` that returns images as they count for the bound.

    Returns:
        ``(symbols (n, d), kinds (n,) uint8)``: a kind is the stage, or 0 for stored.
    """
    bound = check_positive("max_distortion", max_distortion) * (1 - ROUNDING)
    encoder = encoder or SearchEncoder(gradient_steps=0)
    encoder.check(model)
    symbols = encode_all(model, images)
    kinds = np.zeros(len(images), np.uint8)
    for stage in range(1, model.stages + 1):
        width, before = model.stage_width(stage), model.stage_width(stage - 1)
        rows = np.flatnonzero(kinds == 0)
        if not len(rows):
            break
        search = CodeSearch(
            model,
            images[rows],
            symbols[rows, :width],
            stage,
            first=before,
            enough=bound,
            hopeless=HOPELESS * bound,
            budget=encoder.budget,
            decode=decode,
        )
        encoder.improve(search)
        met = search.distortion <= bound
        symbols[rows[met], :width] = search.symbols[met]
        kinds[rows[met]] = stage
    return symbols, kinds
