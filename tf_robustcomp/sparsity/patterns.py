"""Which weights live and die together: unstructured, N:M, blocks, channels."""

import dataclasses
import math

import keras
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity.plain import Plain


@dataclasses.dataclass(frozen=True)
class Pattern(Plain):
    """Base: cuts a variable's weights in units, those of least score first.

    A subclass gives ``pool`` and ``expand``; `select` is made of both.  It is immutable, of plain values.
    """

    def check(self, path, shape):
        """Refuse a variable that the pattern does not fit.

        Raises:
            InvalidArgument: names the variable.
        """

    def check_sparsity(self, path, sparsity):
        """Refuse a final sparsity of a variable that the pattern cannot have.

        Raises:
            InvalidArgument: names the variable.
        """

    def pool(self, values):
        """Means over the units: a variable's tensor -> (units,)."""
        raise NotImplementedError

    def pool_mask(self, mask):
        """The same for a mask, which is equal within each unit."""
        return self.pool(ops.cast(mask, "float32")) > 0.5

    def expand(self, units, shape):
        """Inverse of ``pool`` for values that are equal within each unit: (units,) -> the variable's shape."""
        raise NotImplementedError

    def count(self, shape):
        """Number of units of a variable of this shape."""
        raise NotImplementedError

    def select(self, scores, sparsity, bounded=True):
        """Mask without the lowest units: scores of a variable's shape, scalar sparsity -> bool of the same shape.

        Exactly ``round(sparsity * units)`` are cut; of equal ones the first in memory go first.  ``bounded=False``
        lets go more of them than the pattern leaves in the end, for rules that grow others in their place.
        """
        del bounded  # here the pattern leaves any number
        units = self.pool(scores)
        order = ops.argsort(ops.argsort(units))
        return self.expand(ops.cast(order, "float32") >= ops.round(sparsity * units.shape[0]), scores.shape)


class _Weights(Pattern):
    """Base: every weight is a unit."""

    def pool(self, values):
        """Nothing to pool."""
        return ops.reshape(values, (-1,))

    def pool_mask(self, mask):
        """Nothing to pool."""
        return ops.reshape(mask, (-1,))

    def expand(self, units, shape):
        """Nothing to expand."""
        return ops.reshape(units, shape)

    def count(self, shape):
        """All weights."""
        return math.prod(shape)


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Unstructured(_Weights):
    """Every weight by itself."""


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Channels(Pattern):
    """Whole channels.

    Args:
        axis: of the variable; the default, the last, is the output of dense layers and convolutions.  Transposed
            convolutions have theirs at -2.
    """

    axis: int = -1

    def check(self, path, shape):
        """The axis exists."""
        if not -len(shape) <= self.axis < len(shape):
            raise InvalidArgument(f"axis must be one of {path}, of shape {tuple(shape)}. Received: axis={self.axis}")

    def pool(self, values):
        """Mean of each channel."""
        kept = self.axis % len(values.shape)
        return ops.mean(values, axis=[axis for axis in range(len(values.shape)) if axis != kept])

    def expand(self, units, shape):
        """The same for every weight of a channel."""
        kept = self.axis % len(shape)
        along = [size if axis == kept else 1 for axis, size in enumerate(shape)]
        return ops.broadcast_to(ops.reshape(units, along), shape)

    def count(self, shape):
        """Channels."""
        return shape[self.axis]


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Blocks(Pattern):
    """Rectangles of the matrix of the last two axes (inputs, outputs).

    Args:
        rows: int >= 1, inputs of a block; must divide the last axis but one.
        columns: int >= 1, outputs of a block; must divide the last axis.
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self):
        if self.rows < 1 or self.columns < 1:
            raise InvalidArgument(f"rows and columns must be >= 1. Received: rows={self.rows}, columns={self.columns}")

    def check(self, path, shape):
        """The sides divide."""
        if len(shape) < 2 or shape[-2] % self.rows or shape[-1] % self.columns:
            raise InvalidArgument(
                f"blocks of {self.rows} x {self.columns} must divide the last two axes of every pruned variable. "
                f"Received: {path} of shape {tuple(shape)}"
            )

    def pool(self, values):
        """Mean of each block."""
        return ops.reshape(ops.mean(ops.reshape(values, self._split(values.shape)), axis=(-3, -1)), (-1,))

    def expand(self, units, shape):
        """The same for every weight of a block."""
        split = self._split(shape)
        blocks = ops.reshape(units, (*split[:-3], 1, split[-2], 1))
        return ops.reshape(ops.broadcast_to(blocks, split), shape)

    def count(self, shape):
        """Blocks."""
        return math.prod(shape) // (self.rows * self.columns)

    def _split(self, shape):
        *leading, rows, columns = shape
        return (*leading, rows // self.rows, self.rows, columns // self.columns, self.columns)


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class NM(_Weights):
    """At most N of every M consecutive weights along one axis stay (2:4: Mishra et al. 2021, arXiv 2104.08378).

    On the way ``round(s M)`` of each group are cut, never more than M - N: a schedule that ends at ``1 - N/M`` ends in
    N:M.

    Args:
        n: int, weights of a group that stay.
        m: int > n, weights of a group; must divide the axis.
        axis: of the variable; the default is the input of dense layers and convolutions (GPUs want this one).  It is
            -1 for transposed convolutions; kernels of EinsumDense and MultiHeadAttention have the axes of their
            equation, (input, heads, size) for queries: leave them out with ``include`` or give theirs an optimizer of
            their own.
    """

    n: int = 2
    m: int = 4
    axis: int = -2

    def __post_init__(self):
        if not 0 < self.n < self.m:
            raise InvalidArgument(f"n:m must be 0 < n < m. Received: n={self.n}, m={self.m}")

    def check(self, path, shape):
        """The groups divide the axis."""
        if not -len(shape) <= self.axis < len(shape) or shape[self.axis] % self.m:
            raise InvalidArgument(
                f"groups of {self.m} must divide axis {self.axis} of every pruned variable. Received: {path} of shape "
                f"{tuple(shape)}"
            )

    def check_sparsity(self, path, sparsity):
        """A whole number of each group goes, M - N at most."""
        cut = sparsity * self.m
        if abs(cut - round(cut)) > 1e-4 or round(cut) > self.m - self.n:
            raise InvalidArgument(
                f"with {self.n}:{self.m} a final sparsity must be a multiple of 1/{self.m}, at most "
                f"{1 - self.n / self.m:g}. Received: {sparsity:g} for {path}"
            )

    def select(self, scores, sparsity, bounded=True):
        """Mask without the lowest of each group: groups only bound how many weights go."""
        moved = ops.moveaxis(scores, self.axis, -1)
        groups = ops.reshape(moved, (-1, self.m))
        order = ops.cast(ops.argsort(ops.argsort(groups, axis=-1), axis=-1), "float32")
        cut = ops.round(sparsity * self.m)
        if bounded:
            cut = ops.minimum(cut, float(self.m - self.n))
        return ops.moveaxis(ops.reshape(order >= cut, moved.shape), -1, self.axis)


def get(pattern):
    """A pattern from None (unstructured), an instance, or the config of one.

    Raises:
        InvalidArgument: none of these.
    """
    if pattern is None:
        return Unstructured()
    if isinstance(pattern, dict):
        pattern = keras.saving.deserialize_keras_object(pattern)
    if not isinstance(pattern, Pattern):
        raise InvalidArgument(f"pattern must be Unstructured, NM, Blocks, Channels or None. Received: {pattern!r}")
    return pattern
