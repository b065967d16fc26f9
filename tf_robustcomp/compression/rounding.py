"""Ways to round latents, each with the bits that they count: in coding, in training, in a search."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_robustcomp.compression.integer_network import round_half_up, straight_through

# Bits that a squared error of a latent is worth at the step 1 of rounding, where the step is best: the slope of
# -log2(step) + WORTH * step^2 / 12 is 0 there.
WORTH = 6 / math.log(2)


class Rounding:
    """Rounds as a stream does, with the gradient of the identity."""

    def __call__(self, values: Any) -> Any:
        """Return rounded values."""
        return round_half_up(values)

    def bits(self, cost: Callable, values: Any, rounded: Any) -> Any:
        """Return the bits of values, each.

        Args:
            cost: the entropy model, a function of values.
            values: before rounding.
            rounded: what ``__call__`` made of them.
        """
        return cost(rounded)

    def table(self, index: Any) -> Any:
        """Return the index of the table that a real index stands for; attacks need its gradient."""
        return straight_through(index, ops.round(index))


class NoisyRounding(Rounding):
    """Counts the bits of values with uniform noise, as training does (Balle, Laparra, Simoncelli 2017).

    Args:
        seed: of the noise.
    """

    def __init__(self, seed: Any) -> None:
        self.seed = seed

    def bits(self, cost: Callable, values: Any, rounded: Any) -> Any:
        """Return the bits of noisy values."""
        return cost(values + keras.random.uniform(ops.shape(values), -0.5, 0.5, seed=self.seed))

    def table(self, index: Any) -> Any:
        """Return the real index."""
        return index


class SoftRounding(Rounding):
    """Rounds by the differentiable function of Agustsson and Theis (2020, arXiv 2006.09952), for a search.

    A value between two integers stands for one of them, at random in proportion, and counts as that does on average:
    the bits of both, and the distortion of its variance.  At the value itself the entropy model would call it nearly
    free where the distribution is narrow, and nothing would be distorted, so the search would end between integers.

    Args:
        sharpness: scalar; 0 is the identity, infinity is hard.
    """

    def __init__(self, sharpness: Any) -> None:
        self.sharpness = sharpness

    def __call__(self, values: Any) -> Any:
        """Return softly rounded values."""
        lower = ops.stop_gradient(ops.floor(values))
        slope = ops.tanh(self.sharpness * (values - lower - 0.5))
        return lower + 0.5 + slope / (2 * ops.tanh(0.5 * self.sharpness))

    def bits(self, cost: Callable, values: Any, rounded: Any) -> Any:
        """Return the bits of the two neighbouring integers, in proportion, and those that the variance is worth."""
        lower = ops.stop_gradient(ops.floor(rounded))
        share = rounded - lower
        return (1 - share) * cost(lower) + share * cost(lower + 1) + WORTH * share * (1 - share)
