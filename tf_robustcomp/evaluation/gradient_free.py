"""A search for worse images without gradients: it checks attacks that rely on the quantiser's surrogate gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.evaluation import models as subjects

ROUNDS = 100
GROWTH = 1.5  # of the step size after a success; one success in five keeps it (Rechenberg 1973)
FIRST_STEP = 0.3  # 2-norm of the first perturbation


def search(objective: Callable[[np.ndarray], np.ndarray], start: np.ndarray, rounds: int, seed: int = 0) -> np.ndarray:
    """Return images of a higher objective, found by a (1+1) evolution strategy.

    Each image has its own step size, adapted by the one-fifth rule.  Perturbations are Gaussian, on the whole image or
    on a random block of it.

    Args:
        objective: function of images (n, h, w, c) that returns (n,).
        start: images (n, h, w, c) in [0, 1] at which the search starts.
        rounds: evaluations of each image.
        seed: int.

    Returns:
        float32 (n, h, w, c), the best images of all; those at the start where nothing better was found.
    """
    rng = np.random.default_rng(seed)
    best = start.astype("float32")
    reached = objective(best)
    step = np.full(len(best), FIRST_STEP)
    for _ in range(rounds):
        direction = rng.normal(size=best.shape) * _blocks(rng, best.shape)
        direction /= np.sqrt(np.sum(direction**2, axis=(1, 2, 3), keepdims=True)) + 1e-12
        tried = np.clip(best + step[:, None, None, None] * direction, 0, 1).astype("float32")
        value = objective(tried)
        better = value > reached
        best[better], reached = tried[better], np.where(better, value, reached)
        step *= np.where(better, GROWTH, GROWTH**-0.25)
    return best


def search_gain(
    model: Any,
    stage: int,
    clean: np.ndarray,
    attacked: np.ndarray,
    gamma: float,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> float:
    """Return the fraction by which `search` raises the sum of d(x', f(x')) - gamma ||x' - x||^2.

    Args:
        model: model.
        stage: of its code.
        clean: images (n, h, w, c) in [0, 1].
        attacked: images at which the search starts.
        gamma: price > 0.
        rounds: evaluations of each image.
        seed: int.

    Returns:
        float >= 0; 0 where nothing worse was found.
    """
    measure = subjects.measurer(model, stage)

    def objective(images):
        return measure(images)[1] - gamma * squared_error(images, clean)

    first = objective(attacked.astype("float32")).sum()
    found = objective(search(objective, attacked, rounds, seed)).sum()
    return float((found - first) / max(abs(first), 1e-12))


def _blocks(rng, shape):
    """Masks (n, h, w, 1): the whole image or a random rectangle of it."""
    count, height, width, _ = shape
    masks = np.zeros((count, height, width, 1), "float32")
    for mask in masks:
        top, left = rng.integers(height), rng.integers(width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = 1
    return np.where(rng.random((count, 1, 1, 1)) < 0.5, 1, masks)
