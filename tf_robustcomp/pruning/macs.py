"""Multiply-accumulates of a model, counted while it is called once on one example."""

import contextlib
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning import layer_inputs, roles


class Macs(NamedTuple):
    """Multiply-accumulates of a model.

    Attributes:
        total: int, for one example.
        left_out: names of layers whose kernels are not in it, as their classes are not known here.
    """

    total: int
    left_out: tuple[str, ...]


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        shapes: argument -> its shape, of arguments that are tensors.
        output: shape of the output, or of the first one.
    """

    shapes: dict[str, tuple]
    output: tuple

    @property
    def input(self) -> tuple:
        """Shape of the first argument."""
        return next(iter(self.shapes.values()))


def count_macs(model: Any, example: Any) -> Macs:
    """Return the multiply-accumulates of a model for an example, whatever way it calls its layers.

    Counted are Dense, EinsumDense, convolutions (grouped, depthwise, separable and transposed, too), attention with
    several heads (projections and products), SimpleRNN, GRU and LSTM, each as often as it is called.  A convolution
    multiplies at every place of its output, padding included, as is usual; a transposed one at every place of its
    input.  Biases, norms, activations and pooling are not counted.

    Args:
        model: built, of any kind; called eagerly, in inference.
        example: its input, with a batch axis of length n; the count is that of all n, divided by n.
    """
    total = 0
    counted: set[int] = set()

    def watch(layer, rule):
        call, signature = layer.call, inspect.signature(layer.call)

        def seen(*args, **kwargs):
            nonlocal total
            outputs = call(*args, **kwargs)
            arguments = signature.bind(*args, **kwargs).arguments
            shapes = {name: tuple(x.shape) for name, x in arguments.items() if hasattr(x, "shape")}
            macs = rule(layer, Call(shapes, tuple(keras.tree.flatten(outputs)[0].shape)))
            if macs is not None:
                total += macs
                counted.update(id(variable) for variable in layer.weights)
            return outputs

        return layer_inputs.replaced_call(layer, seen)

    layers = keras_private.all_layers(model)
    # A loop over time calls these once or once a step, as the backend likes: the rule of the loop stands for them.
    within = {id(part) for one in layers if isinstance(one, keras.layers.RNN) for part in _parts(one)}
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if (rule := _rule(layer)) is not None and id(layer) not in within:
                stack.enter_context(watch(layer, rule))
        model(example, training=False)
    left_out: dict[str, None] = {}
    for variable in model.weights:
        if id(variable) not in counted and roles.is_kernel(variable.path, variable):
            holder, _ = keras_private.holder(variable)
            if not isinstance(holder, keras.layers.Embedding):  # which looks up and multiplies nothing
                left_out[variable.path.rpartition("/")[0] or variable.path] = None
    return Macs(total // len(keras.tree.flatten(example)[0]), tuple(left_out))


def _rule(layer):
    return next((rule for classes, rule in _RULES if isinstance(layer, classes)), None)


def _parts(layer):
    return (part for part in keras_private.all_layers(layer) if part is not layer)


def _size(*kernels):
    return sum(math.prod(kernel.shape) for kernel in kernels)


def _dense(layer, call):
    return math.prod(call.input[:-1]) * _size(layer.kernel)


def _einsum(layer, call):
    """Each output is a sum over the letters that it does not have."""
    inputs, kernel, output = layer.equation.replace(" ", "").replace("->", ",").split(",")
    before, _, after = inputs.partition("...")
    lengths = dict(zip(kernel, layer.kernel.shape, strict=True))
    lengths |= dict(zip(before, call.input, strict=False))
    lengths |= dict(zip(reversed(after), reversed(call.input), strict=False))
    return math.prod(call.output) * math.prod(length for letter, length in lengths.items() if letter not in output)


def _convolution(layer, call):
    return math.prod(call.output) // layer.filters * _size(layer.kernel)


def _depthwise(layer, call):
    return math.prod(call.output) // math.prod(layer.kernel.shape[-2:]) * _size(layer.kernel)


def _separable(layer, call):
    return math.prod(call.output) // layer.filters * _size(layer.depthwise_kernel, layer.pointwise_kernel)


def _transposed(layer, call):
    return math.prod(call.input) // layer.kernel.shape[-1] * _size(layer.kernel)


def _attention(layer, call):
    """The two products alone, as the projections are layers: queries with keys, their weights with values."""
    query, value = call.shapes["query"], call.shapes["value"]
    attended = layer.attention_axes
    beside = math.prod(length for axis, length in enumerate(query[:-1]) if axis not in attended)
    pairs = math.prod(query[axis] * value[axis] for axis in attended)
    return beside * pairs * layer.num_heads * (layer.key_dim + layer.value_dim)


def _grouped_attention(layer, call):
    batch, queries, _ = call.shapes["query"]
    return batch * queries * call.shapes["value"][1] * layer.num_query_heads * 2 * layer.head_dim


def _recurrent(layer, call):
    cells = getattr(layer.cell, "cells", [layer.cell])
    if not all(isinstance(cell, _CELLS) for cell in cells):
        return None
    return math.prod(call.input[:2]) * _size(*(k for cell in cells for k in (cell.kernel, cell.recurrent_kernel)))


_CELLS = (keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell)
_RULES: tuple[tuple[Any, Callable[[Any, Call], int | None]], ...] = (
    (keras.layers.EinsumDense, _einsum),
    (keras.layers.Dense, _dense),
    (roles.DEPTHWISE, _depthwise),
    ((keras.layers.SeparableConv1D, keras.layers.SeparableConv2D), _separable),
    (roles.TRANSPOSED, _transposed),
    (layer_inputs.CONVOLUTIONS, _convolution),
    (keras.layers.MultiHeadAttention, _attention),
    (keras.layers.GroupQueryAttention, _grouped_attention),
    (keras.layers.RNN, _recurrent),
)
