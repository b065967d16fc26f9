"""The networks of the compressors, as plain functional Keras models."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from tf_robustcomp.backend.folding import Chain
from tf_robustcomp.backend.fused import BatchNormalization
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument

# Kernel 4, stride 2 on an even side: "same" pads by 1 on both sides, and transposed it crops by 1 on both sides.
HALVING = {"kernel_size": 4, "strides": 2, "padding": "same"}
NORM = {"epsilon": 1e-5, "momentum": 0.9}
SMALLEST = 16  # four halvings


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (h, w, c); raise InvalidArgument unless both sides are multiples of 16 and c >= 1."""
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise InvalidArgument(f"image_shape must be (height, width, channels). Received: image_shape={image_shape}")
    height, width, channels = shape
    if min(height, width) < SMALLEST or height % SMALLEST or width % SMALLEST:
        raise InvalidArgument(f"image_shape must have sides that are multiples of 16. Received: image_shape={shape}")
    return height, width, check_at_least("channels", channels, 1)


def encoder(
    latent_dim: int,
    width: int = 64,
    image_shape: Sequence[int] = (32, 32, 1),
    dtype: Any = None,
    name: str = "encoder",
    fused: bool = True,
) -> Chain:
    """Return the network e of f = g o q o e: images (n, h, w, c) -> latents (n, d) in (-1, 1), in float32.

    Four convolutions to width, 2, 4 and 8 times width channels, each halving the side, then a dense layer.

    Args:
        latent_dim: int >= 1, d.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        dtype: Keras dtype policy of the layers.
        name: of the model.
        fused: whether batch norm runs as one operation in training, and is folded under attack.
    """
    images, x = _trunk(width, image_shape, dtype, fused)
    x = layers.Activation("sigmoid", dtype=dtype)(x)
    x = _dense(layers.Flatten(dtype=dtype)(x), latent_dim, dtype)
    return Chain(images, layers.Activation("tanh", dtype="float32")(x), fold=fused, name=name)


def angle_net(
    width: int = 64,
    image_shape: Sequence[int] = (32, 32, 1),
    dtype: Any = None,
    name: str = "angle_net",
    fused: bool = True,
) -> Chain:
    """Return the encoder's body with a linear end: images (n, h, w, c) -> (n, 2), along (cos, sin) of their angle."""
    images, x = _trunk(width, image_shape, dtype, fused)
    x = layers.LeakyReLU(negative_slope=0.2, dtype=dtype)(x)
    x = _dense(layers.Flatten(dtype=dtype)(x), 2, dtype)
    return Chain(images, layers.Activation("linear", dtype="float32")(x), fold=fused, name=name)


def decoder(
    latent_dim: int,
    width: int = 64,
    image_shape: Sequence[int] = (32, 32, 1),
    activation: str = "sigmoid",
    dtype: Any = None,
    name: str = "decoder",
    fused: bool = True,
) -> Chain:
    """Return the network g of f = g o q o e: latents (n, d) -> images (n, h, w, c), in float32.  Mirrors ``encoder``.

    Args:
        latent_dim: int >= 1, d.
        width: int >= 1, channels before the last transposed convolution.
        image_shape: (h, w, c), sides multiples of 16.
        activation: of the last layer: "sigmoid" for images, "tanh" for differences of images.
        dtype: Keras dtype policy of the other layers.
        name: of the model.
        fused: whether batch norm runs as one operation in training, and is folded under attack.
    """
    height, wide, channels = image_shape
    seed_shape = (height // SMALLEST, wide // SMALLEST, 8 * width)
    latents = keras.Input((latent_dim,))
    x = _dense(latents, math.prod(seed_shape), dtype)
    x = layers.Reshape(seed_shape, dtype=dtype)(layers.ReLU(dtype=dtype)(x))
    for factor in (4, 2, 1):
        x = _conv(layers.Conv2DTranspose, x, factor * width, dtype)
        x = BatchNormalization(**NORM, fused=fused, dtype=dtype)(layers.ReLU(dtype=dtype)(x))
    x = _conv(layers.Conv2DTranspose, x, channels, dtype)
    return Chain(latents, layers.Activation(activation, dtype="float32")(x), fold=fused, name=name)


def _trunk(width, image_shape, dtype, fused):
    """The convolutions of the encoder, the last without activation: ``(input, output)``."""
    images = keras.Input(image_shape)
    x = images
    for factor in (1, 2, 4):
        x = _conv(layers.Conv2D, x, factor * width, dtype)
        x = layers.LeakyReLU(negative_slope=0.2, dtype=dtype)(x)
        x = BatchNormalization(**NORM, fused=fused, dtype=dtype)(x)
    return images, _conv(layers.Conv2D, x, 8 * width, dtype)


def _conv(kind, x, channels, dtype):
    # PyTorch, which the original is in, takes the output channels of a transposed convolution for its inputs.
    inputs = channels if kind is layers.Conv2DTranspose else x.shape[-1]
    return kind(channels, **HALVING, **_initial(16 * inputs), dtype=dtype)(x)


def _dense(x, units, dtype):
    return layers.Dense(units, **_initial(x.shape[-1]), dtype=dtype)(x)


def _initial(inputs):
    """Draw kernel and bias from U(-b, b), b = inputs^(-1/2), as the original (PyTorch) does.

    Glorot's larger kernels soon saturate the tanh of some latents for good, the sooner the wider the network; and with
    biases of zero a code of zeros (L odd) meets a decoder without gradient.
    """
    bound = inputs**-0.5
    return {f"{kind}_initializer": keras.initializers.RandomUniform(-bound, bound) for kind in ("kernel", "bias")}
