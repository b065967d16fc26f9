"""Networks of few weights, each used many times, so that their code is short."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.errors import InvalidArgument

SIDE = 5  # pixels of the cosine filters
EPSILON = 1e-6


def compact_network(
    input_shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    width: int = 16,
    repeats: int = 6,
    stages: int = 2,
    shared: bool = True,
    views: int = 1,
) -> keras.Model:
    """Return a residual network whose blocks share one depthwise and one pointwise convolution.

    ``width`` fixed cosine filters of 5x5 at stride 2; blocks x + pointwise(ReLU(norm(depthwise 3x3(x)))), in ``stages``
    parts of which each begins with a maximum over 2x2, but the first; the mean over positions; dense.
    Filters and norms have no weights and keep no statistics, so that they take no code.  A network of width w and k
    classes has w (w + 10) + k (w + 1) weights, however often they are used.

    Args:
        input_shape: (height, width, channels) of images in [0, 1].
        classes: size of the output.
        width: channels, at most 25 for each channel of the images.
        repeats: number of blocks.
        stages: number of image sizes.
        shared: whether all blocks have the same convolutions; without, each has its own.
        views: the logits are means over views^2 copies of the image, shifted by 0 to views - 1 pixels down and right.
            They take no code, and the time of as many networks; while training there is one copy.

    Returns:
        Functional ``keras.Model``: (n, height, width, channels) -> logits (n, classes).

    Raises:
        InvalidArgument: an argument is below 1, or the width is too large.

    Example:
        >>> rc.compact_network((28, 28, 1), classes=10, width=16).count_params()  # 16 * 26 + 10 * 17
        586
    """
    for name, value in {"width": width, "repeats": repeats, "stages": stages, "views": views}.items():
        check_at_least(name, value, 1)
    inputs = layers.Input(tuple(input_shape))
    x = ShiftedCopies(views)(inputs) if views > 1 else inputs
    x = CosineFilters(width)(ConstantPower()(x))
    for block in range(repeats):
        if not (block and shared):
            depthwise, pointwise = layers.DepthwiseConv2D(3, padding="same", use_bias=False), layers.Conv2D(width, 1)
        if block and block % math.ceil(repeats / stages) == 0:
            x = layers.MaxPooling2D(2, padding="same")(x)
        x = layers.Add()([x, pointwise(layers.ReLU()(ConstantPower()(depthwise(x))))])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(ConstantPower()(x)))
    x = layers.Dense(classes)(ConstantPower(4.0)(x))
    return keras.Model(inputs, MeanOfCopies(views)(x) if views > 1 else x, name="compact")


@keras.saving.register_keras_serializable("tf_robustcomp")
class CosineFilters(layers.Layer):
    """Fixed 5x5 filters at stride 2, those of the discrete cosine transform, the lowest frequencies first.

    Args:
        filters: int, 1 to 25 for each channel of the input; each frequency is taken of all channels before the next.
    """

    def __init__(self, filters: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.filters = check_at_least("filters", filters, 1)

    def build(self, input_shape: Any) -> None:
        """Make the filters."""
        channels = input_shape[-1]
        if self.filters > SIDE**2 * channels:
            raise InvalidArgument(f"width must be at most {SIDE**2 * channels} here. Received: width={self.filters}")
        order = sorted((i + j, max(i, j), i, j) for i in range(SIDE) for j in range(SIDE))
        kernel = np.zeros((SIDE, SIDE, channels, self.filters), np.float32)
        for number in range(self.filters):
            frequency, channel = divmod(number, channels)
            kernel[:, :, channel, number] = np.outer(*map(_cosine, order[frequency][2:]))
        self.kernel = kernel

    def call(self, inputs: Any) -> Any:
        """Return the filtered images (n, height / 2, width / 2, filters)."""
        return ops.conv(inputs, ops.cast(self.kernel, inputs.dtype), strides=2, padding="same")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return super().get_config() | {"filters": self.filters}


@keras.saving.register_keras_serializable("tf_robustcomp")
class ConstantPower(layers.Layer):
    """Scales all numbers of an example so that their mean square is ``power``; it has no weights.

    Args:
        power: float > 0.
    """

    def __init__(self, power: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.power = check_positive("power", power)

    def call(self, inputs: Any) -> Any:
        """Return the scaled numbers; zeros stay zeros, with a finite gradient."""
        mean = ops.mean(ops.square(inputs), axis=tuple(range(1, len(inputs.shape))), keepdims=True)
        return inputs * ops.rsqrt(mean + EPSILON) * math.sqrt(self.power)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return super().get_config() | {"power": self.power}


class _OfViews(layers.Layer):
    """Base of layers that do something with views^2 copies of each example, except while training.

    Args:
        views: int >= 1.
    """

    def __init__(self, views: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.views = check_at_least("views", views, 1)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """Return the shape, whose batch is unknown; PyTorch cannot find it with a batch that is no multiple."""
        return (None, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return super().get_config() | {"views": self.views}


@keras.saving.register_keras_serializable("tf_robustcomp")
class ShiftedCopies(_OfViews):
    """Makes of a batch (n, h, w, c) copies, one after another, shifted by 0 to ``views`` - 1 pixels down and right."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the copies (views^2 n, h, w, c), zeros where nothing is known; while training the batch."""
        if training:
            return inputs
        (height, width), most = inputs.shape[1:3], self.views - 1
        padded = ops.pad(inputs, ((0, 0), (most, 0), (most, 0), (0, 0)))
        starts = [(i, j) for i in range(most, -1, -1) for j in range(most, -1, -1)]
        return ops.concatenate([padded[:, i : i + height, j : j + width] for i, j in starts], axis=0)


@keras.saving.register_keras_serializable("tf_robustcomp")
class MeanOfCopies(_OfViews):
    """Takes the mean of the outputs for `ShiftedCopies`."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the means (n, c) of (views^2 n, c); while training the batch."""
        if training:
            return inputs
        return ops.mean(ops.reshape(inputs, (self.views**2, -1, inputs.shape[-1])), axis=0)


def _cosine(frequency):
    scale = math.sqrt((2 if frequency else 1) / SIDE)
    return scale * np.cos(math.pi * frequency * (np.arange(SIDE) + 0.5) / SIDE)
