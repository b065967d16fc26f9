"""Networks without branches, which can be frozen: batch norm folded into the convolution after it."""

import contextlib

import keras
from keras import ops

from tf_robustcomp.backend import fusing


class Chain(keras.Model):
    """A functional ``keras.Model`` whose layers feed one another in the order of ``layers``, each used once.

    Its batch norms have scale and offset, over the last axis, and its convolutions one group.
    """

    _frozen = None

    def call(self, inputs, training=None, mask=None):
        """As of every functional model; while it is `frozen`, in inference, by the folded weights."""
        if self._frozen is None or training:
            return super().call(inputs, training=training, mask=mask)
        return self._frozen(inputs)

    def folded(self):
        """The network in inference mode as a function of its input, with the present weights.

        A batch norm y = a x + b, a and b of a channel, before a convolution with kernel W goes into it: W * y = (W a) *
        x + W * b, and W * b, which at the borders of a padded image differs from the inside, is computed once.
        """
        steps: list = []
        waiting: list = []  # a batch norm for its convolution
        for layer in self.layers[1:]:
            if isinstance(layer, keras.layers.BatchNormalization):
                steps += waiting
                waiting = [layer]
            elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
                steps.append(_convolution(layer, *waiting))
                waiting = []
            else:
                # What has no weights needs no precision of its own, but for the end.
                plain = layer.call if not layer.weights and layer is not self.layers[-1] else layer
                steps += [*waiting, plain]
                waiting = []
        steps += waiting

        def run(x):
            for step in steps:
                x = step(x)
            return x

        return run


@contextlib.contextmanager
def frozen(model):
    """Let all `Chain` in a model run folded, in inference, while this is entered; no weight may change meanwhile.

    For many evaluations at the same weights, as in an attack.  What is computed is the same up to rounding.

    Args:
        model: Keras model or layer.
    """
    chains = [layer for layer in model._flatten_layers() if isinstance(layer, Chain)] if fusing() else []
    try:
        for chain in chains:
            chain._frozen = chain.folded()
        yield
    finally:
        for chain in chains:
            chain._frozen = None


def _convolution(layer, norm=None):
    """Function of the layer's input, or where ``norm`` is a batch norm, of the input of that."""
    kernel = ops.convert_to_tensor(layer.kernel)
    constant = 0.0 if layer.bias is None else ops.convert_to_tensor(layer.bias)
    if norm is not None:
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        shift = norm.beta - norm.moving_mean * scale
        constant = constant + _convolved(layer, ops.broadcast_to(shift, (1, *layer.input.shape[1:])), kernel)
        transposed = isinstance(layer, keras.layers.Conv2DTranspose)  # the last axis but one is of the outputs there
        kernel = kernel * (scale if transposed else ops.expand_dims(scale, 1))
    kernel, constant = (ops.cast(value, layer.compute_dtype) for value in (kernel, constant))
    return lambda x: layer.activation(_convolved(layer, ops.cast(x, layer.compute_dtype), kernel) + constant)


def _convolved(layer, x, kernel):
    shared = {"strides": layer.strides, "padding": layer.padding, "data_format": layer.data_format}
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return ops.conv_transpose(x, kernel, dilation_rate=layer.dilation_rate, **shared)
    return ops.conv(x, kernel, dilation_rate=layer.dilation_rate, **shared)
