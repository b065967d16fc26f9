"""Channel rules of Keras' own layers and operations; see `channels`."""

from typing import Any

import numpy as np
from keras import layers

from tf_robustcomp.backend import fused
from tf_robustcomp.pruning.channels import LayerCall, Space, channel_rule

# Functions that work value by value, as activations, and the same as operations in a graph.
POINTWISE = frozenset(
    {"linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "tanh", "sigmoid"}
    | {"hard_sigmoid", "hard_silu", "hard_tanh", "softplus", "softsign", "exponential", "mish", "log_sigmoid"}
    | {"swish", "hard_swish", "hard_shrink", "soft_shrink", "tanh_shrink", "threshold", "squareplus", "sparse_plus"}
)
OPERATIONS = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Negative", "Absolute", "Square"}
    | {"Sqrt", "Rsqrt", "Exp", "Log", "Power", "Clip", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu"}
    | {"Silu", "Tanh", "Sigmoid", "HardSigmoid", "HardSilu", "HardTanh", "Softplus", "Softsign", "LogSigmoid", "Cast"}
)


@channel_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(call: LayerCall) -> Any:
    layer = call.layer
    if layer.groups != 1:
        return _grouped(call)
    kernel = call.weights("kernel")
    folds = layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)
    return _summed(call, np.moveaxis(kernel.reshape(-1, *kernel.shape[-2:]), 0, -1), folds, "filters")


@channel_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed(call: LayerCall) -> Any:
    kernel = call.weights("kernel")  # (..., outputs, inputs); how many weights meet an output differs by place
    matrix = kernel.reshape(-1, *kernel.shape[-2:]).transpose(2, 1, 0)
    return _summed(call, matrix, False, "filters", outputs_first=True)


@channel_rule(layers.Dense)
def _dense(call: LayerCall) -> Any:
    return _summed(call, call.weights("kernel")[..., None], True, "units")


@channel_rule(layers.EinsumDense)
def _einsum(call: LayerCall) -> Any:
    inputs, kernel, output = call.layer.equation.replace(" ", "").replace("->", ",").split(",")
    is_dense = len(kernel) == 2 and inputs[-1:] == kernel[0] and output == inputs[:-1] + kernel[1]
    if not is_dense or call.layer.bias_axes not in (None, kernel[1]):
        return "its equation is not that of a dense layer on the last axis"
    return _summed(call, call.weights("kernel")[..., None], call.layer.bias_axes is not None, "output_shape")


@channel_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(call: LayerCall) -> Any:
    (source,) = call.inputs
    multiplier = call.layer.depth_multiplier
    target = _windowed(call, source, "kernel", multiplier)
    call.slices("kernel", source, None)
    if call.layer.use_bias:
        call.slices("bias", target)
    return _activated(call, target, target.values + _bias(call))


@channel_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(call: LayerCall) -> Any:
    (source,) = call.inputs
    middle = _windowed(call, source, "depthwise_kernel", call.layer.depth_multiplier)
    target = call.new()
    call.slices("depthwise_kernel", source, None)
    call.slices("pointwise_kernel", middle, target)
    if call.layer.use_bias:
        call.slices("bias", target)
    call.sizes(filters=target)
    kernel = call.weights("pointwise_kernel")
    values = call.sums(middle, target, kernel.reshape(*kernel.shape[-2:], 1), folds=True)
    return _activated(call, target, values + _bias(call))


@channel_rule(layers.Embedding)
def _embedding(call: LayerCall) -> Any:
    target = call.new()
    call.slices("embeddings", target)
    call.sizes(output_dim=target)
    return target


@channel_rule(layers.BatchNormalization, fused.BatchNormalization)
def _batch_norm(call: LayerCall) -> Any:
    (one,) = call.inputs
    layer = call.layer
    if layer.axis not in (-1, len(call.output_shape) - 1):
        return "its axis is not the last"
    for name in ("moving_mean", "moving_variance"):
        call.slices(name, one)
    deviation = np.sqrt(call.weights("moving_variance") + layer.epsilon)
    return _scaled(call, one, (one.values - call.weights("moving_mean")) / deviation)


@channel_rule(layers.GroupNormalization)
def _group_norm(call: LayerCall) -> Any:
    (one,) = call.inputs
    layer = call.layer
    if layer.axis not in (-1, len(call.output_shape) - 1):
        return "its axis is not the last"
    # Whole groups of the norm go, for each has its own mean and variance.
    parts = _parts(call, one, len(one.groups) if layer.groups == -1 else layer.groups)
    call.sizes(groups=parts)
    values = one.values.reshape(len(parts.groups), -1)  # constants stay constants, if all of a group are known
    values = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + layer.epsilon)
    return _scaled(call, one, values.ravel())


@channel_rule(layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization)
def _layer_norm(call: LayerCall) -> Any:
    return "it divides by a norm over all channels, which changes with their number"


@channel_rule(layers.PReLU)
def _prelu(call: LayerCall) -> Any:
    (one,) = call.inputs
    call.slices("alpha", one)
    return one._replace(values=np.where(one.values == 0, 0.0, np.nan))


@channel_rule(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU)
def _activation(call: LayerCall) -> Any:
    if isinstance(call.layer, layers.Activation) and not is_pointwise(call.layer.activation):
        return "its activation mixes channels, or may"
    return call.inputs[0]._replace(values=call.evaluate())


@channel_rule(layers.Rescaling)
def _rescaling(call: LayerCall) -> Any:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        return "it scales each channel by a number of its own"
    return call.inputs[0]._replace(values=call.evaluate())


@channel_rule(
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.Identity),
    *(layers.GaussianNoise, layers.GaussianDropout, layers.ActivityRegularization),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.RepeatVector),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
)
def _same(call: LayerCall) -> Any:
    return call.inputs[0]


@channel_rule(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
def _average(call: LayerCall) -> Any:
    return call.inputs[0] if call.layer.padding == "valid" else _zero_or_unknown(call.inputs[0])


@channel_rule(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def _padding(call: LayerCall) -> Any:
    return _zero_or_unknown(call.inputs[0])


@channel_rule(layers.Flatten, layers.Reshape)
def _reshape(call: LayerCall) -> Any:
    (one,), before, after = call.inputs, call.input_shapes[0][1:], call.output_shape[1:]
    result = one
    if len(after) == 1 and None not in before:
        times = int(np.prod(before[:-1]))
        result = Space(np.tile(one.groups, times), np.tile(one.values, times))
    elif not after or before[-1] != after[-1]:
        return "it moves channels"
    if isinstance(call.layer, layers.Reshape):
        call.sizes(target_shape=result)
    return result


@channel_rule(layers.Concatenate)
def _concatenate(call: LayerCall) -> Any:
    if call.layer.axis not in (-1, len(call.output_shape) - 1):
        return "its axis is not the last"
    return Space(*(np.concatenate(parts) for parts in zip(*call.inputs, strict=True)))


@channel_rule(layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum, layers.Average)
def _merge(call: LayerCall) -> Any:
    functions = {
        **{layers.Add: sum, layers.Average: lambda values: np.mean(values, axis=0)},
        **{layers.Subtract: lambda values: values[0] - values[1], layers.Multiply: lambda values: np.prod(values, 0)},
        **{layers.Maximum: lambda values: np.max(values, 0), layers.Minimum: lambda values: np.min(values, 0)},
    }
    return _joined(call, functions[type(call.layer)])


@channel_rule(object)  # operations of keras.ops, which are no layers
def _operation(call: LayerCall) -> Any:
    name = type(call.layer).__name__
    if name not in OPERATIONS or any(np.ndim(x) for x in call.constants() if not isinstance(x, str | type(None))):
        return "this operation may mix channels"
    return _joined(call, lambda values: call.evaluate())


@channel_rule(layers.MultiHeadAttention)
def _attention(call: LayerCall) -> Any:
    layer, arguments = call.layer, call.arguments()
    if getattr(layer, "use_gate", None):
        return "its heads have gates"
    query, value = arguments.pop("query"), arguments.pop("value")
    key = arguments.pop("key", None)
    for mask in arguments.values():
        if isinstance(mask, Space):
            call.keep(mask)
    heads, target = call.new(layer.num_heads), call.new()
    for name, source in (("query", query), ("key", value if key is None else key), ("value", value)):
        kernel = call.weights(f"{name}_dense.kernel")  # (inputs, heads, size of a head)
        call.slices(f"{name}_dense.kernel", source, heads, None)
        if layer.use_bias:
            call.slices(f"{name}_dense.bias", heads, None)
        call.sums(source, heads, kernel)
    # A head of no value adds nothing; what it looks at does not matter.
    empty = (kernel == 0).all((0, 2))
    if layer.use_bias:
        empty &= (call.weights("value_dense.bias") == 0).all(1)
    heads = heads._replace(values=np.where(empty, 0.0, np.nan))
    call.slices("output_dense.kernel", heads, None, target)
    if layer.use_bias:
        call.slices("output_dense.bias", target)
    call.sizes(num_heads=heads)
    if layer.get_config()["output_shape"] is None:
        call.join(target, query)
    else:
        call.sizes(output_shape=target)
    call.sums(heads, target, call.weights("output_dense.kernel").transpose(0, 2, 1))
    return target


def is_pointwise(activation: Any) -> bool:
    """Return whether an activation is known to work value by value."""
    name = getattr(activation, "__name__", None)
    return name in POINTWISE and getattr(activation, "__module__", "").startswith("keras.")


def _summed(call, kernel, folds, size, outputs_first=False):
    """The output of a layer with one kernel; ``kernel`` is (inputs, outputs, positions)."""
    (source,), target = call.inputs, call.new()
    call.slices("kernel", *((target, source) if outputs_first else (source, target)))
    if _has_bias(call.layer):
        call.slices("bias", target)
    call.sizes(**{size: target})
    return _activated(call, target, call.sums(source, target, kernel, folds) + _bias(call))


def _grouped(call):
    """The output of a convolution in groups of channels, each of which goes whole, inputs and outputs."""
    (source,), number, kernel = call.inputs, call.layer.groups, call.weights("kernel")
    parts = _parts(call, source, number)
    target = Space(np.repeat(parts.groups, call.layer.filters // number), np.full(call.layer.filters, np.nan))
    call.slices("kernel", target)
    if call.layer.use_bias:
        call.slices("bias", target)
    call.sizes(groups=parts, filters=target)
    zero = np.repeat((source.values.reshape(number, -1) == 0).all(1), call.layer.filters // number)
    zero |= (kernel == 0).all(tuple(range(kernel.ndim - 1)))
    return _activated(call, target, np.where(zero, 0.0, np.nan) + _bias(call))


def _scaled(call, space, values):
    """A space with normalised values times the layer's gamma, plus its beta, where it has them."""
    for name in [*(["gamma"] if call.layer.scale else []), *(["beta"] if call.layer.center else [])]:
        call.slices(name, space)
    scale = call.weights("gamma") if call.layer.scale else 1.0
    return space._replace(values=values * scale + (call.weights("beta") if call.layer.center else 0.0))


def _parts(call, space, number):
    """One channel for each of ``number`` parts of a space, whose channels become one group each."""
    parts = space.groups.reshape(number, -1)
    for column in parts.T[1:]:
        call.join(Space(parts[:, 0], column), Space(column, column))
    return Space(parts[:, 0], np.full(number, np.nan))


def _windowed(call, source, attribute, multiplier):
    """The channels of a depthwise convolution before its bias, ``multiplier`` for each of its input."""
    kernel = call.weights(attribute)
    kernel = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1])
    values = np.repeat(source.values, multiplier)
    valid = call.layer.padding == "valid"  # elsewhere a border sees less of a constant
    values = values * kernel.sum(0) if valid else np.where(values == 0, 0.0, np.nan)
    return Space(np.repeat(source.groups, multiplier), np.where((kernel == 0).all(0), 0.0, values))


def _joined(call, function):
    """The output of a function that takes its inputs channel by channel; one channel serves all of another input."""
    if len({len(shape) for shape in call.input_shapes}) > 1:
        return "its inputs differ in rank"
    count = max(len(space.groups) for space in call.inputs)
    full = [space for space in call.inputs if len(space.groups) == count]
    for space in call.inputs:
        if len(space.groups) != count:
            call.keep(space)
    for other in full[1:]:
        call.join(full[0], other)
    name = type(call.layer).__name__
    if name == "Add" and len(full) > 1:
        call.adds(full[0])
    values = [np.broadcast_to(space.values, count) for space in call.inputs]
    known = np.isfinite(values).all(0)
    result = np.where(known, function(values), np.nan)
    if name == "Multiply":
        result = np.where(np.any([value == 0 for value in values], axis=0), 0.0, result)
    return Space(full[0].groups, result)


def _has_bias(layer):
    return getattr(layer, "bias", None) is not None


def _bias(call):
    return call.weights("bias") if _has_bias(call.layer) else 0.0


def _activated(call, target, values):
    """A space with the values after the layer's activation; where that may mix channels, all of it stays."""
    if not is_pointwise(call.layer.activation):
        call.keep(target)
        return target
    return target._replace(values=call.apply(call.layer.activation, values))


def _zero_or_unknown(space):
    return space._replace(values=np.where(space.values == 0, 0.0, np.nan))
