"""Pre-activation ResNets for small images (He et al. 2016, arXiv 1603.05027, "v2")."""

from collections.abc import Sequence

import keras
from keras import layers

from tf_robustcomp.backend.fused import BatchNormalization
from tf_robustcomp.utils.errors import InvalidArgument

STAGE_CHANNELS = (16, 32, 64)


def resnet_v2(
    depth: int = 56,
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    bn_momentum: float = 0.997,
    fused: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Return a ResNet-(6n+2): a 3x3 convolution, three stages of ``n`` blocks (16, 32, 64 channels), dense.

    Block: BN-ReLU-conv3x3-BN-ReLU-conv3x3 plus shortcut; the first block of a stage has a 1x1 projection of its
    BN-ReLU output as shortcut, and halves the image from the second stage on.  Strided convolutions are padded by 1 on
    both sides.  No convolution biases, Glorot-uniform kernels, BN epsilon 1e-5.

    Args:
        depth: ``6n + 2`` with ``n >= 1``; 56 has 859,898 parameters, moving statistics counted.
        input_shape: (height, width, channels) of images in [0, 1].
        classes: size of the output.
        bn_momentum: of the moving statistics, in [0, 1].
        fused: whether batch norm trains by one operation.
        name: of the model.

    Returns:
        Functional ``keras.Model``: (n, height, width, channels) -> logits (n, classes), float32 under any dtype policy.

    Raises:
        InvalidArgument: the depth is not of that form.

    Example:
        >>> rc.resnet_v2(20, (32, 32, 3), classes=10).count_params()
        273914
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise InvalidArgument(f"depth must be 6n + 2 (8, 14, 20, ..., 56, ...). Received: depth={depth}")
    norm = {"momentum": bn_momentum, "fused": fused}
    inputs = layers.Input(input_shape)
    x = _conv(STAGE_CHANNELS[0], 3)(inputs)
    for stage, channels in enumerate(STAGE_CHANNELS):
        for block in range(blocks):
            x = _block(x, channels, 2 if stage > 0 and block == 0 else 1, block == 0, norm)
    x = layers.GlobalAveragePooling2D()(_bn_relu(x, norm))
    x = layers.Dense(classes)(x)
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(x), name=name or f"resnet{depth}_v2")


def _block(x, channels, strides, project, norm):
    activated = _bn_relu(x, norm)
    shortcut = _conv(channels, 1, strides)(activated) if project else x
    y = _conv(channels, 3)(_bn_relu(_strided(activated, channels, strides), norm))
    return layers.Add()([shortcut, y])


def _strided(x, channels, strides):
    if strides == 1:
        return _conv(channels, 3)(x)
    return _conv(channels, 3, strides, padding="valid")(layers.ZeroPadding2D(1)(x))


def _bn_relu(x, norm):
    return layers.ReLU()(BatchNormalization(epsilon=1e-5, **norm)(x))


def _conv(channels, kernel_size, strides=1, padding="same"):
    return layers.Conv2D(channels, kernel_size, strides, padding=padding, use_bias=False)
