"""Mean distortions of a compressor on clean, noisy, rotated and attacked images."""

import dataclasses
import math

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall, rotate
from tf_robustcomp.adversaries.base import check_images

BATCH = 250


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """What an attack on a set reached: means over images, with the standard error of the distortion.

    ``rho`` is the mean squared 2-norm of the change; ``evaluations`` counts objectives and gradients per image;
    ``gain`` is the share of the objective gained in the last five steps, small where the attack has converged.
    """

    rho: float
    distortion: float
    standard_error: float
    evaluations: int
    gain: float


def distortions(model, images, stage=None):
    """Sum of squared errors (n,) of each image.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        stage: of a structured model; default its last.
    """
    parts = [
        ops.convert_to_numpy(model.distortion(part, model(part, stage=stage, training=False)))
        for part in _parts(images)
    ]
    return np.concatenate(parts)


def worst_case(model, images, adversary, stage=None):
    """Attack a set of images.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        adversary: `adversaries.Adversary`.
        stage: of a structured model; default its last.

    Returns:
        WorstCase
    """
    results = [adversary.attack(model, part, stage=stage) for part in _parts(images)]
    numbers = [len(ops.convert_to_numpy(result.radius)) for result in results]
    radius = np.concatenate([ops.convert_to_numpy(result.radius) for result in results])
    distortion = np.concatenate([ops.convert_to_numpy(result.distortion) for result in results])
    return WorstCase(
        rho=float(radius.mean()),
        distortion=float(distortion.mean()),
        standard_error=float(distortion.std(ddof=1) / math.sqrt(len(distortion))) if len(distortion) > 1 else 0.0,
        evaluations=int(max(int(ops.convert_to_numpy(result.evaluations)) for result in results)),
        gain=float(np.average([float(ops.convert_to_numpy(result.gain)) for result in results], weights=numbers)),
    )


def noisy(images, rho, seed=0):
    """Images plus Gaussian noise of mean squared norm ``rho`` before clipping to [0, 1]."""
    deviation = math.sqrt(rho / math.prod(images.shape[1:]))
    noise = np.random.default_rng(seed).normal(scale=deviation, size=images.shape)
    return np.clip(images + noise, 0, 1).astype(np.float32)


def rotated(images, seed=0):
    """Images, each turned by an angle of its own in [-180, 180) degrees."""
    angles = np.random.default_rng(seed).uniform(-180, 180, len(images)).astype(np.float32)
    return np.concatenate(
        [
            ops.convert_to_numpy(rotate(images[i : i + BATCH], angles[i : i + BATCH]))
            for i in range(0, len(images), BATCH)
        ]
    )


def summary(model, images, gamma=1.0, noise_rho=20.1, attack_images=1000):
    """Clean, noisy, rotated and worst-case distortion of every stage.

    Args:
        model: compressor.
        images: test images (n, h, w, c) in [0, 1].
        gamma: price of the Wasserstein ball's attack, in distortion per squared norm.
        noise_rho: mean squared norm of the noise.
        attack_images: how many of the images, the first ones, are attacked.

    Returns:
        dict of plain values: ``stage_<k>`` -> rate, clean, noisy, rotated, and under ``worst_case`` both attacks, the
        paper's 15 steps and the adaptive one.
    """
    images = check_images(images, model.image_shape)
    results = {}
    for stage in range(1, model.stages + 1):
        entry = {"rate_bits": model.stage_rate(stage)}
        for name, shifted in (("clean", images), ("noisy", noisy(images, noise_rho)), ("rotated", rotated(images))):
            entry[name] = float(distortions(model, shifted, stage).mean())
        entry["worst_case"] = {
            method: dataclasses.asdict(worst_case(model, images[:attack_images], adversary, stage))
            for method, adversary in (
                ("paper", WassersteinBall(gamma=gamma, steps=15)),
                ("adaptive", WassersteinBall(gamma=gamma, steps=60, method="adaptive")),
            )
        }
        results[f"stage_{stage}"] = entry
    return results


def _parts(images):
    return (images[first : first + BATCH] for first in range(0, len(images), BATCH))
