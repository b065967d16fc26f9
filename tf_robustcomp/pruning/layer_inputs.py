"""Kernels as matrices, and the inputs of their layers, seen while a model runs on data."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.gradients import is_concrete
from tf_robustcomp.pruning import roles
from tf_robustcomp.utils.errors import InvalidArgument

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@dataclasses.dataclass(frozen=True)
class KernelMatrix:
    """A kernel as matrices (groups, inputs, outputs), by which its layer multiplies its inputs.

    Attributes:
        shape: of the kernel.
        split: of the kernel, its groups on an axis of their own.
        order: axes of ``split``: those of the groups, of the inputs, of the outputs.
        sizes: (groups, inputs, outputs).
        last_input: axis of the kernel along which successive rows of a matrix lie.
        rows: function from the input of the layer to its rows (groups, n, inputs).
    """

    shape: tuple
    split: tuple
    order: tuple
    sizes: tuple
    last_input: int
    rows: Callable[[np.ndarray], np.ndarray]

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return a kernel, or its scores or mask, as (groups, inputs, outputs)."""
        return kernel.reshape(self.split).transpose(self.order).reshape(self.sizes)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        """Return matrices (groups, inputs, outputs) in the kernel's shape."""
        moved = matrix.reshape([self.split[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(self.shape)


def kernel_matrix(variable: Any) -> KernelMatrix | None:
    """Return the matrices of a kernel of Dense, EinsumDense, a convolution or a depthwise one; None of others."""
    layer, attribute = keras_private.holder(variable)
    shape = tuple(variable.shape)
    if attribute != "kernel":
        return None
    if isinstance(layer, roles.DEPTHWISE):
        *window, channels, multiplier = shape
        rank = len(window)
        order = (rank, *range(rank), rank + 1)
        sizes = (channels, math.prod(window), multiplier)
        return KernelMatrix(shape, shape, order, sizes, rank - 1, functools.partial(_patches, layer, channels))
    if isinstance(layer, CONVOLUTIONS) and not isinstance(layer, roles.TRANSPOSED):
        *window, inputs, outputs = shape
        rank, groups = len(window), layer.groups
        split = (*window, inputs, groups, outputs // groups)
        order = (rank + 1, *range(rank + 1), rank + 2)
        sizes = (groups, math.prod(window) * inputs, outputs // groups)
        return KernelMatrix(shape, split, order, sizes, rank, functools.partial(_patches, layer, groups))
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum(layer.equation, shape)
    if isinstance(layer, keras.layers.Dense):
        return KernelMatrix(shape, shape, (0, 1), (1, *shape), 0, lambda x: x.reshape(1, -1, shape[0]))
    return None


def _einsum(equation, shape):
    """The matrices of an EinsumDense: which letters of its kernel are groups, inputs and outputs."""
    inputs, kernel, output = equation.replace(" ", "").replace("->", ",").split(",")
    axes: dict[str, list[int]] = {"groups": [], "inputs": [], "outputs": []}
    for axis, letter in enumerate(kernel):
        axes["outputs" if letter not in inputs else "groups" if letter in output else "inputs"].append(axis)
    order = tuple(axis for several in axes.values() for axis in several)
    sizes = tuple(math.prod(shape[axis] for axis in several) for several in axes.values())

    def rows(x):
        before, _, after = inputs.partition("...")  # the ellipsis stands for the axes that have no letter
        places = {letter: axis for axis, letter in enumerate(before)}
        places |= {letter: axis + x.ndim - len(after) for axis, letter in enumerate(after)}
        groups, summed = ([places[kernel[axis]] for axis in axes[kind]] for kind in ("groups", "inputs"))
        rest = [axis for axis in range(x.ndim) if axis not in (*groups, *summed)]
        return x.transpose(*groups, *rest, *summed).reshape(sizes[0], -1, sizes[1])

    return KernelMatrix(shape, shape, order, sizes, max(axes["inputs"], default=-1), rows)


def _patches(layer, groups, x):
    """The windows (groups, n, inputs) of a convolution, in the order of its kernel's axes."""
    if layer.data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    rank = x.ndim - 2
    pads, spans = [(0, 0)], []
    for size, window, stride, dilation in zip(
        x.shape[1:-1], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        span = (window - 1) * dilation + 1
        total = {"valid": 0, "causal": span - 1, "same": max((-(-size // stride) - 1) * stride + span - size, 0)}
        before = span - 1 if layer.padding == "causal" else total[layer.padding] // 2
        pads.append((before, total[layer.padding] - before))
        spans.append(span)
    padded = np.pad(x, [*pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(1, rank + 1)))
    every = (slice(None), *(slice(None, None, s) for s in layer.strides), slice(None))
    windows = windows[(*every, *(slice(None, None, d) for d in layer.dilation_rate))]  # (n, places, channels, window)
    channels = windows.shape[rank + 1]
    windows = windows.reshape(*windows.shape[: rank + 1], groups, channels // groups, *windows.shape[rank + 2 :])
    windows = np.moveaxis(windows, rank + 1, 0)  # (groups, n, places, channels of a group, window)
    windows = np.moveaxis(windows, rank + 2, -1)
    return windows.reshape(groups, -1, math.prod(windows.shape[rank + 2 :]))


def check_data(model: Any, data: Any, name: str = "data") -> Any:
    """Return data as a structure of NumPy arrays, if all are finite numbers of equal length >= 1.

    Args:
        model: built.
        data: array, or a structure of several.
        name: what the error calls them.

    Raises:
        InvalidArgument: they are not, or do not have the shape of the model's inputs.
    """
    try:
        arrays = keras.tree.map_structure(ops.convert_to_numpy, data)
        leaves = keras.tree.flatten(arrays)
        lengths = {len(array) for array in leaves}
    except Exception as error:  # whatever a backend says of what is no array
        raise InvalidArgument(f"{name} must be an array, or several. Received: {type(data).__name__}") from error
    if len(lengths) != 1 or not min(lengths) or any(array.dtype.kind not in "fiubSUO" for array in leaves):
        shapes = [getattr(array, "shape", None) for array in leaves]
        raise InvalidArgument(f"{name} must be arrays of equal length >= 1. Received: shapes {shapes}")
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in leaves):
        raise InvalidArgument(f"{name} must be finite. Received: values NaN or infinite")
    expected = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    found = [array.shape for array in leaves]
    if expected and not (len(found) == len(expected) and all(map(_fits, found, expected))):
        raise InvalidArgument(f"{name} must have the model's input shapes {expected}. Received: {found}")
    return arrays


def check_pairs(model: Any, data: Any) -> tuple[Any, Any]:
    """Return data as a pair (inputs, targets) of structures of NumPy arrays of equal length.

    Raises:
        InvalidArgument: they are not, or the inputs do not have the shape of the model's.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InvalidArgument(f"data must be a pair (inputs, targets). Received: {type(data).__name__}")
    inputs = check_data(model, data[0])
    targets = keras.tree.map_structure(ops.convert_to_numpy, data[1])
    lengths = {array.shape[:1] for array in keras.tree.flatten((inputs, targets))}
    if len(lengths) != 1:
        raise InvalidArgument(f"data must be as many inputs as targets. Received: lengths {sorted(lengths)}")
    return inputs, targets


def _fits(shape, expected):
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


def check_built(model: Any) -> None:
    """Raise InvalidArgument unless ``model`` is a built Keras model."""
    if not isinstance(model, keras.Model) or not model.built:
        state = "one that is not built" if isinstance(model, keras.Model) else type(model).__name__
        raise InvalidArgument(f"model must be a built keras.Model. Received: {state}")


def run(model: Any, data: Any, batch_size: int, layers: Sequence[Any], see: Callable[[Any, np.ndarray], None]) -> None:
    """Run a model for inference, a batch at a time, and call ``see(layer, inputs)`` at each call of each layer.

    Args:
        model: of any kind, called eagerly.
        data: structure of arrays.
        batch_size: int.
        layers: inside of the model.
        see: its inputs come as a NumPy array.
    """
    count = len(keras.tree.flatten(data)[0])
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_watched(layer, see))
        for first in range(0, count, batch_size):
            last = first + batch_size
            model(keras.tree.map_structure(lambda array: array[first:last], data), training=False)  # noqa: B023


@contextlib.contextmanager
def _watched(layer: Any, see: Callable) -> Iterator[None]:
    """Show the first argument of each call of a layer, while the context lasts."""
    call = layer.call

    def shown(*args, **kwargs):
        inputs = args[0] if args else next(iter(kwargs.values()))
        if not is_concrete(inputs):
            raise InvalidArgument(f"model must call its layers eagerly. Received: {layer.path} inside a trace")
        see(layer, ops.convert_to_numpy(inputs))
        return call(*args, **kwargs)

    with replaced_call(layer, shown):
        yield


@contextlib.contextmanager
def replaced_call(layer: Any, function: Callable) -> Iterator[None]:
    """Let a layer call a function of the same arguments in place of its ``call``, while the context lasts."""
    own = vars(layer).get("call")
    vars(layer)["call"] = functools.wraps(layer.call)(function)  # past Keras' tracking of attributes
    try:
        yield
    finally:
        del vars(layer)["call"]
        if own is not None:
            vars(layer)["call"] = own


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Raise InvalidArgument with the first line of whatever a layer, a loss or a backend says of data."""
    try:
        yield
    except InvalidArgument:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InvalidArgument(f"data must fit the model. Received: {reason}") from error


def in_order(model: Any, data: Any, layers: Sequence[Any]) -> list:
    """Return layers in the order in which a model calls them, found with one example.

    Raises:
        InvalidArgument: the data do not fit the model, or a layer is not called.
    """
    called: dict[int, Any] = {}
    one = keras.tree.map_structure(lambda array: array[:1], data)
    with errors_in_a_line():
        run(model, one, 1, layers, lambda layer, inputs: called.setdefault(id(layer), layer))
    missed = [layer.path for layer in layers if id(layer) not in called]
    if missed:
        raise InvalidArgument(f"data must pass through every chosen layer. Received: none through {missed[0]}")
    return list(called.values())
