"""Views of a network in inference: batch norm folded into the convolution after it, in a precision of choice."""

import contextvars
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.utils.errors import InvalidArgument

# Chains that a view replaces, by id.  Every thread has its own, so one attack does not see the view of another.
_VIEWS: contextvars.ContextVar[Mapping[int, Callable] | None] = contextvars.ContextVar("views", default=None)


def inference_function(model: Any, dtype: str | None = None) -> Callable:
    """Return a function that calls ``model`` in inference with its present weights, faster, and changes nothing.

    Every `Chain` in the model is computed folded, for many evaluations at the same weights, as in an attack.  The
    result is the same up to rounding; layers outside of chains are called as they are.

    Args:
        model: Keras model or layer, or a function, which is returned as it is.
        dtype: such as "bfloat16": chains compute in it, but for layers that ask for a dtype other than float32.

    Returns:
        function with the arguments of ``model``.

    Raises:
        InvalidArgument: a dtype for a model without chains.
    """
    layers = keras_private.all_layers(model) if isinstance(model, keras.Layer) else ()
    chains = [layer for layer in layers if isinstance(layer, Chain)]
    if dtype and not chains:
        raise InvalidArgument(
            f"precision must be float32 for a model without a backend.folding.Chain. Received: {dtype}"
        )
    if not chains:
        return model
    views = {id(chain): chain.folded(dtype) for chain in chains if chain.fold or dtype}

    def call(*args: Any, **kwargs: Any) -> Any:
        token = _VIEWS.set(views)
        try:
            return model(*args, **kwargs)
        finally:
            _VIEWS.reset(token)

    return call


class Chain(keras.Model):
    """A functional ``keras.Model`` whose layers feed one another in the order of ``layers``, each used once.

    Its batch norms have scale and offset, over the last axis, and its convolutions one group.

    Args:
        inputs, outputs: of ``keras.Model``.
        fold: whether `inference_function` folds its batch norms.
        **kwargs: of ``keras.Model``.
    """

    def __init__(self, inputs: Any, outputs: Any, fold: bool = True, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.fold = fold

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Call the layers in turn, or the present view of them in inference."""
        view = None if training else (_VIEWS.get() or {}).get(id(self))
        return super().call(inputs, training=training, mask=mask) if view is None else view(inputs)

    def folded(self, dtype: str | None = None) -> Callable:
        """Return the network in inference as a function of its input, with the present weights.

        A batch norm y = a x + b, a and b of a channel, before a convolution with kernel W goes into it: W * y = (W a) *
        x + W * b.  W * b is computed once, over a whole image, as it differs at the borders of a padded image.

        Args:
            dtype: as in `inference_function`.
        """
        steps: list[Callable] = []
        waiting: list = []  # a batch norm for its convolution
        for layer in self.layers[1:]:
            if isinstance(layer, keras.layers.BatchNormalization):
                steps += waiting
                waiting = [layer]
            elif isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
                steps.append(_convolution(layer, _dtype_of(layer, dtype), *waiting))
                waiting = []
            else:
                steps += [*waiting, self._step(layer, _dtype_of(layer, dtype))]
                waiting = []
        steps += waiting

        def run(x: Any) -> Any:
            for step in steps:
                x = step(x)
            return x

        return run

    def _step(self, layer: keras.Layer, dtype: str) -> Callable:
        if layer is self.layers[-1]:
            return layer  # the end keeps the network's output dtype
        if not layer.weights:
            return layer.call
        return _dense(layer, dtype) if isinstance(layer, keras.layers.Dense) else layer


def _dtype_of(layer: keras.Layer, dtype: str | None) -> str:
    return dtype if dtype and layer.compute_dtype == "float32" else layer.compute_dtype


def _dense(layer: keras.layers.Dense, dtype: str) -> Callable:
    kernel, bias = ops.cast(layer.kernel, dtype), ops.cast(layer.bias, dtype)
    return lambda x: layer.activation(ops.matmul(ops.cast(x, dtype), kernel) + bias)


def _convolution(layer: Any, dtype: str, norm: Any = None) -> Callable:
    """Function of the layer's input or, where ``norm`` is a batch norm, of the input of that."""
    kernel = ops.convert_to_tensor(layer.kernel)
    constant = 0.0 if layer.bias is None else ops.convert_to_tensor(layer.bias)
    if norm is not None:
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        shift = norm.beta - norm.moving_mean * scale
        constant = constant + _convolved(layer, ops.broadcast_to(shift, (1, *layer.input.shape[1:])), kernel)
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)  # the last axis but one is of the outputs there
        kernel = kernel * (scale if transposed else ops.expand_dims(scale, 1))
    kernel, constant = (ops.cast(value, dtype) for value in (kernel, constant))
    return lambda x: layer.activation(_convolved(layer, ops.cast(x, dtype), kernel) + constant)


def _convolved(layer: Any, x: Any, kernel: Any) -> Any:
    shared = {"strides": layer.strides, "padding": layer.padding, "data_format": layer.data_format}
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return ops.conv_transpose(x, kernel, dilation_rate=layer.dilation_rate, **shared)
    return ops.conv(x, kernel, dilation_rate=layer.dilation_rate, **shared)
