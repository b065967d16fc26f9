"""The standard compressor."""

from collections.abc import Sequence
from typing import Any

from tf_robustcomp.compression import networks
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.registry import register


@register(
    "compressor",
    "standard",
    uses=("latent_dim", "levels", "width", "image_shape", "fused"),
)
class Compressor(CompressionModel):
    """The standard compressor of Lei, Hassani, Saeedi Bidokhti 2021 (arXiv 2110.07007), f = g o q o e.

    Args:
        latent_dim: int >= 1, latents d.
        levels: int >= 2, values L of each latent; the rate is d log2 L bits per image.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        fused: whether batch norm runs as one operation in training, and is folded under attack.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Example:
        >>> model = rc.Compressor(latent_dim=10, levels=12, width=16)
        >>> model.compile(keras.optimizers.Adam(2e-4), adversary=rc.WassersteinBall(gamma=1.0, steps=15))
        >>> model.fit(train_images, epochs=5)  # targets are the inputs
    """

    def __init__(
        self,
        latent_dim: int,
        levels: int = 12,
        width: int = 64,
        image_shape: Sequence[int] = (32, 32, 1),
        sigma: float = 1.0,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        stage_dims = (check_at_least("latent_dim", latent_dim, 1),)
        super().__init__(stage_dims, levels, width, image_shape, sigma, fused, **kwargs)
        self.encoder = networks.encoder(latent_dim, **self.network_options)
        self.decoder = networks.decoder(latent_dim, **self.network_options)
        self.build((None, *self.image_shape))

    def latents(self, images: Any, stage: int, training: bool = False) -> Any:
        """Return the encoder's latents."""
        return self.encoder(images, training=training)

    def reconstruct(self, latents: Any, stage: int, training: bool = False) -> Any:
        """Return the decoder's images."""
        return self.decoder(latents, training=training)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}
