"""Distortion on shifted images: turned by given angles, noisy, or worst in a norm ball."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from tf_robustcomp.adversaries import L2Ball, LinfBall, rotate
from tf_robustcomp.adversaries.base import step_seed
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.evaluation import figures, subjects
from tf_robustcomp.evaluation.results import Results, Row


@dataclasses.dataclass(frozen=True)
class ShiftPoint(Row):
    """Mean distortion over a whole set at one strength of a shift, with standard errors.

    Attributes:
        shift: the quantity: "angle" (degrees, counter-clockwise), "noise" (rho), "l2" or "linf" (epsilon).
        strength: its value.
        rho: mean squared 2-norm of the change, as measured.
        distortion: mean over images; of the shifted image and what is left of it after coding.
        distortion_error: its standard error.
        images: how many.
    """

    shift: str
    strength: float
    rho: float
    distortion: float
    distortion_error: float
    images: int


AXIS_NAMES = {
    "angle": "angle in degrees, counter-clockwise",
    "noise": "rho of the noise, before clipping",
    "l2": "epsilon, 2-norm of the change",
    "linf": "epsilon, greatest change of a pixel",
}


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftCurve(Results):
    """Distortion against the strength of one kind of shift."""

    row_type = ShiftPoint

    def draw(self, axes):
        """Means, and bands of two standard errors."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            x, mean, error = (
                np.array([getattr(row, name) for row in rows])
                for name in ("strength", "distortion", "distortion_error")
            )
            axes.plot(x, mean, **look, marker="." if len(x) < 20 else None, label=label)
            axes.fill_between(x, mean - 2 * error, mean + 2 * error, color=look["color"], alpha=0.2, linewidth=0)
        if self.rows:
            axes.set(xlabel=AXIS_NAMES[self.rows[0].shift])
        axes.set(ylabel="distortion (sum of squared errors)", ylim=(0, None))


def rotation_curve(models, images, angles, progress=False):
    """Turn the whole set by each angle, code it, measure.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        angles: degrees, counter-clockwise; see `adversaries.rotate`.
        progress: whether to show a progress bar.

    Returns:
        ShiftCurve
    """
    return _curve("angle", models, images, _strengths("angles", angles, signed=True), _turned, progress)


def noise_curve(models, images, rhos, seed=0, progress=False):
    """Add Gaussian noise of mean squared norm rho, clip to [0, 1], code, measure.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        rhos: mean squared norms >= 0 before clipping; the column ``rho`` has what is left after it.
        seed: int; every model meets the same noise.
        progress: whether to show a progress bar.

    Returns:
        ShiftCurve
    """

    def noisy(part, rho, number):
        deviation = ops.sqrt(rho / math.prod(part.shape[1:]))
        noise = keras.random.normal(ops.shape(part), seed=step_seed("noise curve", seed, number))
        return ops.clip(part + deviation * noise, 0.0, 1.0)

    return _curve("noise", models, images, _strengths("rhos", rhos), noisy, progress)


def lp_curve(models, images, epsilons, norm="l2", steps=20, progress=False):
    """Attack every image within a norm ball, as `L2Ball` and `LinfBall` do, and measure.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        epsilons: radii > 0.
        norm: "l2" or "linf".
        steps: int >= 1, gradient steps.
        progress: whether to show a progress bar.

    Returns:
        ShiftCurve
    """
    balls = {"l2": L2Ball, "linf": LinfBall}
    if norm not in balls:
        raise InvalidArgument(f"norm must be 'l2' or 'linf'. Received: norm={norm!r}")
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images)
    adversaries = [balls[norm](epsilon, steps=steps) for epsilon in _strengths("epsilons", epsilons)]
    parts, rows = subjects.batches(images), []
    for start, model, stage, bar in subjects.each_stage(models, len(parts) * len(adversaries), progress, norm):
        arguments = subjects.call_arguments(model, stage)
        for adversary in adversaries:
            results = []
            for part in parts:
                result = adversary.attack(model, part, **arguments)
                results.append([ops.convert_to_numpy(value) for value in (result.radius, result.distortion)])
                bar.update()
            rows.append(_row(start, norm, adversary.epsilon, *map(np.concatenate, zip(*results, strict=True))))
    return ShiftCurve(tuple(rows))


def _turned(part, angle, number):
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


def _curve(kind, models, images, strengths, shift, progress):
    """Rows for every model, stage and strength; ``shift(part, strength, number of the part)`` gives the images."""
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images)
    parts, rows = subjects.batches(images), []
    for start, model, stage, bar in subjects.each_stage(models, len(strengths), progress, kind):
        measure = subjects.measurer(model, stage, shift)
        for strength in strengths:
            measured = [measure(part, np.float32(strength), np.int32(i)) for i, part in enumerate(parts)]
            rows.append(_row(start, kind, strength, *map(np.concatenate, zip(*measured, strict=True))))
            bar.update()
    return ShiftCurve(tuple(rows))


def _row(start, kind, strength, radius, distortion):
    distortion = distortion.astype("float64")
    error = subjects.standard_error(distortion)
    rho = float(radius.astype("float64").mean())
    return ShiftPoint(
        **start,
        shift=kind,
        strength=strength,
        rho=rho,
        distortion=float(distortion.mean()),
        distortion_error=error,
        images=len(distortion),
    )
