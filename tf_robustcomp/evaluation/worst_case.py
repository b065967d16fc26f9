"""Worst case over a Wasserstein ball against its radius: attacked points, and the concave envelope above them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.gradient_free import search_gain
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_at_least, check_choice, check_rising_or_falling
from tf_robustcomp.utils.errors import InvalidArgument

ATTACKS = ("converged", "paper")


@dataclasses.dataclass(frozen=True)
class WorstCasePoint(Row):
    """A point (rho, D) of a worst-case curve: means over images, with standard errors.

    Attributes:
        attack: "converged", "paper" or "none"; the last is the clean set, with gamma = inf and rho = 0.
        gamma: price of squared distance.
        rho: mean squared 2-norm of the perturbation.
        distortion: D, mean distortion of the attacked images.
        images: number of images.
        evaluations: objectives with gradient of each image that the attack at this gamma took.
        gain: fraction of the objective that the last fifteen evaluations gained in that of its ascents which gained
            most; below 0.001 where all have converged, and larger where they met their limit of evaluations; nan for
            the published attack, which does not measure it.
        gradient_free_gain: fraction by which a search without gradients, begun at the attacked images, raised the
            objective on a sample; nan where it was not made.
    """

    attack: str
    gamma: float
    rho: float
    rho_error: float
    distortion: float
    distortion_error: float
    images: int
    evaluations: int
    gain: float
    gradient_free_gain: float


@dataclasses.dataclass(frozen=True, eq=False)
class WorstCaseCurve(Results):
    """Attacked points of models: lower bounds on the worst case over a ball.

    The points are lower bounds: some distribution at mean squared distance rho has distortion D.  **The worst case over
    the ball is concave and nondecreasing in its radius**, since a distribution may move only a fraction of the images
    and need not use all of its budget.  So the upper concave envelope of a model's points and (0, clean) is the best
    lower bound that these points prove; read values at a given rho from it (``at``).  Points of two
    models at one gamma have different rho and do not compare.
    """

    row_type = WorstCasePoint

    def envelope(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the vertices of a line's concave envelope: arrays ``(rho, distortion)``, rho rising.

        Beyond its last vertex the envelope is constant.
        """
        rows = self.line(label)
        return concave_envelope([row.rho for row in rows], [row.distortion for row in rows])

    def at(self, rho: Any, label: str | None = None) -> Any:
        """Return the lower bound at radius ``rho`` (a number or an array) for a line; default: the only one.

        Raises:
            InvalidArgument: rho is negative, or there are several lines and no label.
        """
        if label is None:
            if len(self.lines()) != 1:
                raise InvalidArgument(f"label must be one of {', '.join(self.lines())}. Received: none")
            label = next(iter(self.lines()))
        if not np.all(np.asarray(rho) >= 0):
            raise InvalidArgument(f"rho must be >= 0. Received: rho={rho}")
        return np.interp(rho, *self.envelope(label))

    def draw(self, axes: Any) -> None:
        """Draw points, with standard errors of D, and envelopes."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            rho, distortion = ([getattr(row, name) for row in rows] for name in ("rho", "distortion"))
            errors = [row.distortion_error for row in rows]
            axes.errorbar(rho, distortion, errors, **{**look, "linestyle": "none"}, ms=4)
            axes.plot(*self.envelope(label), **{**look, "marker": ""})
            axes.plot([], [], **look, ms=4, label=label)
        axes.set(xlabel="rho, mean squared distance", ylabel="worst-case distortion, lower bound")


def worst_case_curve(
    models: Any,
    images: Any,
    gammas: Any,
    attack: str = "converged",
    steps: int = 100,
    restarts: int = 1,
    precision: str = "float32",
    check: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> WorstCaseCurve:
    """Attack a set of images at several gammas: mean distortion against mean squared distance.

    ``attack="converged"`` climbs with a step size for each image, keeps each image's best point, starts once more from
    noise, and stops each image when it gains less than 0.1 % in fifteen evaluations, so that the others of its batch do
    not matter.  An image's point at one gamma then competes at all others, so D never falls as gamma falls.
    ``attack="paper"`` takes the published 15 gradient steps (arXiv 2110.07007), which stop far below the maximum on a
    standard model.

    Args:
        models: a model, several, or a mapping of label -> model; see `subjects.labelled`.
        images: (n, h, w, c) in [0, 1].
        gammas: prices of squared distance > 0, rising or falling.
        attack: "converged" or "paper".
        steps: int >= 1, evaluations of each ascent at most; only for "converged".
        restarts: int >= 0, further ascents from noise; only for "converged".
        precision: "float32" or "bfloat16", in which the ascents climb; only for "converged".  The points are measured
            in the model's own.
        check: int >= 0, images for which a search without gradients looks for worse points; 0 leaves it out.
        seed: int, of the restarts' noise and of that search.
        progress: whether to show a progress bar.

    Returns:
        lines for every stage of structured models.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images, gradients=True)
    gammas = check_rising_or_falling("gammas", [float(gamma) for gamma in np.atleast_1d(gammas)])
    check_choice("attack", attack, ATTACKS)
    check = min(check_at_least("check", check, 0), len(images))
    points: list[WorstCasePoint] = []
    units = len(gammas) * len(subjects.batches(images))
    for job in subjects.each_stage(models, units, progress, "worst case"):
        attacks = []
        adversary = _adversary(gammas[0], attack, steps, restarts, precision, seed)
        for gamma in gammas:
            adversary.gamma = gamma
            attacks.append(_attack(job, images, adversary, check, seed))
        points += _points(job, gammas, attacks, attack)
    return WorstCaseCurve(tuple(points))


def concave_envelope(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least concave nondecreasing function above points, from the leftmost on.

    Args:
        x, y: sequences of numbers; constant to the right of the greatest y.

    Returns:
        arrays ``(x, y)`` of its vertices, x rising.
    """
    vertices: list[tuple[float, float]] = []
    for point in sorted(zip(map(float, x), map(float, y), strict=True), key=lambda p: (p[0], -p[1])):
        if vertices and point[1] <= vertices[-1][1]:
            continue  # further away and no worse
        while len(vertices) >= 2 and _below(vertices[-2], vertices[-1], point):
            vertices.pop()
        vertices.append(point)
    return np.array([p[0] for p in vertices]), np.array([p[1] for p in vertices])


def _below(left, middle, right):
    """True if the middle point is on or below the chord."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def _adversary(gamma, attack, steps, restarts, precision, seed):
    if attack == "paper":
        return WassersteinBall(gamma=gamma, steps=15)
    return WassersteinBall(
        gamma=gamma, steps=steps, method="adaptive", restarts=restarts, precision=precision, seed=seed
    )


@dataclasses.dataclass(frozen=True)
class _Attack:
    """The attack at one gamma: arrays (n,) over images, and its cost."""

    radius: np.ndarray
    distortion: np.ndarray
    clean_distortion: np.ndarray
    evaluations: int
    gain: float
    gradient_free_gain: float


def _attack(job, images, adversary, check, seed):
    arguments = subjects.call_arguments(job.model, job.stage)
    results: list[dict] = []
    sample: list[np.ndarray] = []
    for part in subjects.batches(images):
        result = adversary.attack(job.model, part, **arguments)
        sample += list(ops.convert_to_numpy(result.x)[: max(0, check - len(sample))])
        results.append({name: ops.convert_to_numpy(value) for name, value in result._asdict().items() if name != "x"})
        job.bar.update()

    def joined(name):
        return np.concatenate([result[name] for result in results]).astype("float64")

    subjects.check_defined(job.row["model"], np.concatenate([result["defined"] for result in results]))
    gradient_free_gain = float("nan")
    if check:
        gradient_free_gain = search_gain(
            job.model, job.stage, images[:check], np.stack(sample), adversary.gamma, seed=seed
        )
    return _Attack(
        radius=joined("radius"),
        distortion=joined("distortion"),
        clean_distortion=joined("clean_distortion"),
        evaluations=int(max(result["evaluations"] for result in results)),
        gain=float(np.average([r["gain"] for r in results], weights=[len(r["radius"]) for r in results])),
        gradient_free_gain=gradient_free_gain,
    )


def _points(job, gammas, attacks, attack):
    """The clean point, then one for each gamma."""
    clean = attacks[0].clean_distortion
    radii = np.stack([np.zeros_like(clean), *(one.radius for one in attacks)])
    reached = np.stack([clean, *(one.distortion for one in attacks)])
    nothing = _Attack(radii[0], clean, clean, evaluations=0, gain=0.0, gradient_free_gain=float("nan"))
    for number, (gamma, one) in enumerate(zip([float("inf"), *gammas], [nothing, *attacks], strict=True)):
        best = np.full(len(clean), number)
        if number and attack != "paper":
            best = np.argmax(reached - gamma * radii, axis=0)
        rho, distortion = (np.take_along_axis(values, best[None], axis=0)[0] for values in (radii, reached))
        yield WorstCasePoint(
            **job.row,
            attack=attack if number else "none",
            gamma=gamma,
            rho=float(rho.mean()),
            rho_error=subjects.standard_error(rho),
            distortion=float(distortion.mean()),
            distortion_error=subjects.standard_error(distortion),
            images=len(clean),
            evaluations=one.evaluations,
            gain=float("nan") if attack == "paper" and number else one.gain,
            gradient_free_gain=one.gradient_free_gain,
        )
