"""Structured compressors: stages, residuals, and an angle sent apart."""

import keras
import numpy as np
from keras import ops

from tf_robustcomp.adversaries.base import check_at_least, step_seed
from tf_robustcomp.adversaries.rotation import rotate
from tf_robustcomp.backend import read
from tf_robustcomp.compressors import networks
from tf_robustcomp.compressors.base import BaseCompressor
from tf_robustcomp.compressors.compressor import Compressor
from tf_robustcomp.errors import InvalidArgument


class _TwoStages(BaseCompressor):
    """What the structured compressors of two stages share: their argument ``stage_dims``."""

    def __init__(self, stage_dims, *args, **kwargs):
        if len(tuple(stage_dims)) != 2:
            raise InvalidArgument(f"stage_dims must be two integers. Received: stage_dims={stage_dims}")
        super().__init__(stage_dims, *args, **kwargs)

    def get_config(self):
        """Constructor's arguments."""
        return {**super().get_config(), "stage_dims": self.stage_dims}


@keras.saving.register_keras_serializable("tf_robustcomp")
class SuccessiveRefinement(_TwoStages):
    """One encoder, two decoders: the first sees the first d1 latents, the second all d1 + d2 (arXiv 2110.07007).

    Stage 1 is trained on clean images and stage 2 on their worst case, so that the second part of the code buys
    robustness: after ``warmup_steps``, each batch is with probability ``share`` attacked and goes through decoder 2;
    otherwise it stays clean and goes through decoder 1.  The coin is a function of (seed, step).

    Args:
        stage_dims: two int >= 1, d1 and d2.
        levels: int >= 2, values L of each latent; the rate is (d1 + d2) log2 L bits per image.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        **kwargs: ``name`` and ``dtype`` of Keras.
    """

    compile_settings = (*BaseCompressor.compile_settings, "warmup_steps", "share")

    def __init__(self, stage_dims=(3, 7), levels=12, width=64, image_shape=(32, 32, 1), sigma=1.0, **kwargs):
        super().__init__(stage_dims, levels, width, image_shape, sigma, **kwargs)
        policy = self.dtype_policy
        self.encoder = networks.encoder(self.latent_dim, width, self.image_shape, policy)
        self.decoders = [
            networks.decoder(self.stage_width(stage), width, self.image_shape, dtype=policy, name=f"decoder_{stage}")
            for stage in (1, 2)
        ]
        self.build(None)

    def compile(self, *args, warmup_steps=0, share=0.5, **kwargs):
        """As for every compressor, and:

        Args:
            *args: of ``Compressor.compile``.
            warmup_steps: int >= 0, training steps at the beginning of which all are clean, through decoder 1.
            share: float in [0, 1], probability of an attacked batch afterwards.
            **kwargs: of ``Compressor.compile``.
        """
        super().compile(*args, **kwargs)
        self.warmup_steps = check_at_least("warmup_steps", warmup_steps, 0)
        self.share = share
        if not 0 <= share <= 1:
            raise InvalidArgument(f"share must lie in [0, 1]. Received: share={share}")

    def latents(self, images, stage, training=False):
        """The first latents of the one encoder."""
        return self.encoder(images, training=training)[:, : self.stage_width(stage)]

    def reconstruct(self, latents, stage, training=False):
        """Image of the stage's own decoder."""
        return self.decoders[stage - 1](latents, training=training)

    def call(self, inputs, stage=None, training=False):
        """As for every compressor; in training ``inputs`` may be ``(images, stage)``, where ``stage`` is a tensor."""
        if not isinstance(inputs, (tuple, list)):
            return super().call(inputs, stage=stage, training=training)
        images, stage = inputs
        latents = self.quantizer(self.latents(images, self.stages, training=training))
        return self._reconstruct_chosen(latents, ops.equal(stage, 2), training)

    def training_batch(self, images):
        """Worst case for stage 2 or clean images for stage 1, by the coin."""
        attacked = self.attacks_at(read(self.optimizer.iterations))
        worst = self.worst_case(images, attacked, stage=2).x
        return (worst, 1 + ops.cast(attacked, "int32")), worst

    def attacks_at(self, step):
        """Whether the batch of a training step, int or integer tensor, is attacked: scalar bool tensor."""
        drawn = keras.random.uniform((), seed=step_seed("coin", self.seed, step)) < self.share
        return ops.logical_and(drawn, step >= self.warmup_steps)

    def unattacked_share(self, inputs):
        """1 where the batch went through decoder 1."""
        return ops.cast(ops.equal(inputs[1], 1), "float32")

    def _reconstruct_chosen(self, latents, second, training):
        """Run both decoders, so that all backends see the same gradients; only the chosen one's statistics move."""
        outputs = []
        for stage, (decoder, chosen) in enumerate(
            zip(self.decoders, (ops.logical_not(second), second), strict=True), 1
        ):
            before = [ops.copy(read(variable)) for variable in decoder.non_trainable_variables]
            outputs.append(decoder(latents[:, : self.stage_width(stage)], training=training))
            for variable, value in zip(decoder.non_trainable_variables, before, strict=True):
                variable.assign(ops.where(chosen, variable.value, value))
        return ops.where(second, outputs[1], outputs[0])


@keras.saving.register_keras_serializable("tf_robustcomp")
class ResidualCompressor(_TwoStages):
    """A finished compressor f1, frozen, and a second one for what it misses: x -> f1(x) + f2(x - f1(x)).

    The difference lies in [-1, 1], so the second decoder ends in tanh.  The sum is clipped to [0, 1] at inference,
    which brings it nearer to any image; in training it is not, since clipping would take the gradient.

    Args:
        stage_dims: two int >= 1, d1 and d2.
        levels: int >= 2, values L of each latent; the rate is (d1 + d2) log2 L bits per image.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Example:
        >>> model = ResidualCompressor((3, 7))
        >>> model.first.set_weights(trained.get_weights())  # trained = Compressor(3)
    """

    def __init__(self, stage_dims=(3, 7), levels=12, width=64, image_shape=(32, 32, 1), sigma=1.0, **kwargs):
        super().__init__(stage_dims, levels, width, image_shape, sigma, **kwargs)
        policy = self.dtype_policy
        d1, d2 = self.stage_dims
        self.first = Compressor(d1, levels, width, self.image_shape, sigma, name="first", dtype=policy)
        self.first.trainable = False
        self.encoder = networks.encoder(d2, width, self.image_shape, policy)
        self.decoder = networks.decoder(d2, width, self.image_shape, "tanh", policy)
        self.build(None)

    def latents(self, images, stage, training=False):
        """Those of the first compressor, then of what it misses."""
        z1 = self.first.latents(images, 1)
        if stage == 1:
            return z1
        rest = images - self.first.reconstruct(self.quantizer(z1), 1)
        return ops.concatenate([z1, self.encoder(rest, training=training)], axis=1)

    def reconstruct(self, latents, stage, training=False):
        """Image of the first compressor, plus what it missed."""
        d1 = self.stage_dims[0]
        coarse = self.first.reconstruct(latents[:, :d1], 1)
        if stage == 1:
            return coarse
        images = coarse + self.decoder(latents[:, d1:], training=training)
        return images if training else ops.clip(images, 0.0, 1.0)


@keras.saving.register_keras_serializable("tf_robustcomp")
class RotationAligned(BaseCompressor):
    """Finds the turn of an image, sends it apart, and codes the image upright (arXiv 2110.07007, angle prediction).

    A network predicts (cos, sin) of the angle, which has no jump.  The angle is rounded to L^2 distinct levels, 360 /
    L^2 degrees apart (144 for L = 12), which are two symbols; the upright image is coded with d - 2 latents.

    Training turns each image by a random angle, a function of (seed, step), before any adversary; the turn that the
    image then has is the target of the angle net (loss: 1 - cos of the error, added to the distortion).

    Args:
        latent_dim: int >= 3, latents d, two of which are the angle's.
        levels: int >= 2, values L of each latent; the rate is d log2 L bits per image.
        width: int >= 1, channels after the first convolution.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        **kwargs: ``name`` and ``dtype`` of Keras.
    """

    def __init__(self, latent_dim=10, levels=12, width=64, image_shape=(32, 32, 1), sigma=1.0, **kwargs):
        super().__init__((check_at_least("latent_dim", latent_dim, 3),), levels, width, image_shape, sigma, **kwargs)
        policy = self.dtype_policy
        self.angle_net = networks.angle_net(width, self.image_shape, policy)
        self.upright = Compressor(latent_dim - 2, levels, width, self.image_shape, sigma, name="upright", dtype=policy)
        self.build(None)

    def latents(self, images, stage, training=False):
        """The two digits of the angle, then the code of the upright image."""
        return self._aligned(images, self.angle_net(images, training=training), training)

    def reconstruct(self, latents, stage, training=False):
        """Image of the upright code, turned back."""
        images = self.upright.reconstruct(latents[:, 2:], 1, training=training)
        return rotate(images, self._angle(self.quantizer.symbols(latents[:, :2])))

    def angle(self, images):
        """The turn (n,) in degrees, counter-clockwise, that the code of the images (n, h, w, c) states."""
        return self._angle(self.encode(images)[:, :2])

    def call(self, inputs, stage=None, training=False):
        """As for every compressor; in training ``inputs`` may be ``(images, angles)``, which trains the angle net."""
        if not isinstance(inputs, (tuple, list)):
            return super().call(inputs, stage=stage, training=training)
        images, angles = inputs
        direction = self.angle_net(images, training=training)
        self.add_loss(_angle_loss(direction, angles))
        latents = self.quantizer(self._aligned(images, direction, training))
        return self.reconstruct(latents, self.stages, training=training)

    def training_batch(self, images):
        """Images turned at random, and the worst case of these, with their angles."""
        step = read(self.optimizer.iterations)
        angles = keras.random.uniform(ops.shape(images)[:1], -180.0, 180.0, seed=step_seed("turns", self.seed, step))
        result = self.worst_case(rotate(images, angles))
        return (result.x, angles + result.angle), result.x

    def get_config(self):
        """Constructor's arguments."""
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
    """Mean of 1 - cos(error): direction (n, 2), of any length, against angles (n,)."""
    wanted = ops.stack([ops.cos(degrees * (np.pi / 180.0)), ops.sin(degrees * (np.pi / 180.0))], axis=1)
    length = ops.sqrt(ops.sum(ops.square(direction), axis=1) + 1e-12)
    return ops.mean(1.0 - ops.sum(direction * wanted, axis=1) / length)
