"""Networks of few weights, each used many times, so that their code is short."""

import math
from collections.abc import Sequence

import keras
from keras import layers

from tf_robustcomp.utils.checks import check_at_least


def compact_network(
    input_shape: Sequence[int] = (28, 28, 1), classes: int = 10, width: int = 8, repeats: int = 6, stages: int = 2
) -> keras.Model:
    """Return a residual network whose blocks share one convolution.

    A 5x5 convolution of stride 2; ``stages`` times: ``repeats / stages`` blocks x + conv3x3(ReLU(norm(x))), and between
    stages a maximum over 2x2; the mean over positions; dense.  The norms have no weights and keep no statistics.  So
    a network of ``width`` w has 25 w channels + 9 w^2 + classes w weights and 2 w + classes biases.

    Args:
        input_shape: (height, width, channels) of images in [0, 1].
        classes: size of the output.
        width: channels.
        repeats: number of blocks, a multiple of ``stages``.
        stages: number of image sizes.

    Returns:
        Functional ``keras.Model``: (n, height, width, channels) -> logits (n, classes).

    Raises:
        InvalidArgument: an argument is below 1.
    """
    for name, value in {"width": width, "repeats": repeats, "stages": stages}.items():
        check_at_least(name, value, 1)
    inputs = layers.Input(tuple(input_shape))
    x = layers.Conv2D(width, 5, strides=2, padding="same")(_norm(inputs))
    shared = layers.Conv2D(width, 3, padding="same")
    for block in range(repeats):
        if block and block % max(1, repeats // stages) == 0:
            x = layers.MaxPooling2D(2, padding="same")(x)
        x = layers.Add()([x, shared(layers.ReLU()(_norm(x)))])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(_norm(x)))
    return keras.Model(inputs, layers.Dense(classes)(_norm(x, 2.0)), name="compact")


def _norm(x, size=1.0):
    """All numbers of an example, at a root mean square of ``size``."""
    axes = tuple(range(1, len(x.shape)))
    return layers.Rescaling(size * math.sqrt(math.prod(x.shape[1:])))(layers.UnitNormalization(axes)(x))
