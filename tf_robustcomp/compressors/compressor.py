"""The standard compressor."""

import keras

from tf_robustcomp.adversaries.base import check_at_least
from tf_robustcomp.compressors import networks
from tf_robustcomp.compressors.base import BaseCompressor


@keras.saving.register_keras_serializable("tf_robustcomp")
class Compressor(BaseCompressor):
    """The standard compressor of Lei, Hassani, Saeedi Bidokhti 2021 (arXiv 2110.07007), f = g o q o e.

    Args:
        latent_dim: int >= 1, latents d.
        levels: int >= 2, values L of each latent; the rate is d log2 L bits per image.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Example:
        >>> model = Compressor(latent_dim=10, levels=12, width=64)
        >>> model.compile(keras.optimizers.Adam(2e-4), adversary=WassersteinBall(gamma=1.0, steps=15))
        >>> model.fit(images, epochs=5)  # targets are the inputs
    """

    def __init__(self, latent_dim, levels=12, width=64, image_shape=(32, 32, 1), sigma=1.0, **kwargs):
        super().__init__((check_at_least("latent_dim", latent_dim, 1),), levels, width, image_shape, sigma, **kwargs)
        self.encoder = networks.encoder(latent_dim, width, self.image_shape, self.dtype_policy)
        self.decoder = networks.decoder(latent_dim, width, self.image_shape, dtype=self.dtype_policy)
        self.build(None)

    def latents(self, images, stage, training=False):
        """Code of the encoder."""
        return self.encoder(images, training=training)

    def reconstruct(self, latents, stage, training=False):
        """Image of the decoder."""
        return self.decoder(latents, training=training)

    def get_config(self):
        """Constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}
