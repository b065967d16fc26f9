"""Mean distortions of a compressor on clean, noisy, rotated and attacked images: what `eval` of a training writes."""

import math

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import rotate
from tf_robustcomp.adversaries.base import check_images
from tf_robustcomp.evaluation import subjects
from tf_robustcomp.evaluation.worst_case import worst_case_curve

ATTACKS = {"paper": "paper", "adaptive": "converged"}  # name in the summary -> of worst_case_curve
STEPS = 60


def noisy(images, rho, seed=0):
    """Images plus Gaussian noise of mean squared norm ``rho`` before clipping to [0, 1]."""
    deviation = math.sqrt(rho / math.prod(images.shape[1:]))
    noise = np.random.default_rng(seed).normal(scale=deviation, size=images.shape)
    return np.clip(images + noise, 0, 1).astype(np.float32)


def rotated(images, seed=0):
    """Images, each turned by an angle of its own in [-180, 180) degrees."""
    angles = np.random.default_rng(seed).uniform(-180, 180, len(images)).astype(np.float32)
    turned = map(rotate, subjects.batches(images), subjects.batches(angles))
    return np.concatenate([ops.convert_to_numpy(part) for part in turned])


def summary(model, images, gamma=1.0, noise_rho=20.1, attack_images=1000, progress=False):
    """Clean, noisy, rotated and worst-case distortion of every stage.

    Args:
        model: compressor.
        images: test images (n, h, w, c) in [0, 1].
        gamma: price of the Wasserstein ball's attack, in distortion per squared norm.
        noise_rho: mean squared norm of the noise.
        attack_images: how many of the images, the first ones, are attacked.
        progress: whether to show a progress bar.

    Returns:
        dict of plain values: ``stage_<k>`` -> rate, clean, noisy, rotated, and under ``worst_case`` both attacks, the
        paper's 15 steps and the adaptive one: rho, distortion, its standard error, evaluations and gain.
    """
    images = check_images(images, model.image_shape)
    shifted = {"clean": images, "noisy": noisy(images, noise_rho), "rotated": rotated(images)}
    curves = {
        name: worst_case_curve(model, images[:attack_images], [gamma], attack, STEPS, check=0, progress=progress)
        for name, attack in ATTACKS.items()
    }
    results = {}
    for stage in range(1, model.stages + 1):
        measure = subjects.measurer(model, stage)
        results[f"stage_{stage}"] = {
            "rate_bits": model.stage_rate(stage),
            **{name: float(measure(part)[1].mean(dtype="float64")) for name, part in shifted.items()},
            "worst_case": {name: _worst(curve, stage) for name, curve in curves.items()},
        }
    return results


def _worst(curve, stage):
    row = next(row for row in curve.rows if row.stage == stage and row.attack != "none")
    return {
        "rho": row.rho,
        "distortion": row.distortion,
        "standard_error": row.distortion_error,
        "evaluations": row.evaluations,
        "gain": row.gain,
    }
