"""Networks whose every number is an integer, so that encoder and decoder agree on every machine.

The tables of a code follow from such a network (Balle, Johnston, Minnen, "Integer networks for data compression with
latent-variable models", ICLR 2019).  Here its integers are float32 numbers.  Weights are multiples of 2^-10, inputs are
integers of at most 255 in size, and the sum of the weights of a unit is bounded, so that every partial sum, in any
order, is an integer below 2^24: float32 adds these without rounding, and so does the TF32 of a GPU multiply them.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

WEIGHT_BITS = 10
LARGEST_WEIGHT = 2047 / 2**WEIGHT_BITS  # 11 bits: what TF32 and float16 hold
LARGEST_INPUT = 255
LARGEST_SUM = 60.0  # of the absolute weights of a unit: 60 * 2^10 * 255 and the bias stay below 2^24
LARGEST_BIAS = 3 * 2**18  # as an integer
FIRST_INDEX = 24  # of the scale that the integer 0 stands for
ACTIVATION_BITS = 4  # a unit's output is a multiple of 2^-4


def straight_through(value: Any, rounded: Any) -> Any:
    """Return ``rounded`` with the gradient of ``value``."""
    return value + ops.stop_gradient(rounded - value)


def round_half_up(value: Any) -> Any:
    """Return the nearest integers, of two the greater, with the gradient of the identity."""
    return straight_through(value, ops.floor(value + 0.5))


@keras.saving.register_keras_serializable("tf_robustcomp")
class IntegerDense(keras.layers.Layer):
    """A dense layer on integers that float32 computes without rounding, as a matrix product.

    In training the gradient passes straight through every rounding.  After `settle` the weights are the integers
    themselves, and the output no longer depends on the machine, the backend, the batch or the number of threads.

    Args:
        units: int >= 1, outputs.
        input_bits: int >= 0; the inputs (..., n) are integers of at most 255 in size that stand for multiples of
            2^-input_bits.
        relu: whether outputs are cut to 0 ... 255; they stand for multiples of 2^-4.
    """

    def __init__(self, units: int, input_bits: int = ACTIVATION_BITS, relu: bool = True, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.units, self.input_bits, self.relu = units, input_bits, relu

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any, offsets: Any = ((0, 0),)) -> Any:
        """Return integers (..., units), as float32.

        Args:
            inputs: integers (..., n); images of them (n, h, w, c) where there are offsets.
            offsets: (row, column) of the places that an output depends on, relative to its own; 0 stands outside.  A
                convolution is thus a sum of matrix products: libraries may compute one in transformed, inexact forms.
        """
        kernel, bias = self._integers()
        parts = ops.split(kernel, len(offsets), axis=0)
        total = sum(ops.matmul(shifted(inputs, *at), part) for at, part in zip(offsets, parts, strict=True)) + bias
        result = round_half_up(total * 2.0 ** (ACTIVATION_BITS - WEIGHT_BITS - self.input_bits))
        return ops.clip(result, 0.0, LARGEST_INPUT) if self.relu else result

    def settle(self) -> None:
        """Replace the weights by the integers that they stand for, which changes no output."""
        kernel, bias = self._integers()
        self.kernel.assign(kernel * 2.0**-WEIGHT_BITS)
        self.bias.assign(bias * 2.0 ** -(WEIGHT_BITS + self.input_bits))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input with the units last."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "units": self.units, "input_bits": self.input_bits, "relu": self.relu}

    def _integers(self):
        """Kernel and bias as integers, within the bounds."""
        kernel = ops.clip(self.kernel, -LARGEST_WEIGHT, LARGEST_WEIGHT)
        excess = ops.sum(ops.abs(kernel), axis=0) / LARGEST_SUM
        kernel = kernel / ops.maximum(1.0, excess)
        bias = ops.clip(self.bias * 2.0 ** (WEIGHT_BITS + self.input_bits), -LARGEST_BIAS, LARGEST_BIAS)
        return round_half_up(kernel * 2.0**WEIGHT_BITS), round_half_up(bias)


def rate_features(step: Any) -> list[Any]:
    """Return the quality, an integer from 0 to 255, as integers that an `IntegerDense` takes."""
    step = ops.cast(step, "float32")
    return [step, 255.0 - step, 255.0 - ops.abs(2.0 * step - 255.0)]


def shifted(x: Any, row: int, column: int) -> Any:
    """Return at each place the value at another one: (n, h, w, c) -> the same, 0 from outside."""
    if row == column == 0:
        return x
    height, width = x.shape[1:3]
    rows, columns = ((max(-by, 0), max(by, 0)) for by in (row, column))
    padded = ops.pad(x, ((0, 0), rows, columns, (0, 0)))
    down, right = max(row, 0), max(column, 0)
    return padded[:, down : down + height, right : right + width]


def depth_to_space(x: Any, block: int) -> Any:
    """Return (n, h * block, w * block, c) of (n, h, w, block^2 * c)."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3] // block**2
    x = ops.reshape(x, (-1, height, width, block, block, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * block, width * block, channels))


SQUARE = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
# Of the 5 x 5 places around one, those of the other colour of a checkerboard.
OTHER_COLOUR = [(row, column) for row in range(-2, 3) for column in range(-2, 3) if (row + column) % 2]


@keras.saving.register_keras_serializable("tf_robustcomp")
class IntegerParameters(keras.layers.Layer):
    """Means and scales of latents from the hyper-latents and from half of the latents, in integers.

    The latents are coded in two passes, as a checkerboard (He et al., CVPR 2021, arXiv 2103.15306): the white places
    from the hyper-latents alone, the black ones also from the white around them.  A `settle`d network gives the same
    integers on every machine.

    Args:
        latents: int >= 1, channels of the latents.
        width: int >= 1, channels within.
    """

    MEAN_BITS = ACTIVATION_BITS  # means and decoded latents are multiples of 2^-4
    CONTEXT_BITS = 2

    def __init__(self, latents: int, width: int = 96, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.latents, self.width = latents, width
        self.up = [IntegerDense(4 * width, 0, name="up_0"), IntegerDense(4 * width, name="up_1")]
        self.around = IntegerDense(width, self.CONTEXT_BITS, name="around")
        self.hidden = [IntegerDense(256, name="hidden_0"), IntegerDense(256, name="hidden_1")]
        self.last = IntegerDense(2 * latents, relu=False, name="last")

    def build(self, input_shape: Any) -> None:
        """Make the weights; the input's shape is that of the hyper-latents (n, h, w, c)."""
        self.up[0].build((None, input_shape[-1]))
        self.up[1].build((None, 9 * self.width))
        self.around.build((None, len(OTHER_COLOUR) * self.latents))
        self.hidden[0].build((None, 2 * self.width + len(rate_features(0))))
        self.hidden[1].build((None, 256))
        self.last.build((None, 256))
        self.built = True

    def features(self, hyper: Any) -> Any:
        """Return features (n, 4 h, 4 w, width) of hyper-latents (n, h, w, c), integers of at most 127 in size."""
        half = depth_to_space(self.up[0](hyper), 2)
        return depth_to_space(self.up[1](half, offsets=SQUARE), 2)

    def context(self, known: Any) -> Any:
        """Return features (n, h, w, width) of latents as integers in 2^-4, 0 where not known: (n, h, w, c)."""
        step = 2.0 ** (self.CONTEXT_BITS - self.MEAN_BITS)
        known = ops.convert_to_tensor(known)
        return self.around(ops.clip(round_half_up(known * step), -255.0, 255.0), offsets=OTHER_COLOUR)

    def parameters(self, features: Any, context: Any, step: Any) -> tuple[Any, Any]:
        """Return ``(mean, scale)`` of latents, integers in 2^-4: each (n, h, w, latents).

        Args:
            features: from `features`.
            context: from `context`, or zeros.
            step: the quality as an integer from 0 to 255, (n,).
        """
        steps = ops.stack(rate_features(step), axis=-1)[:, None, None]
        steps = ops.broadcast_to(steps, (ops.shape(features)[0], *features.shape[1:3], steps.shape[-1]))
        values = ops.concatenate([features, context, steps], axis=-1)
        for layer in self.hidden:
            values = layer(values)
        values = self.last(values)
        return values[..., : self.latents], values[..., self.latents :]

    def call(self, hyper: Any, step: Any) -> Any:
        """Return the parameters without context."""
        features = self.features(hyper)
        return self.parameters(features, ops.zeros_like(features), step)

    def start(self, index: Any, slope: float) -> None:
        """Begin with scales that are right on average.

        Args:
            index: (latents,), of the scale of each channel at the middle quality.
            slope: by how much an index grows from quality 0 to quality 1.
        """
        weight = slope / 4 / (LARGEST_INPUT / 16)  # an index is a quarter of the integer
        for number, layer in enumerate(self.hidden):  # their first unit hands the quality on
            kernel = np.array(ops.convert_to_numpy(layer.kernel))
            kernel[:, 0] = 0.0
            kernel[2 * self.width if number == 0 else 0, 0] = 1.0
            layer.kernel.assign(kernel)
        kernel = np.array(ops.convert_to_numpy(self.last.kernel))
        kernel[0] = np.repeat([0.0, weight], self.latents)
        kernel[1:] *= 0.2
        self.last.kernel.assign(kernel)
        offset = (np.asarray(index) - FIRST_INDEX) / 4 - weight * LARGEST_INPUT / 32
        self.last.bias.assign(np.concatenate([np.zeros(self.latents), offset]).astype("float32"))

    def settle(self) -> None:
        """Settle every layer."""
        for layer in (*self.up, self.around, *self.hidden, self.last):
            layer.settle()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "latents": self.latents, "width": self.width}
