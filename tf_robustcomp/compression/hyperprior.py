"""Codecs for photographs whose latents have a factorised prior, or a hyperprior."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import without_gradients
from tf_robustcomp.coding import integer_symbols
from tf_robustcomp.compression.entropy_layers import EntropyBottleneck, GaussianConditional
from tf_robustcomp.compression.integer_network import (
    ACTIVATION_BITS,
    IntegerParameters,
)
from tf_robustcomp.compression.latent_code import Code, coarse
from tf_robustcomp.compression.latent_codec import LatentCodec
from tf_robustcomp.compression.rounding import Rounding
from tf_robustcomp.compression.transforms import BLOCK, HyperAnalysis
from tf_robustcomp.utils.checks import check_at_least

UNIT = 2.0**-ACTIVATION_BITS  # of the integers that stand for means and latents
STRIP = 64  # rows of latents at a time


@keras.saving.register_keras_serializable("tf_robustcomp")
class FactorizedPrior(LatentCodec):
    """Latents under a factorised prior (Balle, Laparra, Simoncelli 2017, arXiv 1611.01704), at any rate.

    Tables are per channel and alike at all qualities, so one rate is best; `MeanScaleHyperprior` costs little more.

    Args:
        latents, widths, blocks, channels, lambdas: see `LatentCodec`.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Example:
        >>> model = rc.FactorizedPrior(latents=96, lambdas=(0.01, 0.01))
        >>> model.compile("adam")
        >>> model.fit(crops, epochs=10)
        >>> data = model.fit_entropy_model().compress(photographs)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prior = EntropyBottleneck(name="prior")
        self.prior.build((None, None, None, self.latents))
        self.build(None)

    def unrounded(self, y: Any) -> tuple[Any, ...]:
        """Return the latents."""
        return (y,)

    def rounded(self, latents: tuple[Any, ...], step: Any, rounding: Rounding) -> tuple[Any, Any]:
        """Return ``(rounded latents, bits of each image (n,))``."""
        (y,) = latents
        decoded = ops.clip(rounding(y), -self.prior.LARGEST, self.prior.LARGEST)
        return decoded, _total(rounding.bits(self.prior, y, decoded))

    def symbols(self, latents: tuple[Any, ...], step: Any) -> tuple[np.ndarray, ...]:
        """Return the rounded latents."""
        return (self.prior.rounded(latents[0]),)

    def push(self, stack: integer_symbols.Stack, code: Code) -> None:
        """Add the symbols to a stack."""
        self.prior.push(stack, code.symbols[0])

    def pull(self, coder: Any, grid: tuple[int, int, int], step: Any) -> tuple[np.ndarray, ...]:
        """Return the symbols of (n, rows, columns) latents."""
        return (self.prior.pull(coder, grid),)

    def restored(self, symbols: tuple[np.ndarray, ...], step: Any) -> np.ndarray:
        """Return the rounded latents."""
        return symbols[0].astype(np.float32)

    def least_bits(self, grid: tuple[int, int, int]) -> float:
        """Return the bits that the symbols of (n, rows, columns) latents take at least."""
        return math.prod(grid) * self.prior.least_bits()

    def fit_entropy_model(self) -> "FactorizedPrior":
        """Make the integer tables of ``compress``."""
        self.prior.make_tables()
        return self


@keras.saving.register_keras_serializable("tf_robustcomp")
class MeanScaleHyperprior(LatentCodec):
    """Latents under normal distributions whose means and scales are coded, too (Minnen, Balle, Toderici 2018).

    ::

        y --HyperAnalysis--> z --round, EntropyBottleneck--> bytes
        z --IntegerParameters--> mean, scale of y at the white places of a checkerboard --> bytes
        z, white y --IntegerParameters--> mean, scale of y at the black places          --> bytes

    `IntegerParameters` computes in exact integers, so that encoder and decoder agree on every machine.

    Args:
        latents, widths, blocks, channels, lambdas: see `LatentCodec`.
        hyper_widths: three ints, channels of the hyper-analysis; the last is that of z, at 1/64 of the resolution.
        parameters_width: int >= 1, channels of the features that means and scales follow from.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Example:
        >>> model = rc.MeanScaleHyperprior(widths=(32, 48, 64), latents=96)
        >>> model.compile(rc.Adam(1e-3), adversary=rc.WassersteinBall(gamma=1.0))
        >>> model.fit(crops, epochs=10)
        >>> data = model.fit_entropy_model().compress(photographs, target_bpp=0.75)
        >>> model.decompress(data)
    """

    side = 4 * BLOCK

    def __init__(
        self,
        *args: Any,
        hyper_widths: Sequence[int] = (96, 96, 64),
        parameters_width: int = 96,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.hyper_widths = tuple(check_at_least("hyper_widths", width, 1) for width in hyper_widths)
        self.parameters_width = check_at_least("parameters_width", parameters_width, 1)
        self.hyper = HyperAnalysis(self.latents, self.hyper_widths, dtype=self.dtype_policy, name="hyper")
        self.predictor = IntegerParameters(self.latents, self.parameters_width, name="predictor")
        self.prior = EntropyBottleneck(name="prior")
        self.gaussian = GaussianConditional(name="gaussian")
        self.hyper.build((None, None, None, self.latents))
        for layer in (self.predictor, self.prior, self.gaussian):
            layer.build((None, None, None, self.hyper_widths[-1]))
        self._start_scales(np.ones(self.latents))
        self.build(None)

    def _start_scales(self, scales):
        low, high = self.lambdas
        index = np.log(np.maximum(scales, self.gaussian.SCALES[0]) / self.gaussian.SCALES[0]) / self.gaussian.STEP
        self.predictor.start(index, math.log(high / low) / 2 / self.gaussian.STEP)

    def unrounded(self, y: Any) -> tuple[Any, ...]:
        """Return ``(latents, hyper-latents)``."""
        return y, self.hyper(y)

    def rounded(self, latents: tuple[Any, ...], step: Any, rounding: Rounding) -> tuple[Any, Any]:
        """Return ``(rounded latents, bits of each image (n,))``."""
        y, z = latents
        hyper = ops.clip(rounding(z), -self.prior.LARGEST, self.prior.LARGEST)
        features = self.predictor.features(hyper)
        white = _white(y.shape[1:3])
        mean, scale = self.predictor.parameters(features, ops.zeros_like(features), step)
        first = (rounding(y - mean * UNIT) + mean * UNIT) * white
        mean_2, scale_2 = self.predictor.parameters(features, self.predictor.context(first / UNIT), step)
        mean, scale = mean * white + mean_2 * (1 - white), scale * white + scale_2 * (1 - white)
        decoded = rounding(y - mean * UNIT) + mean * UNIT
        index = rounding.table(self.gaussian.index(scale))
        residual = y - mean * UNIT
        bits = rounding.bits(lambda values: self.gaussian(values, index), residual, decoded - mean * UNIT)
        return decoded, _total(bits) + _total(rounding.bits(self.prior, z, hyper))

    def symbols(self, latents: tuple[Any, ...], step: Any) -> tuple[np.ndarray, ...]:
        """Return the hyper-latents, and the latents less their means, rounded."""
        y, z = latents[0], self.prior.rounded(latents[1])
        residual = np.zeros(y.shape, np.int32)
        for (mean, _), places in self._passes(z, residual, step):
            for rows in _strips(residual.shape[1]):
                own = places[:, rows]
                nearest = np.floor(y[:, rows][own] - np.float32(UNIT) * mean[:, rows][own] + np.float32(0.5))
                residual[:, rows][own] = self.gaussian.clipped(nearest)
        return z, residual

    def push(self, stack: integer_symbols.Stack, code: Code) -> None:
        """Add the symbols to a stack: the hyper-latents, the white places, the black places."""
        z, residual = code.symbols
        self.prior.push(stack, z)
        for (_, index), places in self._passes(z, residual, coarse(code.steps)):
            for rows in _strips(residual.shape[1]):
                own = places[:, rows]
                stack.add(residual[:, rows][own].ravel(), index[:, rows][own].ravel(), self.gaussian.rows)

    def pull(self, coder: Any, grid: tuple[int, int, int], step: Any) -> tuple[np.ndarray, ...]:
        """Return the symbols of (n, rows, columns) latents."""
        z = self.prior.pull(coder, (grid[0], grid[1] // 4, grid[2] // 4))
        residual = np.zeros((*grid, self.latents), np.int32)
        for (_, index), places in self._passes(z, residual, coarse(step)):
            for rows in _strips(residual.shape[1]):
                own = places[:, rows]
                found = integer_symbols.take(coder, index[:, rows][own].ravel(), self.gaussian.rows)
                residual[:, rows][own] = found.reshape(-1, self.latents)
        return z, residual

    def restored(self, symbols: tuple[np.ndarray, ...], step: Any) -> np.ndarray:
        """Return the rounded latents."""
        z, residual = symbols
        latents = np.empty(residual.shape, np.float32)
        for (mean, _), places in self._passes(z, residual, step):
            for rows in _strips(residual.shape[1]):
                own = places[:, rows]
                latents[:, rows][own] = residual[:, rows][own] + np.float32(UNIT) * mean[:, rows][own]
        return latents

    def least_bits(self, grid: tuple[int, int, int]) -> float:
        """Return the bits that the symbols of (n, rows, columns) latents take at least."""
        return math.prod(grid) / 16 * self.prior.least_bits()

    def fit_entropy_model(self) -> "MeanScaleHyperprior":
        """Make the integer tables of ``compress``, and settle the network that selects them."""
        self.predictor.settle()
        self.prior.make_tables()
        self.gaussian.make_tables()
        return self

    def _passes(self, z, residual, step):
        """For the white places, then the black: ``((mean, index of the table), the places)``.

        Means are in 2^-4.  The residual of the white places must be there when the black ones are asked for.  Large
        images go strip by strip, which changes no integer.
        """
        with without_gradients():
            features = ops.convert_to_numpy(self.predictor.features(ops.convert_to_tensor(z.astype(np.float32))))
        rows, columns = features.shape[1:3]
        white = np.broadcast_to(np.indices((rows, columns)).sum(axis=0) % 2 == 0, features.shape[:3])
        mean = np.zeros(residual.shape, np.int16)
        index = np.zeros(residual.shape, np.uint8)
        for places in (white, ~white):
            for here in _strips(rows):
                context = np.zeros_like(features[:, here])
                with without_gradients():
                    if places is not white:
                        context = self._context(residual, mean, white, here)
                    found = self.predictor.parameters(ops.convert_to_tensor(features[:, here]), context, step)
                own = places[:, here]
                mean[:, here][own] = ops.convert_to_numpy(found[0])[own]
                index[:, here][own] = self.gaussian.table_index(ops.convert_to_numpy(found[1])[own])
            yield (mean, index), places

    def _context(self, residual, mean, white, rows):
        """Features of the known places around the places in a strip of rows."""
        first, last = max(rows.start - 2, 0), min(rows.stop + 2, residual.shape[1])
        known = residual[:, first:last] * np.float32(1 / UNIT) + mean[:, first:last]
        known[~white[:, first:last]] = 0
        found = self.predictor.context(ops.convert_to_tensor(known.astype(np.float32)))
        return found[:, rows.start - first : rows.stop - first]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("hyper_widths", "parameters_width")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _total(bits):
    return ops.sum(bits, axis=(1, 2, 3))


def _strips(rows):
    """Slices of rows of latents, that little memory is taken at a time."""
    return [slice(first, min(first + STRIP, rows)) for first in range(0, rows, STRIP)]


def _white(size):
    """A checkerboard (1, h, w, 1) of 1 and 0 that begins with 1, float32."""
    rows, columns = np.indices(size)
    return ops.convert_to_tensor(((rows + columns) % 2 == 0).astype(np.float32)[None, ..., None])
