"""Summarise a compressor: mean distortions on clean, noisy, rotated and attacked images."""

from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.data.shifts import noisy, rotate
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.worst_case import worst_case_curve
from tf_robustcomp.utils.checks import check_images

ATTACKS = {"paper": "paper", "adaptive": "converged"}  # name in the summary -> of worst_case_curve
STEPS = 60


def rotated(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return images, each rotated by a random angle in [-180, 180) degrees."""
    angles = np.random.default_rng(seed).uniform(-180, 180, len(images)).astype(np.float32)
    parts = map(rotate, subjects.batches(images), subjects.batches(angles))
    return np.concatenate([ops.convert_to_numpy(part) for part in parts])


def summary(
    model: Any,
    images: Any,
    gamma: float = 1.0,
    noise_rho: float = 20.1,
    attack_images: int = 1000,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the clean, noisy, rotated and worst-case distortion of every stage.

    Args:
        model: compressor.
        images: test images (n, h, w, c) in [0, 1].
        gamma: price of the Wasserstein ball's attack, in distortion per squared norm.
        noise_rho: mean squared norm of the noise.
        attack_images: number of images that are attacked, the first ones.
        progress: whether to show a progress bar.

    Returns:
        dict of plain values: ``stage_<k>`` -> rate, clean, noisy, rotated, their standard errors, and under
        ``worst_case`` both attacks, the paper's 15 steps and the adaptive one: rho, distortion, its standard error,
        evaluations and gain.
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
        found = {name: measure(part)[1] for name, part in shifted.items()}
        results[f"stage_{stage}"] = {
            "rate_bits": model.stage_rate(stage),
            **{name: float(values.mean(dtype="float64")) for name, values in found.items()},
            "standard_errors": {name: subjects.standard_error(values) for name, values in found.items()},
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
