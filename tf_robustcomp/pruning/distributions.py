"""Distribute the schedule's sparsity over the variables."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.pruning.patterns import is_highest
from tf_robustcomp.pruning.plain import Plain
from tf_robustcomp.utils.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Distribution(Plain):
    """Base: sparsities of the pruned variables from the schedule's.

    A subclass states ``final``, the sparsities when the schedule ends at ``target``; until then all rise in proportion.
    """

    needs_scores = False  # whether `sparsities` looks at the weights

    def final(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Return the final sparsity of each variable, in [0, 1), for a final sparsity of ``target`` over all."""
        raise NotImplementedError

    def check(self, paths: Sequence[str]) -> None:
        """Refuse variables that the distribution was not made for.

        Raises:
            InvalidArgument: names what does not fit.
        """

    def ratios(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Return each variable's sparsity as a multiple of the schedule's."""
        finals = self.final(target, paths, shapes)
        for path, value in zip(paths, finals, strict=True):
            if not 0.0 <= value < 1.0:
                raise InvalidArgument(f"sparsity of {path} must lie in [0, 1). Received: {value}")
        if target == 0 and any(finals):
            raise InvalidArgument("schedule must end above sparsity 0 where the distribution does. Received: 0")
        return [value / target if target else 0.0 for value in finals]


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Uniform(Distribution):
    """The same sparsity for every variable.

    Example:
        >>> rc.prune(model, 0.9, distribution=rc.Uniform())  # the default
    """

    def final(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Return the target for all."""
        return [target] * len(paths)


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class ByPath(Distribution):
    """A sparsity for each pattern of paths; elsewhere the schedule's.

    Args:
        sparsities: mapping of regular expression, searched in the variable's path -> final sparsity in [0, 1); the
            first that matches counts.

    Example:
        >>> rc.DNS("adam", schedule, distribution={"conv1": 0.0, "dense": 0.95})
    """

    sparsities: dict

    def __post_init__(self):
        for pattern, value in self.sparsities.items():
            if not 0.0 <= value < 1.0:
                raise InvalidArgument(f"sparsity must lie in [0, 1). Received: {value} for {pattern!r}")

    def check(self, paths: Sequence[str]) -> None:
        """Check that every pattern matches a variable."""
        unused = [p for p in self.sparsities if not any(re.search(p, path) for path in paths)]
        if unused:
            raise InvalidArgument(
                f"distribution must match pruned variables only. Received: {unused[0]!r}, which matches none"
            )

    def final(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Return the sparsity of the first pattern that matches."""
        return [next((v for p, v in self.sparsities.items() if re.search(p, path)), target) for path in paths]


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class ERK(Distribution):
    """Erdos-Renyi-kernel: density in proportion to (sum of the axes) / (their product), the whole being exact.

    Small kernels stay denser (Mocanu et al. 2018, arXiv 1707.04780; Evci et al. 2020, arXiv 1911.11134).  Kernels
    that would be denser than 1 stay dense, and the others are cut more.

    Example:
        >>> rc.prune(model, 0.9, distribution=rc.ERK())  # or "erk"
    """

    def final(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Solve for the factor that meets the target."""
        if target == 0 or not paths:
            return [0.0] * len(paths)
        sizes = np.array([math.prod(shape) for shape in shapes], float)
        raw = np.array([sum(shape) / math.prod(shape) for shape in shapes])
        dense = np.zeros(len(shapes), bool)
        while True:
            rest = ~dense
            factor = ((1 - target) * sizes.sum() - sizes[dense].sum()) / (raw * sizes)[rest].sum()
            density = np.where(dense, 1.0, factor * raw)
            if not (density[rest] > 1).any():
                return [float(value) for value in 1 - density]
            dense |= density > 1


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Global(Distribution):
    """Cut the lowest scores of all variables together; of each variable the unit of highest score stays.

    Example:
        >>> rc.prune(model, 0.9, distribution=rc.Global())  # or "global"
    """

    needs_scores = True

    def final(self, target: float, paths: Sequence[str], shapes: Sequence[tuple]) -> list[float]:
        """Return the target for all, until there are scores."""
        return [target] * len(paths)

    def sparsities(self, target: Any, scores: list, sizes: list[int]) -> list:
        """Return the fraction of each variable below the common threshold.

        Args:
            target: scalar tensor.
            scores: list of (units,) tensors.
            sizes: list of int, weights of one unit of each.

        Returns:
            list of scalar tensors.
        """
        each = [ops.full(score.shape, size, dtype="int32") for score, size in zip(scores, sizes, strict=True)]
        highest = ops.concatenate([is_highest(score) for score in scores])
        order = ops.argsort(ops.where(highest, float("inf"), ops.concatenate(scores)))
        weights = ops.concatenate(each)
        whole = sum(size * score.shape[0] for size, score in zip(sizes, scores, strict=True))
        cut = ops.cast(ops.cumsum(ops.take(weights, order)), "float32") <= ops.round(target * whole)
        cut = ops.take(cut, ops.argsort(order))  # back to where the units are
        cut = ops.logical_and(cut, ops.logical_not(highest))
        shares, first = [], 0
        for score in scores:
            last = first + score.shape[0]
            shares.append(ops.mean(ops.cast(cut[first:last], "float32")))
            first = last
        return shares


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class LAMP(Global):
    """Global, by layer-adaptive scores: the square over the sum of the squares not smaller in the same variable.

    With magnitudes as scores that is layer-adaptive magnitude pruning (Lee et al. 2021, arXiv 2010.07611): each score
    is the share of a weight in what would be left of its layer.  Scores must not be negative.

    Example:
        >>> rc.prune(model, 0.9, distribution=rc.LAMP())  # or "lamp"
    """

    def sparsities(self, target: Any, scores: list, sizes: list[int]) -> list:
        """Return the fraction of each variable below the common threshold of its layer-adaptive scores."""
        return super().sparsities(target, [layer_adaptive(score) for score in scores], sizes)


def layer_adaptive(scores: Any) -> Any:
    """Return the layer-adaptive scores (units,) of scores (units,) >= 0; of equal ones the first comes first."""
    order = ops.argsort(scores)
    squares = ops.square(ops.take(scores, order))
    left = ops.flip(ops.cumsum(ops.flip(squares, axis=0)), axis=0)  # of it and of all that come after it
    shares = ops.where(left > 0, squares / ops.where(left > 0, left, ops.ones_like(left)), ops.zeros_like(left))
    return ops.take(shares, ops.argsort(order))


NAMES = {"uniform": Uniform, "erk": ERK, "global": Global, "lamp": LAMP}


def get(distribution: Any) -> Distribution:
    """Return a distribution from its name, a mapping of path pattern -> sparsity, an instance, or its config.

    Raises:
        InvalidArgument: none of these.
    """
    if isinstance(distribution, str) and distribution in NAMES:
        return NAMES[distribution]()
    if isinstance(distribution, dict):
        if "class_name" in distribution:
            return keras.saving.deserialize_keras_object(distribution)
        return ByPath(dict(distribution))
    if not isinstance(distribution, Distribution):
        raise InvalidArgument(
            f"distribution must be one of {', '.join(NAMES)}, a mapping of path pattern to sparsity, or a "
            f"Distribution. Received: {distribution!r}"
        )
    return distribution
