"""Distortion on shifted images: rotated by given angles, noisy, or worst in a norm ball."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.adversaries import L2Ball, LinfBall
from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class ShiftPoint(Row):
    """Mean distortion over a whole set at one strength of a shift, with standard errors.

    Attributes:
        shift: the quantity: "angle" (degrees, counter-clockwise), "noise" (rho), "l2" or "linf" (epsilon).
        strength: its value.
        rho: mean squared 2-norm of the perturbation, as measured.
        distortion: mean over images, between the shifted image and its reconstruction.
        distortion_error: its standard error.
        images: number of images.
        gain: fraction of the distortion that the last quarter of an attack's steps gained; nan without an attack.
    """

    shift: str
    strength: float
    rho: float
    distortion: float
    distortion_error: float
    images: int
    gain: float = math.nan


AXIS_NAMES = {
    "angle": "angle in degrees, counter-clockwise",
    "noise": "rho of the noise, before clipping",
    "l2": "epsilon, 2-norm of the perturbation",
    "linf": "epsilon, greatest change of a pixel",
}


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftCurve(Results):
    """Distortion against the strength of one kind of shift."""

    row_type = ShiftPoint

    def draw(self, axes: Any) -> None:
        """Draw means, and bands of two standard errors."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            x, mean, error = (
                np.array([getattr(row, name) for row in rows])
                for name in ("strength", "distortion", "distortion_error")
            )
            axes.plot(x, mean, **look, ms=4, markevery=max(1, len(x) // 12), label=label)
            axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=look["color"], alpha=0.2, linewidth=0)
        if self.rows:
            axes.set(xlabel=AXIS_NAMES[self.rows[0].shift])
        axes.set(ylabel="distortion (sum of squared errors)", ylim=(0, None))


def rotation_curve(models: Any, images: Any, angles: Any, progress: bool = False, encoder: Any = None) -> ShiftCurve:
    """Rotate the whole set by each angle, and measure the distortion.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        angles: degrees, counter-clockwise; see `data.shifts.rotate`.
        progress: whether to show a progress bar.
        encoder: that finds the codes, or a mapping of label -> encoder; None is the network.

    Example:
        >>> rc.rotation_curve(model, images, range(-180, 181, 45)).plot()
    """
    return _curve("angle", models, images, _strengths("angles", angles, signed=True), _rotated, progress, encoder)


def noise_curve(
    models: Any, images: Any, rhos: Any, seed: int = 0, progress: bool = False, encoder: Any = None
) -> ShiftCurve:
    """Add Gaussian noise of mean squared norm rho, clip to [0, 1], and measure the distortion.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        rhos: mean squared norms >= 0 before clipping; the column ``rho`` has the norm after it.
        seed: int; every model gets the same noise.
        progress: whether to show a progress bar.
        encoder: that finds the codes, or a mapping of label -> encoder; None is the network.

    Example:
        >>> print(rc.noise_curve(model, images, rhos=[5, 20]))
    """

    def noisy(part, rho, number):
        deviation = ops.sqrt(rho / math.prod(part.shape[1:]))
        noise = keras.random.normal(ops.shape(part), seed=step_seed("noise curve", seed, number))
        return ops.clip(part + deviation * noise, 0.0, 1.0)

    return _curve("noise", models, images, _strengths("rhos", rhos), noisy, progress, encoder)


def lp_curve(
    models: Any,
    images: Any,
    epsilons: Any,
    norm: str = "l2",
    steps: int = 20,
    progress: bool = False,
    restarts: int = 2,
    seed: int = 0,
) -> ShiftCurve:
    """Attack every image within a norm ball, as `L2Ball` and `LinfBall` do, and measure the distortion.

    The column ``gain`` says whether the attack had converged.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        epsilons: radii > 0.
        norm: "l2" or "linf".
        steps: int >= 1, gradient steps of each ascent.
        progress: whether to show a progress bar.
        restarts: int >= 0, further ascents from random images in the ball.
        seed: int, of their noise.

    Example:
        >>> print(rc.lp_curve(model, images, [1.0, 2.0], norm="l2"))
    """
    balls = {"l2": L2Ball, "linf": LinfBall}
    check_choice("norm", norm, tuple(balls))
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images, gradients=True)
    radii = _strengths("epsilons", epsilons)
    adversaries = [balls[norm](epsilon, steps=steps, restarts=restarts, seed=seed) for epsilon in radii]
    parts, rows = subjects.batches(images), []
    for job in subjects.each_stage(models, len(parts) * len(adversaries), progress, norm):
        arguments = subjects.call_arguments(job.model, job.stage)
        for adversary in adversaries:
            results, gains = [], []
            for part in parts:
                result = adversary.attack(job.model, part, **arguments)
                subjects.check_defined(job.row["model"], ops.convert_to_numpy(result.defined))
                results.append([ops.convert_to_numpy(value) for value in (result.radius, result.distortion)])
                gains.append(float(result.gain))
                job.bar.update()
            radius, distortion = map(np.concatenate, zip(*results, strict=True))
            rows.append(_row(job, norm, adversary.epsilon, radius, distortion, max(gains)))
    return ShiftCurve(tuple(rows))


def _rotated(part, angle, number):
    return rotate(part, angle)


def _strengths(name, values, signed=False):
    try:
        strengths = [float(value) for value in np.atleast_1d(values)]
    except (TypeError, ValueError):
        strengths = [float("nan")]
    if not strengths or not all(math.isfinite(value) and (signed or value >= 0) for value in strengths):
        rule = "finite numbers" if signed else "numbers >= 0"
        raise InvalidArgument(f"{name} must be {rule}. Received: {strengths}")
    return strengths


def _curve(kind, models, images, strengths, shift, progress, encoder):
    """Rows for every model, stage and strength; ``shift(part, strength, number of the part)`` returns the images."""
    models = subjects.labelled(models, encoder)
    images = subjects.checked_images(models, images)
    parts, rows = subjects.batches(images), []
    for job in subjects.each_stage(models, len(strengths), progress, kind):
        measure = subjects.measurer(job.model, job.stage, shift)
        for strength in strengths:
            measured = [measure(part, np.float32(strength), np.int32(i)) for i, part in enumerate(parts)]
            rows.append(_row(job, kind, strength, *map(np.concatenate, zip(*measured, strict=True))))
            job.bar.update()
    return ShiftCurve(tuple(rows))


def _row(job, kind, strength, radius, distortion, gain=math.nan):
    subjects.check_defined(job.row["model"], np.isfinite(distortion))
    distortion = distortion.astype("float64")
    error = subjects.standard_error(distortion)
    rho = float(radius.astype("float64").mean())
    return ShiftPoint(
        **job.row,
        shift=kind,
        strength=strength,
        rho=rho,
        distortion=float(distortion.mean()),
        distortion_error=error,
        images=len(distortion),
        gain=gain,
    )
