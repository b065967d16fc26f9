"""Worst case over a Wasserstein ball against its radius: attacked points, and the concave envelope they prove."""

import dataclasses

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.adversaries.base import check_at_least
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.evaluation import figures, subjects
from tf_robustcomp.evaluation.gradient_free import search_gain
from tf_robustcomp.evaluation.results import Results, Row

ATTACKS = ("converged", "paper")


@dataclasses.dataclass(frozen=True)
class WorstCasePoint(Row):
    """A point (rho, D) of a worst-case curve: means over images, with standard errors.

    Attributes:
        attack: "converged", "paper" or "none"; the last is the clean set, with gamma = inf and rho = 0.
        gamma: price of squared distance.
        rho: mean squared 2-norm of the change.
        distortion: D, mean distortion of the attacked images.
        images: how many.
        evaluations: objectives with gradient of each image that the attack at this price took.
        gain: share of the objective that its last five evaluations gained; below 0.001 where it has converged, and
            larger where it met its limit of evaluations; nan for the published attack, which does not look.
        gradient_free_gain: share by which a search without gradients, begun at the attacked images, raised the
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
    """Attacked points of models, and what they prove about the worst case over a ball.

    The points are lower bounds: some distribution at mean squared distance rho has distortion D.  **The worst case over
    the ball is concave and nondecreasing in its radius**, since a distribution may move only a share of the images and
    need not use all of its budget.  So the upper concave envelope of a model's points and (0, clean) is the best lower
    bound that these points prove; read values at a given rho from it (``at``).  Points of two models at one gamma have
    different rho and do not compare.
    """

    row_type = WorstCasePoint

    def envelope(self, label):
        """Vertices of a line's concave envelope: arrays ``(rho, distortion)``, rho rising.

        Beyond its last vertex the envelope is constant.
        """
        rows = self.line(label)
        return concave_envelope([row.rho for row in rows], [row.distortion for row in rows])

    def at(self, rho, label=None):
        """Worst case that the points prove at radius ``rho`` (a number or an array) for a line; default: the only one.

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

    def draw(self, axes):
        """Points, with standard errors of D, and envelopes."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            rho, distortion = ([getattr(row, name) for row in rows] for name in ("rho", "distortion"))
            errors = [row.distortion_error for row in rows]
            axes.errorbar(rho, distortion, errors, marker="o", ms=4, linestyle="none", color=look["color"])
            axes.plot(*self.envelope(label), **look, label=label)
        axes.set(xlabel="rho, mean squared distance", ylabel="worst-case distortion (sum of squared errors)")


def worst_case_curve(
    models,
    images,
    gammas,
    attack="converged",
    steps=100,
    restarts=1,
    precision="float32",
    check=32,
    seed=0,
    progress=False,
):
    """Attack a set of images at several prices: mean distortion against mean squared distance.

    ``attack="converged"`` climbs by steps of each image's own length, keeps each image's best point, begins once more
    from noise, and stops when the mean objective gains less than 0.1 % in five evaluations.  An image's point at one
    price then competes at all others, so D never falls as gamma falls.  ``attack="paper"`` takes the published 15
    gradient steps (arXiv 2110.07007), which stop far below the maximum on a standard model.

    Args:
        models: a model, several, or a mapping of label -> model; see `subjects.labelled`.
        images: (n, h, w, c) in [0, 1].
        gammas: prices > 0, rising or falling.
        attack: "converged" or "paper".
        steps: int >= 1, evaluations of each ascent at most; only for "converged".
        restarts: int >= 0, further ascents from noise; only for "converged".
        precision: "float32" or "bfloat16", in which the ascents climb; only for "converged".  The points are measured
            in the model's own.
        check: int >= 0, images at whose attacked forms a search without gradients looks for worse; 0 leaves it out.
        seed: int, of the restarts' noise and of that search.
        progress: whether to show a progress bar.

    Returns:
        WorstCaseCurve, with lines for every stage of structured models.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images)
    gammas = check_gammas(gammas)
    if attack not in ATTACKS:
        raise InvalidArgument(f"attack must be 'converged' or 'paper'. Received: attack={attack!r}")
    check = min(check_at_least("check", check, 0), len(images))
    points: list[WorstCasePoint] = []
    units = len(gammas) * len(subjects.batches(images))
    for start, model, stage, bar in subjects.each_stage(models, units, progress, "worst case"):
        attacks = []
        adversary = _adversary(gammas[0], attack, steps, restarts, precision, seed)
        for gamma in gammas:
            adversary.gamma = gamma
            attacks.append(_attack(model, stage, images, adversary, check, seed, bar))
        points += _points(start, gammas, attacks, attack)
    return WorstCaseCurve(tuple(points))


def check_gammas(gammas):
    """Prices as a list, falling.

    Raises:
        InvalidArgument: none, not above 0, or neither rising nor falling.
    """
    values = [float(gamma) for gamma in np.atleast_1d(gammas)]
    if not values or not all(0 < value < float("inf") for value in values):
        raise InvalidArgument(f"gammas must be numbers > 0. Received: {values}")
    falling = sorted(set(values), reverse=True)
    if len(falling) < len(values) or values not in (falling, falling[::-1]):
        raise InvalidArgument(f"gammas must be sorted, each once. Received: {values}")
    return falling


def concave_envelope(x, y):
    """Least concave nondecreasing function above points, from the leftmost on.

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
    """Whether the middle point is on or below the chord."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def _adversary(gamma, attack, steps, restarts, precision, seed):
    if attack == "paper":
        return WassersteinBall(gamma=gamma, steps=15)
    return WassersteinBall(
        gamma=gamma, steps=steps, method="adaptive", restarts=restarts, precision=precision, seed=seed
    )


@dataclasses.dataclass(frozen=True)
class _Attack:
    """What one price's attack reached on each image: arrays (n,), and how."""

    radius: np.ndarray
    distortion: np.ndarray
    clean_distortion: np.ndarray
    evaluations: int
    gain: float
    gradient_free_gain: float


def _attack(model, stage, images, adversary, check, seed, bar):
    arguments = subjects.call_arguments(model, stage)
    results: list[dict] = []
    sample: list[np.ndarray] = []
    for number, part in enumerate(subjects.batches(images)):
        result = adversary.attack(model, part, number, **arguments)
        sample += list(ops.convert_to_numpy(result.x)[: max(0, check - len(sample))])
        results.append({name: ops.convert_to_numpy(value) for name, value in result._asdict().items() if name != "x"})
        bar.update()

    def joined(name):
        return np.concatenate([result[name] for result in results]).astype("float64")

    gradient_free_gain = float("nan")
    if check:
        gradient_free_gain = search_gain(model, stage, images[:check], np.stack(sample), adversary.gamma, seed=seed)
    return _Attack(
        radius=joined("radius"),
        distortion=joined("distortion"),
        clean_distortion=joined("clean_distortion"),
        evaluations=int(max(result["evaluations"] for result in results)),
        gain=float(np.average([r["gain"] for r in results], weights=[len(r["radius"]) for r in results])),
        gradient_free_gain=gradient_free_gain,
    )


def _points(start, gammas, attacks, attack):
    """The clean point, then one for each price."""
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
            **start,
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
