"""Units in which weights are cut: single weights, N:M groups, blocks, channels."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_robustcomp.pruning import roles
from tf_robustcomp.pruning.plain import Plain
from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument


def number_cut(sparsity: Any, units: int) -> Any:
    """Return ``round(sparsity * units)``, a float32 scalar, but never all below sparsity 1: a layer stays."""
    sparsity = ops.convert_to_tensor(sparsity, "float32")
    most = ops.where(sparsity >= 1.0, float(units), float(units - 1))
    return ops.minimum(ops.round(sparsity * units), most)


def is_highest(scores: Any) -> Any:
    """Return a mask (units,) of the first highest score, which of a layer is cut last."""
    return ops.equal(ops.arange(scores.shape[0]), ops.cast(ops.argmax(scores), "int32"))


@dataclasses.dataclass(frozen=True)
class Pattern(Plain):
    """Base: cuts a variable's weights in units, those of lowest score first.

    A subclass states ``pool`` and ``expand``; `select` uses both.
    """

    def of(self, variable: Any) -> "Pattern":
        """Return the pattern for one variable, its axes those of the variable's layer where none were given."""
        return self

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Refuse a variable that the pattern does not fit.

        Raises:
            InvalidArgument: names the variable.
        """

    def check_sparsity(self, path: str, sparsity: float) -> None:
        """Refuse a final sparsity of a variable that the pattern cannot have.

        Raises:
            InvalidArgument: names the variable.
        """

    def pool(self, values: Any) -> Any:
        """Return the means (units,) of a variable's tensor over its units."""
        raise NotImplementedError

    def pool_mask(self, mask: Any) -> Any:
        """Return the mask (units,) of a variable's mask, which is equal within each unit."""
        return self.pool(ops.cast(mask, "float32")) > 0.5

    def expand(self, units: Any, shape: Sequence[int]) -> Any:
        """Return values (units,) spread over a variable's shape."""
        raise NotImplementedError

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of units of a variable of this shape."""
        raise NotImplementedError

    def number_cut(self, sparsity: Any, units: int) -> Any:
        """Return how many of ``units`` are cut, a float32 scalar."""
        return number_cut(sparsity, units)

    def select(self, scores: Any, sparsity: Any, bounded: bool = True) -> Any:
        """Return the mask of a variable without its units of lowest score.

        `number_cut` says how many are cut; of equal ones the first in memory are cut first.  ``bounded=False`` may cut
        more than the pattern allows, for rules that grow others in their place.
        """
        del bounded  # here the pattern leaves any number
        units = self.pool(scores)
        order = ops.argsort(ops.argsort(units))
        return self.expand(ops.cast(order, "float32") >= self.number_cut(sparsity, units.shape[0]), scores.shape)


class _Weights(Pattern):
    """Base: every weight is a unit."""

    def pool(self, values: Any) -> Any:
        """Return every weight."""
        return ops.reshape(values, (-1,))

    def pool_mask(self, mask: Any) -> Any:
        """Return every weight."""
        return ops.reshape(mask, (-1,))

    def expand(self, units: Any, shape: Sequence[int]) -> Any:
        """Return the weights in their shape."""
        return ops.reshape(units, shape)

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of weights."""
        return math.prod(shape)


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Unstructured(_Weights):
    """Single weights.

    Example:
        >>> rc.prune(model, 0.5, pattern=rc.Unstructured())  # the default
    """


@dataclasses.dataclass(frozen=True)
class ChannelUnits(_Weights):
    """Groups of coupled channels, one number for each.

    Args:
        round_to: as many stay as is a multiple of it, or all.
    """

    round_to: int = 1

    def number_cut(self, sparsity: Any, units: int) -> Any:
        """Return how many are cut so that a multiple of ``round_to`` stays."""
        return rounded(number_cut(sparsity, units), units, self.round_to)


def rounded(cut: Any, units: int, round_to: int) -> Any:
    """Return at most ``cut`` of ``units``, so that a multiple of ``round_to`` is left, or all."""
    left = ops.ceil((units - cut) / round_to) * round_to
    return units - ops.minimum(left, float(units))


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Channels(Pattern):
    """Whole channels.

    Coupled ones make a model smaller: channels that only go together (the branches of an Add, a convolution and the
    depthwise one behind it) get one score, and where they go the weights that give them and those that read them are
    cut.  `rc.shrink` takes them out.  Sparsities are then fractions of channels, and inputs and outputs of the model
    stay whole.  The model must be functional or Sequential.

    Args:
        axis: of the variable, or several, each combination of which is a channel.  None: the output channels of the
            variable's layer, by its class (`roles.output_axes`): the last axis of dense layers and convolutions, the
            last but one of transposed convolutions, the last two of depthwise kernels, those that the output of an
            EinsumDense has; of a variable without a layer the last.
        coupled: whether channels are coupled over all layers; then ``axis`` must be None.
        round_to: int >= 1; as many channels stay as is a multiple of it, or all.
        aggregate: of coupled channels: a group's score is the "mean" over its places in all kernels of their mean
            scores there, the "sum" over all its weights, or the mean after each kernel's scores are divided by their
            2-norm, "norm".
        keep_residual: of coupled channels: whether those that an Add gives stay whole, so that only channels inside of
            residual blocks are cut.  Sparsities are then fractions of the channels that are left to cut.

    Example:
        >>> rc.prune(model, 0.5, pattern=rc.Channels(coupled=True, keep_residual=True))
        >>> small = rc.shrink(model)
    """

    axis: int | Sequence[int] | None = None
    coupled: bool = False
    round_to: int = 1
    aggregate: str = "mean"
    keep_residual: bool = False

    def __post_init__(self):
        check_at_least("round_to", self.round_to, 1)
        check_choice("aggregate", self.aggregate, ("mean", "sum", "norm"))
        if self.coupled and self.axis is not None:
            raise InvalidArgument(f"axis must be None for coupled channels. Received: axis={self.axis}")
        if self.keep_residual and not self.coupled:
            raise InvalidArgument("keep_residual must go with coupled=True. Received: coupled=False")
        if isinstance(self.axis, list):  # as JSON gives it back
            object.__setattr__(self, "axis", tuple(self.axis))

    def of(self, variable: Any) -> "Channels":
        """Return the pattern with the axes of the variable's layer."""
        is_given = self.coupled or self.axis is not None
        return self if is_given else dataclasses.replace(self, axis=roles.output_axes(variable))

    def number_cut(self, sparsity: Any, units: int) -> Any:
        """Return how many channels are cut so that a multiple of ``round_to`` stays."""
        return rounded(number_cut(sparsity, units), units, self.round_to)

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Check that the axes exist."""
        if not all(-len(shape) <= axis < len(shape) for axis in self._axes()):
            raise InvalidArgument(f"axis must be one of {path}, of shape {tuple(shape)}. Received: axis={self.axis}")

    def pool(self, values: Any) -> Any:
        """Return the mean of each channel."""
        along = self._along(values.shape)
        return ops.reshape(ops.mean(values, axis=[axis for axis, size in enumerate(along) if size is None]), (-1,))

    def expand(self, units: Any, shape: Sequence[int]) -> Any:
        """Return one value for all weights of a channel."""
        return ops.broadcast_to(ops.reshape(units, [size or 1 for size in self._along(shape)]), shape)

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of channels."""
        return math.prod(size for size in self._along(shape) if size is not None)

    def _axes(self):
        return (-1 if self.axis is None else self.axis,) if isinstance(self.axis, int | None) else self.axis

    def _along(self, shape):
        """The sizes of a shape along the channels' axes, None elsewhere."""
        kept = {axis % len(shape) for axis in self._axes()}
        return [size if axis in kept else None for axis, size in enumerate(shape)]


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class Blocks(Pattern):
    """Rectangles of the matrix of the last two axes (inputs, outputs).

    Args:
        rows: int >= 1, inputs of a block; must divide the last axis but one.
        columns: int >= 1, outputs of a block; must divide the last axis.

    Example:
        >>> rc.prune(model, 0.5, pattern=rc.Blocks(4, 4), include="dense/kernel")
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self):
        if self.rows < 1 or self.columns < 1:
            raise InvalidArgument(f"rows and columns must be >= 1. Received: rows={self.rows}, columns={self.columns}")

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Check that the sides divide the axes."""
        if len(shape) < 2 or shape[-2] % self.rows or shape[-1] % self.columns:
            raise InvalidArgument(
                f"blocks of {self.rows} x {self.columns} must divide the last two axes of every pruned variable. "
                f"Received: {path} of shape {tuple(shape)}"
            )

    def pool(self, values: Any) -> Any:
        """Return the mean of each block."""
        return ops.reshape(ops.mean(ops.reshape(values, self._split(values.shape)), axis=(-3, -1)), (-1,))

    def expand(self, units: Any, shape: Sequence[int]) -> Any:
        """Return one value for all weights of a block."""
        split = self._split(shape)
        blocks = ops.reshape(units, (*split[:-3], 1, split[-2], 1))
        return ops.reshape(ops.broadcast_to(blocks, split), shape)

    def count(self, shape: Sequence[int]) -> int:
        """Return the number of blocks."""
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
        axis: of the variable.  None: the last input axis of its layer, by its class (`roles.input_axis`), which GPUs
            want: the last but one of dense layers and convolutions, the last of transposed convolutions, the one that
            an EinsumDense sums over; of a variable without a layer the last but one.

    Example:
        >>> rc.prune(model, 0.5, pattern=rc.NM(2, 4), include="dense/kernel")  # two of four inputs stay
    """

    n: int = 2
    m: int = 4
    axis: int | None = None

    def __post_init__(self):
        if not 0 < self.n < self.m:
            raise InvalidArgument(f"n:m must be 0 < n < m. Received: n={self.n}, m={self.m}")

    def of(self, variable: Any) -> "NM":
        """Return the pattern along the input axis of the variable's layer."""
        return dataclasses.replace(self, axis=roles.input_axis(variable)) if self.axis is None else self

    def check(self, path: str, shape: Sequence[int]) -> None:
        """Check that the groups divide the axis."""
        axis = self._axis()
        if not -len(shape) <= axis < len(shape) or shape[axis] % self.m:
            raise InvalidArgument(
                f"groups of {self.m} must divide axis {axis} of every pruned variable. Received: {path} of shape "
                f"{tuple(shape)}"
            )

    def check_sparsity(self, path: str, sparsity: float) -> None:
        """Check that a whole number of each group is cut, at most M - N."""
        cut = sparsity * self.m
        if abs(cut - round(cut)) > 1e-4 or round(cut) > self.m - self.n:
            raise InvalidArgument(
                f"with {self.n}:{self.m} a final sparsity must be a multiple of 1/{self.m}, at most "
                f"{1 - self.n / self.m:g}. Received: {sparsity:g} for {path}"
            )

    def select(self, scores: Any, sparsity: Any, bounded: bool = True) -> Any:
        """Return the mask without the weights of lowest score of each group."""
        moved = ops.moveaxis(scores, self._axis(), -1)
        groups = ops.reshape(moved, (-1, self.m))
        order = ops.cast(ops.argsort(ops.argsort(groups, axis=-1), axis=-1), "float32")
        cut = ops.round(sparsity * self.m)
        if bounded:
            cut = ops.minimum(cut, float(self.m - self.n))
        return ops.moveaxis(ops.reshape(order >= cut, moved.shape), -1, self._axis())

    def _axis(self):
        return -2 if self.axis is None else self.axis


def get(pattern: Any) -> Pattern:
    """Return a pattern from None (unstructured), an instance, or its config.

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
