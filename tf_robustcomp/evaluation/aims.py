"""Attacks with another aim than the distortion: a longer code, or the picture that is decoded."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.adversaries import L2Ball, LinfBall
from tf_robustcomp.backend.gradients import compiled, read
from tf_robustcomp.data.distortion import distortion, squared_error
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_choice, check_images, check_positive
from tf_robustcomp.utils.errors import InvalidArgument

BALLS = {"l2": L2Ball, "linf": LinfBall}
NAMES = {"rate": "bits per image", "target": "squared distance of the decoded image to its target"}


@dataclasses.dataclass(frozen=True)
class AimPoint(Row):
    """The value that an attack with one aim reached in balls of one radius; a mean over images.

    Attributes:
        aim: "rate" (bits of an image's code) or "target" (squared distance of the decoded image to its target).
        norm: "l2" or "linf".
        epsilon: radius of the balls.
        rho: mean squared 2-norm of the perturbation.
        clean: value of the images as they are.
        attacked: value under attack: a floor of the greatest rate, a ceiling of the least distance.
        attacked_error: its standard error.
        images: number of images.
        gain: fraction that the last quarter of the steps gained.
    """

    aim: str
    norm: str
    epsilon: float
    rho: float
    clean: float
    attacked: float
    attacked_error: float
    images: int
    gain: float


@dataclasses.dataclass(frozen=True, eq=False)
class AimCurve(Results):
    """The values that attacks with one aim reach, against their radius."""

    row_type = AimPoint

    def draw(self, axes: Any) -> None:
        """Draw means from the clean ones on."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            x, y = [0.0, *(row.epsilon for row in rows)], [rows[0].clean, *(row.attacked for row in rows)]
            axes.plot(x, y, **figures.style(rows[0], models), ms=4, label=label)
        if self.rows:
            axes.set(xlabel=f"epsilon, {self.rows[0].norm} norm of the perturbation", ylabel=NAMES[self.rows[0].aim])
        axes.set(ylim=(0, None))


def rate_curve(
    models: Any,
    images: Any,
    epsilons: Any,
    norm: str = "l2",
    steps: int = 40,
    restarts: int = 2,
    seed: int = 0,
    max_distortion: float | None = None,
    progress: bool = False,
) -> AimCurve:
    """Perturb images within norm balls so that their code gets long, and count its bits.

    Gradients are those of the entropy model (`CompressionModel.rates`).  With ``max_distortion`` the bits are those of
    each image's own stream with that promise, headers counted, and images attacked for distortion, which need more
    corrections, are tried as well.

    Args:
        models: compressors with an entropy model, as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        epsilons: radii > 0.
        norm: "l2" or "linf".
        steps: int >= 1, gradient steps of each ascent.
        restarts: int >= 0, further ascents from random images in the ball.
        seed: int, of their noise.
        max_distortion: float > 0, the promise of the streams; None counts the entropy model's bits.
        progress: whether to show a progress bar.

    Raises:
        InvalidArgument: an argument breaks its rule, or a model has no entropy model.

    Example:
        >>> rc.rate_curve(model, images, [1.0, 2.0]).rows[0].attacked  # bits, at least
    """
    balls = _balls(norm, epsilons, steps, restarts, seed)
    models = subjects.labelled(models)
    for label, model in models.items():
        if getattr(model, "entropy_model", None) is None:
            raise InvalidArgument(f"{label} must have an entropy model: call fit_entropy_model(images) first")
    if max_distortion is not None:
        check_positive("max_distortion", max_distortion)

    def aims(job):
        stage = job.stage

        def streams(images):
            return np.array(
                [8 * len(job.model.compress(image[None], max_distortion=max_distortion)) for image in images]
            )

        def bits(images):
            return ops.convert_to_numpy(job.model.rates(images, stage))

        return lambda points, _: job.model.rates(points, stage), bits if max_distortion is None else streams

    images = subjects.checked_images(models, images)
    return _curve("rate", models, images, images, balls, aims, progress, by_distortion=max_distortion is not None)


def targeted_curve(
    models: Any,
    images: Any,
    targets: Any,
    epsilons: Any,
    norm: str = "l2",
    steps: int = 40,
    restarts: int = 2,
    seed: int = 0,
    progress: bool = False,
) -> AimCurve:
    """Perturb images within norm balls so that they decode to something near given targets.

    Args:
        models: as in `worst_case_curve`; all are differentiable.
        images: (n, h, w, c) in [0, 1].
        targets: like ``images``, what each is to be decoded as.
        epsilons, norm, steps, restarts, seed, progress: as in `rate_curve`.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> rc.targeted_curve(model, images[:4], images[4:], [2.0]).rows[0].attacked  # squared distance, at most
    """
    balls = _balls(norm, epsilons, steps, restarts, seed)
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images, gradients=True)
    targets = check_images(targets, images.shape[1:], name="targets")
    if len(targets) != len(images):
        raise InvalidArgument(f"targets must be one for each of {len(images)} images. Received: {len(targets)}")

    def aims(job):
        arguments = subjects.call_arguments(job.model, job.stage)
        if isinstance(job.model, keras.Layer):
            arguments = {**arguments, "training": False}

        def objective(points, wanted):
            return -distortion(wanted, job.model(points, **arguments))

        def distances(images):
            decoded = [job.model(ops.convert_to_tensor(part), **arguments) for part in subjects.batches(images)]
            return squared_error(targets, np.concatenate([ops.convert_to_numpy(part) for part in decoded]))

        return objective, distances

    return _curve("target", models, images, targets, balls, aims, progress)


def _balls(norm, epsilons, steps, restarts, seed):
    """Name of the norm, and the adversaries of all radii."""
    check_choice("norm", norm, tuple(BALLS))
    radii = np.atleast_1d(epsilons)
    return norm, [BALLS[norm](epsilon, steps=steps, restarts=restarts, seed=seed) for epsilon in radii]


def _curve(aim, models, images, wanted, balls, aims, progress, by_distortion=False) -> AimCurve:
    """Rows for every model, stage and radius; ``aims(job)`` returns the objective and what is measured.

    ``by_distortion`` adds the attack on the distortion as a candidate.
    """
    norm, balls = balls
    rows, sign = [], -1.0 if aim == "target" else 1.0
    for job in subjects.each_stage(models, len(balls), progress, aim):
        objective, measure = aims(job)
        clean = measure(images)
        for ball in balls:
            found, gain = _attacked(job.model, objective, ball, images, wanted)
            candidates = [images, found]
            if by_distortion:
                arguments = subjects.call_arguments(job.model, job.stage)
                parts = [ball.attack(job.model, part, **arguments).x for part in subjects.batches(images)]
                candidates.append(np.concatenate([ops.convert_to_numpy(part) for part in parts]))
            values = np.stack([measure(candidate) for candidate in candidates])
            best, every = np.argmax(sign * values, axis=0), np.arange(len(images))
            attacked = values[best, every].astype("float64")
            subjects.check_defined(job.row["model"], np.isfinite(attacked))
            rows.append(
                AimPoint(
                    **job.row,
                    aim=aim,
                    norm=norm,
                    epsilon=ball.epsilon,
                    rho=float(squared_error(np.stack(candidates)[best, every], images).mean()),
                    clean=float(clean.mean()),
                    attacked=float(attacked.mean()),
                    attacked_error=subjects.standard_error(attacked),
                    images=len(images),
                    gain=gain,
                )
            )
            job.bar.update()
    return AimCurve(tuple(rows))


def _attacked(model: Any, objective: Callable, ball: Any, images: np.ndarray, wanted: np.ndarray) -> tuple:
    """Return the ball's best images for an objective of points and what is wanted, and the largest gain of a batch."""
    is_layer = isinstance(model, keras.Layer)
    variables = model.variables if is_layer else []

    def run(values, x, aim):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            proposal = ball.propose(lambda points: objective(points, aim), x, ops.convert_to_tensor(0))
            return ball.images_from(proposal.value, x)[0], proposal.gain

    traced = compiled(run) if is_layer else run
    found, gains = [], [-math.inf]
    for part, aim in zip(subjects.batches(images), subjects.batches(wanted), strict=True):
        x, gain = traced([read(variable) for variable in variables], *map(ops.convert_to_tensor, (part, aim)))
        found.append(ops.convert_to_numpy(x))
        gains.append(float(gain))
    return np.concatenate(found), max(gains)
