"""Data augmentation of the paper: half of a batch stays clean, half is shifted."""

from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.data.distortion import per_image
from tf_robustcomp.data.shifts import noise_deviation, rotate
from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register


class Augmentation:
    """Shifts every second image of a batch; the others stay clean.

    The result is a function of (seed, step), so a resumed training continues exactly.  A subclass states ``shift``.

    Args:
        seed: int >= 0.

    Example:
        >>> class Darker(rc.Augmentation):
        ...     def shift(self, images, seed):
        ...         return images / 2
        ...
        >>> model.compile("adam", augmentation=Darker())
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_at_least("seed", seed, 0)

    def __call__(self, images: Any, step: Any) -> Any:
        """Shift half of the images (n, h, w, c) at a step, an int or integer tensor."""
        images = ops.convert_to_tensor(images)
        shifted = ops.arange(ops.shape(images)[0], dtype="int32") % 2 == 1
        seed = step_seed(type(self).__name__, self.seed, step)
        return ops.where(per_image(shifted), self.shift(images, seed), images)

    def shift(self, images: Any, seed: Any) -> Any:
        """Return all images shifted; ``seed`` is for keras.random."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Augmentation":
        """Return an augmentation made from ``get_config``."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@register("augmentation", "noise", uses={"rho": "rho", "seed": "adversary_seed"}, rules={"rho": {"given": True}})
class NoiseAugmentation(Augmentation):
    """Adds Gaussian noise whose squared norm is rho in the mean, before clipping to [0, 1].

    Args:
        rho: float > 0; the variance of a value is rho / (h w c).  In the paper 20.1 or 50.
        seed: int >= 0.

    Example:
        >>> model.compile("adam", augmentation=rc.NoiseAugmentation(rho=20.1))
    """

    def __init__(self, rho: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.rho = check_positive("rho", rho)

    def shift(self, images: Any, seed: Any) -> Any:
        """Add noise."""
        deviation = noise_deviation(self.rho, images.shape[1:])
        noise = keras.random.normal(ops.shape(images), stddev=deviation, dtype=images.dtype, seed=seed)
        return ops.clip(images + noise, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"rho": self.rho, **super().get_config()}


@register("augmentation", "rotation", uses={"seed": "adversary_seed"})
class RotationAugmentation(Augmentation):
    """Rotates each image by an angle drawn uniformly from [-180, 180) degrees.

    Args:
        seed: int >= 0.

    Example:
        >>> model.compile("adam", augmentation=rc.RotationAugmentation(seed=1))
    """

    def shift(self, images: Any, seed: Any) -> Any:
        """Rotate each image by its own angle."""
        return rotate(images, keras.random.uniform(ops.shape(images)[:1], -180.0, 180.0, seed=seed))


def get(augmentation: Any) -> Augmentation | None:
    """Return an augmentation from None, an instance or its serialised form; else raise InvalidArgument."""
    if isinstance(augmentation, dict):
        augmentation = keras.saving.deserialize_keras_object(augmentation)
    if augmentation is not None and not isinstance(augmentation, Augmentation):
        raise InvalidArgument(f"augmentation must be an Augmentation or None. Received: {augmentation!r}")
    return augmentation
