"""Data augmentation as the paper has it: half of a batch stays clean, half is shifted."""

import math

import keras
from keras import ops

from tf_robustcomp.adversaries.base import check_at_least, check_positive, per_image, step_seed
from tf_robustcomp.adversaries.rotation import rotate
from tf_robustcomp.errors import InvalidArgument


class Augmentation:
    """Shifts every second image of a batch; the others stay as they are.

    The outcome is a function of (seed, step), so a resumed training goes on exactly.  A subclass states ``shift``.

    Args:
        seed: int >= 0.
    """

    def __init__(self, seed=0):
        self.seed = check_at_least("seed", seed, 0)

    def __call__(self, images, step):
        """Images (n, h, w, c) and step, an int or integer tensor -> images (n, h, w, c)."""
        images = ops.convert_to_tensor(images)
        shifted = ops.arange(ops.shape(images)[0], dtype="int32") % 2 == 1
        return ops.where(
            per_image(shifted), self.shift(images, step_seed(type(self).__name__, self.seed, step)), images
        )

    def shift(self, images, seed):
        """All images, shifted; ``seed`` is for keras.random."""
        raise NotImplementedError

    def get_config(self):
        """Return the constructor's arguments as plain values."""
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config):
        """Make an augmentation from what ``get_config`` returned."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable("tf_robustcomp")
class NoiseAugmentation(Augmentation):
    """Adds Gaussian noise whose squared norm is rho in the mean, before clipping to [0, 1].

    Args:
        rho: float > 0; the variance of a value is rho / (h w c).  In the paper 20.1 or 50.
        seed: int >= 0.
    """

    def __init__(self, rho, seed=0):
        super().__init__(seed)
        self.rho = check_positive("rho", rho)

    def shift(self, images, seed):
        """Add noise."""
        deviation = math.sqrt(self.rho / math.prod(images.shape[1:]))
        noise = keras.random.normal(ops.shape(images), stddev=deviation, dtype=images.dtype, seed=seed)
        return ops.clip(images + noise, 0.0, 1.0)

    def get_config(self):
        """Constructor's arguments."""
        return {"rho": self.rho, **super().get_config()}


@keras.saving.register_keras_serializable("tf_robustcomp")
class RotationAugmentation(Augmentation):
    """Turns each image by an angle drawn uniformly from [-180, 180) degrees.

    Args:
        seed: int >= 0.
    """

    def shift(self, images, seed):
        """Turn each by an angle of its own."""
        return rotate(images, keras.random.uniform(ops.shape(images)[:1], -180.0, 180.0, seed=seed))


def get(augmentation):
    """An augmentation from None, an instance or the serialised form of one; else InvalidArgument."""
    if isinstance(augmentation, dict):
        augmentation = keras.saving.deserialize_keras_object(augmentation)
    if augmentation is not None and not isinstance(augmentation, Augmentation):
        raise InvalidArgument(f"augmentation must be an Augmentation or None. Received: {augmentation!r}")
    return augmentation
