"""Pruning rules: subclasses of `PruningOptimizer` with one hook, the scores of the weights."""

import math
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend.randomness import StepSeed
from tf_robustcomp.pruning.context import StepContext
from tf_robustcomp.pruning.optimizer import PruningOptimizer
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register


@register("pruning rule", "magnitude")
class MagnitudePruning(PruningOptimizer):
    """Cut the smallest magnitudes, for good (Zhu, Gupta 2017, arXiv 1710.01878; the rule of tfmot).

    At every update of the schedule exactly ``round(s n)`` of a variable's ``n`` weights are zero, but never all, those
    of least magnitude; among equal ones the first in memory are cut first.  A cut weight stays cut while the sparsity
    rises.

    Example:
        >>> model.compile(rc.MagnitudePruning("adam", schedule, distribution="erk"), loss)
        >>> model.fit(images, labels, epochs=10)
    """

    keeps_dense_weights = False

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return magnitudes; cut weights score lowest."""
        return ops.where(mask, ops.abs(weights), -ops.ones_like(weights))


class SeededPruning(PruningOptimizer):
    """Base of rules whose random numbers are a function of (seed, step) alone."""

    def __init__(self, *args: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {**super().get_config(), "seed": self.seed}


@register("pruning rule", "random", uses={"seed": "surgery_seed"})
class RandomPruning(SeededPruning):
    """Cut weights at random, for good: the baseline that every rule should beat.

    Args:
        *args, **kwargs: see `PruningOptimizer`.
        seed: int.

    Example:
        >>> model.compile(rc.RandomPruning("adam", schedule, seed=1), loss)
        >>> model.fit(images, labels, epochs=10)
    """

    keeps_dense_weights = False

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return uniform random numbers; cut weights score lowest."""
        seed = StepSeed(self.seed, context.step, context.index)
        return ops.where(mask, keras.random.uniform(weights.shape, seed=seed), -ops.ones_like(weights))


@register("pruning rule", "movement")
class MovementPruning(PruningOptimizer):
    """Cut the weights that move towards zero (Sanh, Wolf, Rush 2020, arXiv 2005.07683).

    A weight's score is the sum over steps of ``-gradient * weight``: it rises while training moves the weight away
    from zero.  Cut weights keep collecting their score, so that they may come back.

    Example:
        >>> model.compile(rc.MovementPruning("adam", schedule), loss)
        >>> model.fit(images, labels, epochs=10)
    """

    has_state = True
    needs_gradient = True

    def observe(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Add this step's movement."""
        return context.state if context.gradient is None else context.state - context.gradient * weights

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return the sum of movements."""
        return context.state


@register("pruning rule", "rigl")
class RigL(PruningOptimizer):
    """Drop small weights, grow where the gradient is large (Evci et al. 2020, arXiv 1911.11134).

    At every update the weights in use of least magnitude are dropped, a fraction
    ``drop_fraction / 2 (1 + cos(pi t / last update))`` of those that the schedule leaves, and as many of the others, of
    largest gradient magnitude, grow from zero.  The paper uses a `ConstantSparsity`; a rising schedule prunes as well.

    Args:
        *args, **kwargs: see `PruningOptimizer`.
        drop_fraction: float in [0, 1), at the beginning; it stays constant without a last update.

    Example:
        >>> model.compile(rc.RigL("adam", rc.ConstantSparsity(0.9, 0, 1000, frequency=50), distribution="erk"), loss)
        >>> model.fit(images, labels, epochs=10)
    """

    keeps_dense_weights = False
    needs_gradient = True
    global_scores = False

    def __init__(self, *args: Any, drop_fraction: float = 0.3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0.0 <= drop_fraction < 1.0:
            raise InvalidArgument(f"drop_fraction must lie in [0, 1). Received: drop_fraction={drop_fraction}")
        self.drop_fraction = drop_fraction

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return the magnitudes of weights that stay, above the gradients of all others."""
        # One ranking does both: first drop the smallest weights in use, then what stays scores above 2, and the rest
        # competes by gradient, in [0, 1], for the places that the drop has freed.
        in_use = ops.where(mask, ops.abs(weights), -ops.ones_like(weights))
        dropped = context.sparsity + self._fraction(context.step) * (1.0 - context.sparsity)
        stays = ops.logical_and(mask, context.pattern.select(in_use, dropped, bounded=False))
        gradient = ops.zeros_like(weights) if context.gradient is None else ops.abs(context.gradient)
        return ops.where(stays, 2.0 + _scaled(ops.abs(weights)), _scaled(gradient))

    def _fraction(self, step):
        last = self.schedule.last_update_step
        if last <= 0:
            return self.drop_fraction
        progress = ops.clip(ops.cast(step, "float32") / last, 0.0, 1.0)
        return self.drop_fraction / 2 * (1.0 + ops.cos(math.pi * progress))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {**super().get_config(), "drop_fraction": self.drop_fraction}


def _scaled(values):
    """Scale to [0, 1], in the same order."""
    return values / (ops.max(values) + 1e-30)
