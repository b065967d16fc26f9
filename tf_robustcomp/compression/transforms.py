"""Transforms of photographs to latents and back: a linear block transform and a learned residual upon it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_robustcomp.compression.integer_network import depth_to_space

BLOCK = 16  # pixels of a side for one latent of a channel


def quality_features(quality: Any) -> Any:
    """Return the first four Chebyshev polynomials of qualities in [0, 1]: (n,) -> (n, 4)."""
    t = 2.0 * ops.cast(quality, "float32") - 1.0
    return ops.stack([ops.ones_like(t), t, 2 * t * t - 1, (4 * t * t - 3) * t], axis=-1)


@keras.saving.register_keras_serializable("tf_robustcomp")
class ResidualBlock(keras.layers.Layer):
    """x + conv(relu(conv(x) scaled by the quality)).

    Args:
        width: int >= 1, channels of x (n, h, w, width).
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.first = keras.layers.Conv2D(width, 3, padding="same", dtype=self.dtype_policy, name="first")
        small = keras.initializers.VarianceScaling(0.05)
        self.second = keras.layers.Conv2D(
            width, 3, padding="same", kernel_initializer=small, dtype=self.dtype_policy, name="second"
        )
        self.condition = keras.layers.Dense(width, kernel_initializer="zeros", use_bias=False, name="condition")

    def build(self, input_shape: Any, features: int = 4) -> None:
        """Make the weights."""
        self.first.build((None, None, None, self.width))
        self.second.build((None, None, None, self.width))
        self.condition.build((None, features))
        self.built = True

    def call(self, x: Any, features: Any) -> Any:
        """Return (n, h, w, width), for features of the quality (n, f)."""
        scale = 1 + ops.cast(self.condition(features), x.dtype)[:, None, None]
        return x + self.second(ops.leaky_relu(self.first(x) * scale, 0.1))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "width": self.width}


class _Transform(keras.layers.Layer):
    """Base of analysis and synthesis: the configuration, and a sequence of layers."""

    def __init__(
        self,
        latents: int = 192,
        widths: Sequence[int] = (64, 96, 128),
        blocks: Sequence[int] = (2, 2, 1),
        channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latents, self.widths, self.blocks, self.channels = latents, tuple(widths), tuple(blocks), channels

    def conv(self, filters, size, name, stride=1, **kwargs):
        return keras.layers.Conv2D(filters, size, stride, padding="same", dtype=self.dtype_policy, name=name, **kwargs)

    def level(self, index):
        return [
            ResidualBlock(self.widths[index], dtype=self.dtype_policy, name=f"block_{index}_{number}")
            for number in range(self.blocks[index])
        ]

    def build_layers(self, channels):
        for layer in self.body:
            layer.build((None, None, None, channels))
            channels = getattr(layer, "filters", channels) // (layer.shuffle**2 if hasattr(layer, "shuffle") else 1)
        self.built = True

    def run(self, x, features):
        for layer in self.body:
            x = layer(x, features) if isinstance(layer, ResidualBlock) else layer(x)
            if hasattr(layer, "shuffle"):
                x = depth_to_space(x, layer.shuffle)
        return x

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("latents", "widths", "blocks", "channels")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("tf_robustcomp")
class Analysis(_Transform):
    """Images (n, h, w, c), sides multiples of 16, to latents (n, h / 16, w / 16, latents).

    A linear transform of blocks of 16 x 16 pixels, and what a network of convolutions at 1/4, 1/8 and 1/16 of the
    resolution adds to it; no convolution runs at full resolution.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        a, b, c = self.widths
        self.linear = keras.layers.Conv2D(self.latents, BLOCK, BLOCK, use_bias=False, dtype="float32", name="linear")
        self.body = [
            self.conv(a, 8, "down_0", 4),
            *self.level(0),
            self.conv(b, 4, "down_1", 2),
            *self.level(1),
            self.conv(c, 4, "down_2", 2),
            *self.level(2),
            self.conv(self.latents, 1, "last", kernel_initializer="zeros"),
        ]

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.linear.build((None, None, None, self.channels))
        self.build_layers(self.channels)

    def call(self, images: Any, features: Any) -> Any:
        """Return the latents of images in [0, 1]."""
        images = ops.cast(images, "float32") - 0.5
        return self.linear(images) + ops.cast(self.run(images, features), "float32")


@keras.saving.register_keras_serializable("tf_robustcomp")
class Synthesis(_Transform):
    """Latents (n, h, w, latents) to images (n, 16 h, 16 w, c), the mirror of `Analysis`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        a, b, c = self.widths
        pixels = self.channels * BLOCK**2
        self.linear = keras.layers.Dense(pixels, use_bias=False, dtype="float32", name="linear")
        ups = [
            self.conv(4 * b, 1, "up_2"),
            self.conv(4 * a, 1, "up_1"),
            self.conv(16 * self.channels, 3, "last", kernel_initializer="zeros"),
        ]
        for layer, shuffle in zip(ups, (2, 2, 4), strict=True):
            layer.shuffle = shuffle
        self.body = [
            self.conv(c, 3, "first"),
            *self.level(2),
            ups[0],
            *self.level(1),
            ups[1],
            *self.level(0),
            ups[2],
        ]

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.linear.build((None, self.latents))
        self.build_layers(self.latents)

    def call(self, latents: Any, features: Any) -> Any:
        """Return images, float32, not cut to [0, 1]."""
        blocks = depth_to_space(self.linear(ops.cast(latents, "float32")), BLOCK)
        return blocks + ops.cast(self.run(latents, features), "float32") + 0.5


@keras.saving.register_keras_serializable("tf_robustcomp")
class Gain(keras.layers.Layer):
    """Scales of latents as a smooth function of the quality, so that one model has many rates.

    Continuous gain units (Cui et al., CVPR 2021, arXiv 2003.02012): the logarithm is a cubic of the quality.

    Args:
        start: the logarithm's four coefficients before training.
    """

    def __init__(self, start: Sequence[float] = (0.0, 0.0, 0.0, 0.0), **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.start = tuple(start)

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.logarithm = self.add_weight(shape=(4, input_shape[-1]), initializer="zeros", name="logarithm")
        self.logarithm.assign(ops.ones((4, input_shape[-1])) * ops.reshape(ops.array(self.start, "float32"), (4, 1)))
        self.built = True

    def call(self, latents: Any, features: Any) -> Any:
        """Return latents (n, h, w, c) scaled for features of the quality (n, 4)."""
        return latents * ops.exp(ops.matmul(features, self.logarithm))[:, None, None]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "start": self.start}


@keras.saving.register_keras_serializable("tf_robustcomp")
class HyperAnalysis(_Transform):
    """Latents (n, h, w, latents), sides multiples of 4, to hyper-latents (n, h / 4, w / 4, widths[-1])."""

    def __init__(self, latents: int = 192, widths: Sequence[int] = (96, 96, 64), **kwargs: Any) -> None:
        super().__init__(latents, widths, (0, 0, 0), **{**kwargs, "channels": latents})
        a, b, c = self.widths
        act = {"activation": "leaky_relu"}
        small = keras.initializers.VarianceScaling(0.05)
        last = self.conv(c, 4, "down_1", 2, kernel_initializer=small)
        self.body = [self.conv(a, 1, "first", **act), self.conv(b, 4, "down_0", 2, **act), last]

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        self.build_layers(self.latents)

    def call(self, latents: Any) -> Any:
        """Return the hyper-latents, float32."""
        return ops.cast(self.run(latents, None), "float32")
