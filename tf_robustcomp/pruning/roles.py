"""Role of a variable in its layer: a kernel or not, and which of its axes are inputs and outputs."""

import re
from typing import Any

import keras

from tf_robustcomp.backend import keras_private

# The names that Keras' own layers give to their kernels; all else in them is a bias, a norm, an adapter, a scale.
KERAS_KERNELS = frozenset(
    {"kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings", "reverse_embeddings"}
)
# Whole words of a user's names.  A kernel may be called anything, the others have names that the field agrees on.
KERNEL_WORDS = frozenset({"kernel", "kernels", "weight", "weights", "filter", "filters"})
OTHER_WORDS = frozenset(
    {"bias", "biases", "gamma", "beta", "alpha", "scale", "scales"}
    | {"token", "tokens", "cls", "pos", "position", "positions", "positional", "prompt", "prompts"}
)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


def is_kernel(path: str, variable: Any) -> bool:
    """Return whether a variable is pruned by default: a tensor of rank >= 2 that multiplies a layer's input.

    In Keras' own layers its name decides, which the layer's class gives.  In a user's layer the whole words of the
    attribute and the name do: biases, parameters of norms and activations, layer scales, tokens and positions are no
    kernels, and, unless called one, no tensor of rank >= 3 whose first axis has length 1, which is laid over a batch.
    Adapters (LoRA) are no kernels anywhere.

    Example:
        >>> [variable.path.split("/")[-2] for variable in model.variables if rc.is_kernel(variable.path, variable)]
        ['conv1', 'dense', 'logits']
    """
    if len(variable.shape) < 2 or "lora" in _words(path):
        return False
    layer, attribute = keras_private.holder(variable)
    if layer is not None and type(layer).__module__.startswith("keras."):
        return variable.name in KERAS_KERNELS
    words = _words(attribute) | _words(path.split("/")[-1])
    if words & (OTHER_WORDS | {"lora"}):
        return False
    return bool(words & KERNEL_WORDS) or len(variable.shape) == 2 or variable.shape[0] != 1


def output_axes(variable: Any) -> tuple[int, ...]:
    """Return the axes of a kernel along which its layer's output channels lie; elsewhere the last."""
    layer, attribute = keras_private.holder(variable)
    if isinstance(layer, DEPTHWISE) or attribute == "depthwise_kernel":
        return (-2, -1)  # each pair of an input channel and a multiplier is an output channel
    if isinstance(layer, TRANSPOSED):
        return (-2,)
    if isinstance(layer, keras.layers.EinsumDense):
        kernel, output = _equation(layer)
        return tuple(axis for axis, letter in enumerate(kernel) if letter in output) or (-1,)
    return (-1,)


def input_axis(variable: Any) -> int:
    """Return the last axis of a kernel over which its layer sums; elsewhere the last but one."""
    layer, _ = keras_private.holder(variable)
    if isinstance(layer, TRANSPOSED):
        return -1
    if isinstance(layer, keras.layers.EinsumDense):
        kernel, output = _equation(layer)
        return max((axis for axis, letter in enumerate(kernel) if letter not in output), default=-2)
    return -2


def _equation(layer):
    """Letters of the kernel and of the output in the equation of an EinsumDense."""
    inputs, output = layer.equation.replace(" ", "").split("->")
    return inputs.split(",")[1], output


def _words(name):
    """Whole words of a name, in lower case: of ``layer/posEmbed_1`` they are layer, pos and embed."""
    return {word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
