"""A compressor that codes the rotation angle of an image apart from the upright image."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import read
from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.compression import networks
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.compression.standard import Compressor
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.registry import register


@register(
    "compressor",
    "rotation_aligned",
    uses=("latent_dim", "levels", "width", "image_shape", "fused"),
    rules={"latent_dim": {"minimum": 3}},
)
class RotationAligned(CompressionModel):
    """Predicts the rotation of an image, codes the angle, then the image rotated back (arXiv 2110.07007).

    A network predicts (cos, sin) of the angle, which has no jump.  The angle is rounded to L^2 distinct levels, 360 /
    L^2 degrees apart (144 for L = 12), which are two symbols; the upright image is coded with d - 2 latents.

    Training rotates each image by a random angle, a function of (seed, step), before any adversary; the angle that the
    image then has is the target of the angle net (loss: 1 - cos of the error, added to the distortion).

    Args:
        latent_dim: int >= 3, latents d, two of which are the angle's.
        *args, **kwargs: of `CompressionModel`, from ``levels`` on.

    Example:
        >>> model = rc.RotationAligned(latent_dim=10, levels=12, width=8)
        >>> model.compile("adam")
        >>> model.fit(train_images, epochs=5)
        >>> decoded = model(images)
    """

    def __init__(self, latent_dim: int = 10, *args: Any, **kwargs: Any) -> None:
        stage_dims = (check_at_least("latent_dim", latent_dim, 3),)
        super().__init__(stage_dims, *args, **kwargs)
        self.angle_net = networks.angle_net(**self.network_options)
        self.upright = Compressor(latent_dim - 2, self.levels, sigma=self.sigma, name="upright", **self.network_options)
        self.build((None, *self.image_shape))

    def latents(self, images: Any, stage: int, training: bool = False) -> Any:
        """Return the two digits of the angle, then the latents of the upright image."""
        return self._aligned(images, self.angle_net(images, training=training), training)

    def reconstruct(self, latents: Any, stage: int, training: bool = False) -> Any:
        """Return the upright images, rotated by their angles."""
        images = self.upright.reconstruct(latents[:, 2:], 1, training=training)
        return rotate(images, self._angle(self.quantizer.symbols(latents[:, :2])))

    def angle(self, images: Any) -> Any:
        """Return the angle (n,) in degrees, counter-clockwise, in the code of images (n, h, w, c)."""
        return self._angle(self.encode(images)[:, :2])

    def training_call(self, *inputs: Any) -> Any:
        """Return the images for ``(images, angles)``, and train the angle net on the angles."""
        images, angles = inputs
        direction = self.angle_net(images, training=True)
        self.add_loss(_angle_loss(direction, angles))
        latents = self.quantizer(self._aligned(images, direction, True))
        return self.reconstruct(latents, self.stages, training=True)

    def training_inputs(self, images: Any) -> tuple[Any, Any]:
        """Return the worst case of randomly rotated images, with their angles."""
        step = read(self.optimizer.iterations)
        angles = keras.random.uniform(ops.shape(images)[:1], -180.0, 180.0, seed=step_seed("turns", self.seed, step))
        result = self.worst_case(rotate(images, angles))
        return (result.x, angles + result.angle), result.x

    def warm_start_parts(self, trained: CompressionModel) -> list[tuple[keras.Model, keras.Model]]:
        """Take a standard compressor for upright images."""
        return [(self.upright, trained)] if isinstance(trained, Compressor) else super().warm_start_parts(trained)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}

    def _aligned(self, images, direction, training):
        symbols = self._angle_symbols(direction)
        upright = rotate(images, -self._angle(symbols))
        z = self.upright.latents(upright, 1, training=training)
        return ops.concatenate([self.quantizer.values(symbols), z], axis=1)

    def _angle_symbols(self, direction):
        """Rounded angle of (cos, sin) (n, 2) as two symbols (n, 2), the upper digit first."""
        degrees = ops.arctan2(direction[:, 1], direction[:, 0]) * (180.0 / np.pi)
        index = ops.cast(ops.round((degrees + 180.0) * (self.levels**2 / 360.0)), "int32") % self.levels**2
        return ops.stack([index // self.levels, index % self.levels], axis=1)

    def _angle(self, symbols):
        index = ops.cast(symbols[:, 0] * self.levels + symbols[:, 1], "float32")
        return index * (360.0 / self.levels**2) - 180.0


def _angle_loss(direction, degrees):
    """Mean of 1 - cos(error) for directions (n, 2) of any length and angles (n,)."""
    wanted = ops.stack([ops.cos(degrees * (np.pi / 180.0)), ops.sin(degrees * (np.pi / 180.0))], axis=1)
    length = ops.sqrt(ops.sum(ops.square(direction), axis=1) + 1e-12)
    return ops.mean(1.0 - ops.sum(direction * wanted, axis=1) / length)
