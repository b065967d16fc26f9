"""Worst case over a Wasserstein ball against its radius: attacked points, and the concave envelope above them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.attackers import ATTACKS, Climb, Options, make_attacker
from tf_robustcomp.evaluation.points import AttackedPoints, concave_envelope
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_at_least, check_choice, check_positive, check_rising_or_falling
from tf_robustcomp.utils.errors import InvalidArgument

LOWEST_PRICE, HIGHEST_PRICE = 0.1, 30.0  # between which `worst_case_at` looks


@dataclasses.dataclass(frozen=True)
class WorstCasePoint(Row):
    """A point (rho, D) of a worst-case curve: means over images, with standard errors.

    Attributes:
        attack: "ensemble", "converged", "paper", "black_box", "encoder" where it went through an encoder, or "none":
            the clean set, with gamma = inf and rho = 0.
        gamma: price of squared distance.
        rho: mean squared 2-norm of the perturbation.
        distortion: D, mean distortion of the attacked images.
        images: number of images.
        evaluations: objectives with gradient that the attack at this gamma took for an image, rounded up to an integer.
        gain: fraction of the objective that the last evaluations gained in that of its ascents which gained most; below
            0.001 where all have converged, and larger where they met their limit of evaluations; nan for the published
            attack, which does not measure it.
        gradient_free_gain: fraction by which a search without gradients, begun at the attacked images, raised the
            objective on a sample; nan where it was not made.
        verdict: of the ensemble: "converged", or what it may have missed; empty for other attacks.
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
    verdict: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class WorstCaseCurve(Results):
    """Attacked points of models: lower bounds on the worst case over a ball.

    The points are lower bounds: some distribution at mean squared distance rho has distortion D.  **The worst case over
    the ball is concave and nondecreasing in its radius**, since a distribution may move only a fraction of the images
    and need not use all of its budget.  So the upper concave envelope of a model's points and (0, clean) is the best
    lower bound that these points prove; read values at a given rho from it (``at``).  Points of two
    models at one gamma have different rho and do not compare.

    Attributes:
        rows: of `WorstCasePoint`.
        points: label of a line -> the points of every image, where they were just measured.
    """

    row_type = WorstCasePoint
    points: Mapping[str, AttackedPoints] = dataclasses.field(default_factory=dict)

    def __add__(self, other):
        """Return the rows and points of both."""
        joined = super().__add__(other)
        return joined if joined is NotImplemented else type(self)(joined.rows, {**self.points, **other.points})

    def attachments(self) -> dict[str, Any]:
        """Return the points of every image, as plain values."""
        return {label: [values.tolist() for values in points] for label, points in self.points.items()}

    @classmethod
    def from_records(cls, records: Iterable[dict[str, Any]], attachments: Mapping[str, Any] | None = None) -> Self:
        """Return the curve in dicts of ``to_records``, with the points in those of ``attachments``."""
        rows = super().from_records(records).rows
        return cls(
            rows, {label: AttackedPoints(*map(np.array, points)) for label, points in (attachments or {}).items()}
        )

    def envelope(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the vertices of a line's concave envelope: arrays ``(rho, distortion)``, rho rising.

        Where the points of every image are known, it is that of their worst mixture, at least as high.  Beyond its last
        vertex the envelope is constant.
        """
        if label in self.points:
            return self.points[label].curve()
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
    attack: str = "ensemble",
    steps: int = 100,
    restarts: int = 1,
    precision: str = "float32",
    check: int = 32,
    seed: int = 0,
    progress: bool = False,
    encoder: Any = None,
    sources: Sequence[Any] = (),
) -> WorstCaseCurve:
    """Attack a set of images at several gammas: mean distortion against mean squared distance.

    ``attack="ensemble"`` (`Ensemble`) climbs from several starts with two geometries, and says what it may have missed:
    take it for every claim.  ``attack="converged"`` is one of its members alone, for quick looks: its step size is each
    image's own, it keeps each image's best point, starts once more from noise, and stops each image when it gains less
    than 0.1 % in fifteen evaluations.  That is converged for this ascent; the ensemble often finds more.  An image's
    point at one gamma competes at all others, so D never falls as gamma falls.
    ``attack="paper"`` takes the published 15 gradient steps (arXiv 2110.07007), which stop far below the maximum on a
    standard model.  ``attack="black_box"`` needs no gradient, so it takes any function from images to images, such as
    JPEG: each round takes what the codec returned for a constant (`CodecAttack`), then a search without gradients
    follows.

    Args:
        models: a model, several, or a mapping of label -> model; see `subjects.labelled`.
        images: (n, h, w, c) in [0, 1].
        gammas: prices of squared distance > 0, rising or falling.
        attack: "ensemble", "converged", "paper" or "black_box".
        steps: int >= 1, evaluations of each ascent at most; not for "paper".
        restarts: int >= 0, further ascents from noise; only for "converged".
        precision: "float32" or "bfloat16", in which the adaptive ascent climbs.  The points are measured in the model's
            own.
        sources: arrays like ``images``, attacked on other models; further starts of the ensemble.
        check: int >= 0, images for which a search without gradients looks for worse points; 0 leaves it out.
        seed: int, of the restarts' noise and of that search.
        progress: whether to show a progress bar.
        encoder: that finds the codes, or a mapping of label -> encoder; None is the network.  The attack then goes
            through the encoder: `CodecAttack` begins at what the attack on the network found.

    Returns:
        lines for every stage of structured models.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> curve = rc.worst_case_curve(model, images, gammas=[4, 2])
        >>> print(curve)
        >>> curve.at(8)  # distortion that some images within mean squared distance 8 reach, at least
    """
    gammas = check_rising_or_falling("gammas", [float(gamma) for gamma in np.atleast_1d(gammas)])
    options = Options(attack, steps, restarts, precision, check, seed, encoder, sources)
    return _curve(models, images, options, lambda attacker: iter(gammas), len(gammas), progress)


def worst_case_at(
    model: Any, images: Any, rho: float, climbs: int = 7, progress: bool = False, **options: Any
) -> WorstCaseCurve:
    """Attack a set of images at the prices that matter for one radius, and return the curve; read ``curve.at(rho)``.

    The mean squared distance of the attacked images falls as the price rises.  The search halves the interval of
    prices, on a logarithmic scale, around the one whose distance is ``rho``.

    Args:
        model: as in `worst_case_curve`, one alone.
        images: (n, h, w, c) in [0, 1].
        rho: mean squared distance > 0.
        climbs: int >= 2, prices at most.
        progress: whether to show a progress bar.
        **options: of `worst_case_curve`, such as ``attack`` or ``encoder``.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> rc.worst_case_at(model, images, 24).at(24)
    """
    rho, climbs = check_positive("rho", rho), check_at_least("climbs", climbs, 2)
    models = subjects.labelled(model)
    if len(models) > 1 or len(subjects.stages_of(next(iter(models.values())))) > 1:
        raise InvalidArgument("worst_case_at takes one model of one stage; for others call worst_case_curve")
    chosen = Options(**options)
    check_choice("attack", chosen.attack, [name for name in ATTACKS if name != "paper"])

    def prices(attacker):
        low, high = LOWEST_PRICE, HIGHEST_PRICE
        for _ in range(climbs):
            gamma = (low * high) ** 0.5
            yield gamma
            further = attacker.points.best(gamma)[0].mean() > rho
            low, high = (gamma, high) if further else (low, gamma)
            if high < 1.05 * low:
                return

    return _curve(models, images, chosen, prices, climbs, progress)


def _curve(models, images, options, prices, climbs, progress):
    """Attack every stage of every model at the prices that ``prices(attacker)`` yields, ``climbs`` of them at most."""
    coded = subjects.labelled(models, options.encoder) if options.encoder is not None else {}
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images, gradients=options.attack != "black_box")
    curve = WorstCaseCurve(())
    units = climbs * len(subjects.batches(images))
    for job in subjects.each_stage(models, units, progress, "worst case"):
        attacker = make_attacker(job, images, options, coded.get(job.row["model"]))
        found = sorted((attacker.climb(gamma) for gamma in prices(attacker)), key=lambda climb: -climb.gamma)
        rows = tuple(_rows(job, attacker.points, found, "encoder" if coded else options.attack))
        curve += WorstCaseCurve(rows, {} if options.attack == "paper" else {rows[0].line: attacker.points})
    return curve


def _rows(job, points, climbs, attack):
    """The clean point, then one for each price."""
    nothing = Climb(float("inf"), evaluations=0, gain=0.0, gradient_free_gain=float("nan"))
    for number, climb in enumerate([nothing, *climbs]):
        if number and attack != "paper":  # an image's point at one price competes at all others
            rho, distortion = points.best(climb.gamma)
        else:
            rho, distortion = points.radius[:, number], points.distortion[:, number]
        yield WorstCasePoint(
            **job.row,
            attack=attack if number else "none",
            gamma=climb.gamma,
            rho=float(rho.mean()),
            rho_error=subjects.standard_error(rho),
            distortion=float(distortion.mean()),
            distortion_error=subjects.standard_error(distortion),
            images=len(distortion),
            evaluations=climb.evaluations,
            gain=float("nan") if attack == "paper" and number else climb.gain,
            gradient_free_gain=climb.gradient_free_gain,
            verdict=climb.verdict,
        )
