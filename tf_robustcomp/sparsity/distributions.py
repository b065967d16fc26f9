"""How much of each variable goes, when the schedule says how much goes in all."""

import dataclasses
import math
import re

import keras
import numpy as np
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity.plain import Plain


@dataclasses.dataclass(frozen=True)
class Distribution(Plain):
    """Base: sparsities of the pruned variables from the schedule's.

    A subclass gives ``final``, the sparsities when the schedule's is ``target`` at last; on the way all rise in
    proportion.  Immutable, of plain values.
    """

    needs_scores = False  # whether `sparsities` looks at the weights

    def final(self, target, paths, shapes):
        """Sparsity of each variable for a whole of ``target``: list of floats in [0, 1)."""
        raise NotImplementedError

    def ratios(self, target, paths, shapes):
        """Each variable's sparsity as a multiple of the schedule's: list of floats."""
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
    """The same sparsity for every variable."""

    def final(self, target, paths, shapes):
        """All the same."""
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

    def final(self, target, paths, shapes):
        """By the first pattern that matches."""
        unused = [p for p in self.sparsities if not any(re.search(p, path) for path in paths)]
        if unused:
            raise InvalidArgument(
                f"distribution must match pruned variables only. Received: {unused[0]!r}, which matches none"
            )
        return [next((v for p, v in self.sparsities.items() if re.search(p, path)), target) for path in paths]


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class ERK(Distribution):
    """Erdos-Renyi-kernel: density in proportion to (sum of the axes) / (their product), the whole being exact.

    So small kernels stay denser (Mocanu et al. 2018, arXiv 1707.04780; Evci et al. 2020, arXiv 1911.11134).  Kernels
    that would be denser than 1 stay dense, and the others give more.
    """

    def final(self, target, paths, shapes):
        """Solve for the factor that meets the whole."""
        if target == 0:
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
    """The lowest scores of all variables together go, wherever they are: a variable may be cut whole."""

    needs_scores = True

    def final(self, target, paths, shapes):
        """What a uniform cut would give: the start for rules that have no scores yet."""
        return [target] * len(paths)

    def sparsities(self, target, scores, sizes):
        """Share of each variable below the common threshold.

        Args:
            target: scalar tensor.
            scores: list of (units,) tensors.
            sizes: list of int, weights of one unit of each.

        Returns:
            list of scalar tensors.
        """
        each = [ops.full(score.shape, size, dtype="int32") for score, size in zip(scores, sizes, strict=True)]
        order = ops.argsort(ops.concatenate(scores))
        weights = ops.concatenate(each)
        whole = sum(size * score.shape[0] for size, score in zip(sizes, scores, strict=True))
        cut = ops.cast(ops.cumsum(ops.take(weights, order)), "float32") <= ops.round(target * whole)
        cut = ops.take(cut, ops.argsort(order))  # back to where the units are
        shares, first = [], 0
        for score in scores:
            last = first + score.shape[0]
            shares.append(ops.mean(ops.cast(cut[first:last], "float32")))
            first = last
        return shares


NAMES = {"uniform": Uniform, "erk": ERK, "global": Global}


def get(distribution):
    """A distribution from its name, a mapping of path pattern -> sparsity, an instance, or the config of one.

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
