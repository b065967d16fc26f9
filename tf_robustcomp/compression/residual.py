"""A second compressor for the error of a first one."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_robustcomp.compression import networks
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.compression.standard import Compressor
from tf_robustcomp.compression.two_stages import TwoStageModel
from tf_robustcomp.utils.registry import register


@register(
    "compressor",
    "residual",
    uses=("stage_dims", "levels", "width", "image_shape", "fused"),
    rules={"stage_dims": {"length": 2}, "warm_start": {"given": True}},
)
class ResidualCompressor(TwoStageModel):
    """A trained compressor f1, frozen, and a second one for its error: x -> f1(x) + f2(x - f1(x)).

    The difference lies in [-1, 1], so the second decoder ends in tanh.  The sum is clipped to [0, 1] at inference,
    which moves it nearer to any image; in training it is not, since clipping would take the gradient.

    Args:
        stage_dims: two int >= 1, d1 and d2.
        *args, **kwargs: of `CompressionModel`, from ``levels`` on.

    Example:
        >>> trained = rc.Compressor(3, width=8)  # and model.fit
        >>> model = rc.ResidualCompressor((3, 7), width=8)
        >>> model.first.set_weights(trained.get_weights())
    """

    def __init__(self, stage_dims: Sequence[int] = (3, 7), *args: Any, **kwargs: Any) -> None:
        super().__init__(stage_dims, *args, **kwargs)
        d1, d2 = self.stage_dims
        self.first = Compressor(d1, self.levels, sigma=self.sigma, name="first", **self.network_options)
        self.first.trainable = False
        self.encoder = networks.encoder(d2, **self.network_options)
        self.decoder = networks.decoder(d2, activation="tanh", **self.network_options)
        self.build((None, *self.image_shape))

    def latents(self, images: Any, stage: int, training: bool = False) -> Any:
        """Return the latents of the first compressor, then those of its error."""
        z1 = self.first.latents(images, 1)
        if stage == 1:
            return z1
        error = images - self.first.reconstruct(self.quantizer(z1), 1)
        return ops.concatenate([z1, self.encoder(error, training=training)], axis=1)

    def reconstruct(self, latents: Any, stage: int, training: bool = False) -> Any:
        """Return the images of the first compressor, plus the coded error."""
        d1 = self.stage_dims[0]
        coarse = self.first.reconstruct(latents[:, :d1], 1)
        if stage == 1:
            return coarse
        images = coarse + self.decoder(latents[:, d1:], training=training)
        return images if training else ops.clip(images, 0.0, 1.0)

    def warm_start_parts(self, trained: CompressionModel) -> list[tuple[keras.Model, keras.Model]]:
        """Take a standard compressor for the first one."""
        return [(self.first, trained)] if isinstance(trained, Compressor) else super().warm_start_parts(trained)
