"""Ceilings of the worst case, for encoders that scan a list: what no attack can exceed."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders import Encoder
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.codec_attack import CodecAttack
from tf_robustcomp.evaluation.list_bound import Bound, linf_bound, wasserstein_bound
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument

NEAREST = 24  # codewords of the list that a bound begins with
ADDED = 4  # codewords nearest to the worst image, added in each refinement
REFINEMENTS = 2
# Above 1 the bound is tight; below, the worst images are black and white.  Denser where worst cases lie.
GAMMAS = (0.3, 0.5, 0.7, 0.85, 0.95, *(1 + 0.03 * 1.35**power for power in range(25)))
ROUNDING = 1e-3  # fraction added to every ceiling: lists are scanned in float32


@dataclasses.dataclass(frozen=True)
class CertifiedPoint(Row):
    """Floor and ceiling of the worst case at one radius, means over images.

    Attributes:
        ball: "wasserstein", or "l2" or "linf" around each image.
        radius: rho, the mean squared distance; for the other balls epsilon.
        clean: distortion of the clean images.
        floor: distortion that an attack through the encoder found.
        ceiling: distortion that no attack exceeds on these images.
        gamma: price at which the ceiling was found; nan for "linf".
        population: ceiling for the distribution that the images were drawn from, at this radius, with the confidence
            below; infinite where there were too few images.
        confidence: probability that ``population`` holds, over the draw of the images.
        images: number of images.
    """

    ball: str
    radius: float
    clean: float
    floor: float
    ceiling: float
    gamma: float
    population: float
    confidence: float
    images: int

    @property
    def gap(self) -> float:
        """Ceiling less floor."""
        return self.ceiling - self.floor


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedCurve(Results):
    """Floors and ceilings of worst cases."""

    row_type = CertifiedPoint

    def draw(self, axes: Any) -> None:
        """Draw floors, ceilings and the band between them."""
        self.shade(axes)
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = {**figures.style(rows[0], models), "marker": "", "linestyle": ":"}
            axes.plot([row.radius for row in rows], [row.floor for row in rows], **look, label=f"{label}, floor")
        wasserstein = not self.rows or self.rows[0].ball == "wasserstein"
        axes.set(
            xlabel="rho, mean squared distance" if wasserstein else "epsilon, radius of the ball",
            ylabel="worst-case distortion",
        )

    def shade(self, axes: Any) -> None:
        """Draw ceilings and the band below each, for axes that have the floors already."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            radius, floor, ceiling = ([getattr(row, name) for row in rows] for name in ("radius", "floor", "ceiling"))
            axes.fill_between(radius, floor, ceiling, color=look["color"], alpha=0.25, linewidth=0)
            axes.plot(radius, ceiling, **{**look, "marker": ""}, label=f"{label}, ceiling")


def certified_curve(
    models: Any,
    images: Any,
    radii: Any,
    encoder: Encoder,
    ball: str = "wasserstein",
    confidence: float = 0.95,
    rounds: int = 12,
    progress: bool = False,
) -> CertifiedCurve:
    """Return floor and ceiling of the worst case for an encoder that scans a list of codes.

    Such an encoder codes **every** image y with a distortion of at most min_i ||y - s_i||^2 over the decoded codes s_i
    of its list, whatever the network or a search adds.  For a pointwise bound h and any price gamma, weak duality gives

        sup over the ball of E D  <=  gamma rho + E[max over y in [0, 1]^p of h(y) - gamma ||y - x||^2],

    and `list_bound` bounds the maximum.  The ceiling is the least over a grid of prices.  The floor is what
    `CodecAttack` reaches.  For gamma > 1 the ceiling is the worst case of the list alone; the network's code, which is
    a candidate, too, may keep the floor below it.

    Args:
        models: compressors, as in `worst_case_curve`; for structured models every stage on its own.
        images: (n, h, w, c) in [0, 1].
        radii: rho >= 0, mean squared distances; with ``ball`` "l2" or "linf" epsilons, for each image.
        encoder: `ListEncoder`, or one that holds it, such as ``BestOf([ListEncoder(...), SearchEncoder()])``.
        ball: "wasserstein", "l2" or "linf".
        confidence: in (0, 1), of the statement for the distribution (Maurer and Pontil 2009, arXiv 0907.3740).  Its
            prices are chosen on the first fifth of the images and it is made from the others.
        rounds: int >= 0, of the attack at each price; 0 leaves the attack out, and the floor is the clean distortion.
        progress: whether to show a progress bar.

    Raises:
        InvalidArgument: the encoder scans no list, or its list is of another model, or an argument breaks its rule.

    Example:
        >>> encoder = rc.ListEncoder.fit(model, train_images)
        >>> print(rc.certified_curve(model, test_images[:20], [8, 24], encoder))
    """
    models = subjects.labelled(models)
    images = subjects.checked_images(models, images)
    check_choice("ball", ball, ("wasserstein", "l2", "linf"))
    rounds = check_at_least("rounds", rounds, 0)
    if not 0 < confidence < 1:
        raise InvalidArgument(f"confidence must lie in (0, 1). Received: confidence={confidence}")
    radii = [float(radius) for radius in np.atleast_1d(radii)]
    if not radii or not all(0 <= radius < math.inf for radius in radii):
        raise InvalidArgument(f"radii must be numbers >= 0. Received: {radii}")
    if not getattr(encoder, "lists", ()):
        raise InvalidArgument(
            "encoder must scan a list, such as rc.ListEncoder.fit(model, images): only what is scanned for every image "
            f"can be certified. Received: {encoder!r}"
        )
    rows: list[CertifiedPoint] = []
    units = len(radii) if ball == "linf" else len(GAMMAS) + len(radii)
    for model in models.values():
        encoder.check(model)
    for job in subjects.each_stage(models, units, progress, "certifying"):
        job_rows = _linf_rows if ball == "linf" else _priced_rows
        rows += job_rows(job, images, radii, encoder, ball, confidence, rounds)
    return CertifiedCurve(tuple(rows))


class _List:
    """The decoded codes that an encoder scans at a stage of a model."""

    def __init__(self, job, encoder):
        self.job, self.lists = job, encoder.lists
        # No image in [0, 1] is further than this from the best single codeword.
        decoded = [one.decoded(job.model, job.stage)[0] for one in self.lists]
        self.greatest = min(float(np.square(np.maximum(part, 1 - part)).sum(axis=1).min()) for part in decoded)

    def nearest(self, images: np.ndarray, count: int) -> np.ndarray:
        """The nearest codewords (n, k, p) of images, ``count`` from each list."""
        parts = []
        for one in self.lists:
            indices, _ = one.nearest(self.job.model, images, self.job.stage, count)
            parts.append(one.decoded(self.job.model, self.job.stage)[0][indices])
        return np.concatenate(parts, axis=1)

    def bound(self, images: np.ndarray, codewords: np.ndarray, bound: Callable) -> Bound:
        """The bound of each image; codewords nearest to its worst images are added, as they lower it."""
        flat = images.reshape(len(images), -1)
        for refinement in range(REFINEMENTS + 1):
            found = bound(flat, codewords)
            if refinement < REFINEMENTS:
                worst = found.worst.astype(np.float32).reshape(images.shape)
                codewords = np.concatenate([codewords, self.nearest(worst, ADDED)], axis=1)
        return found


def _priced_rows(job, images, radii, encoder, ball, confidence, rounds):
    scanned = _List(job, encoder)
    parts = subjects.batches(images)
    near = [scanned.nearest(part, NEAREST) for part in parts]
    values = np.empty((len(GAMMAS), len(images)))
    for number, gamma in enumerate(GAMMAS):
        bounds = [
            scanned.bound(part, codewords, functools.partial(wasserstein_bound, gamma=gamma))
            for part, codewords in zip(parts, near, strict=True)
        ]
        values[number] = np.concatenate([one.value for one in bounds])
        job.bar.update()
    values = np.minimum(values, scanned.greatest)
    gammas = np.array(GAMMAS)
    chosen = len(images) // 5
    attack = CodecAttack(_coder(job, encoder), images, codewords=np.concatenate(near))
    clean, found = float(attack.points.distortion[:, 0].mean()), []
    for radius in sorted(radii):
        rho = radius if ball == "wasserstein" else radius**2
        bounds = gammas[:, None] * rho + values
        if ball == "wasserstein":
            best = int(bounds.mean(axis=1).argmin())
            ceiling, gamma = bounds[best].mean(), gammas[best]
        else:  # every image has its own ball, so its own price
            best = int(np.bincount(bounds.argmin(axis=0)).argmax())
            ceiling, gamma = bounds.min(axis=0).mean(), gammas[best]
        if rounds:  # the next prices, too: the worst mixture has points of both sides
            for price in range(max(best - 1, 0), min(best + 2, len(GAMMAS))):
                attack.climb(gammas[price], rounds, within=math.inf if ball == "wasserstein" else rho)
        if ball == "wasserstein":
            price = int(bounds[:, :chosen].mean(axis=1).argmin()) if chosen else 0
            population = gammas[price] * rho + _upper_mean(values[price, chosen:], scanned.greatest, confidence)
        else:
            own = np.minimum(bounds.min(axis=0), scanned.greatest)
            population = _upper_mean(own, scanned.greatest, confidence)
        found.append((radius, rho, ceiling, gamma, population))
        job.bar.update()
    for radius, rho, ceiling, gamma, population in found:  # after all climbs: their points count at every radius
        floor = _floor(attack.points, rho, ball)
        yield _row(job, ball, radius, clean, floor, ceiling, gamma, population, confidence, images)


def _linf_rows(job, images, radii, encoder, ball, confidence, rounds):
    scanned = _List(job, encoder)
    coded = CodecAttack(_coder(job, encoder), images).points.distortion[:, 0]
    for radius in sorted(radii):
        values, reached = [], []
        for part in subjects.batches(images):
            found = scanned.bound(part, scanned.nearest(part, NEAREST), functools.partial(linf_bound, epsilon=radius))
            values.append(found.value)
            if rounds:
                worst = found.worst.astype(np.float32).reshape(part.shape)
                reached.append(CodecAttack(_coder(job, encoder), worst).points.distortion[:, 0])
        ceilings = np.minimum(np.concatenate(values), scanned.greatest)
        floors = np.maximum(coded, np.concatenate(reached)) if rounds else coded
        population = _upper_mean(ceilings, scanned.greatest, confidence)
        yield _row(
            job, ball, radius, coded.mean(), floors.mean(), ceilings.mean(), math.nan, population, confidence, images
        )
        job.bar.update()


def _coder(job, encoder):
    """The function of images that codes them by the encoder at the job's stage, and decodes them."""
    return lambda images: decode_all(job.model, encoder(job.model, images, job.stage), job.stage)


def _floor(points, rho, ball):
    """The worst mixture of points in the Wasserstein ball, or the worst point of each image in its own ball."""
    if ball == "wasserstein":
        return float(points.at(rho))
    return float(np.where(points.radius <= rho, points.distortion, -np.inf).max(axis=1).mean())


def _upper_mean(values, greatest, confidence):
    """An upper bound on the mean of a distribution on [0, greatest] (Maurer and Pontil 2009, theorem 4)."""
    count = len(values)
    if count < 2:
        return math.inf
    term = math.log(2 / (1 - confidence))
    spread = math.sqrt(2 * np.var(values, ddof=1) * term / count)
    return float(values.mean() + spread + 7 * greatest * term / (3 * (count - 1)))


def _row(job, ball, radius, clean, floor, ceiling, gamma, population, confidence, images):
    return CertifiedPoint(
        **job.row,
        ball=ball,
        radius=radius,
        clean=float(clean),
        floor=float(floor),
        ceiling=float(ceiling) * (1 + ROUNDING),
        gamma=float(gamma),
        population=float(population) * (1 + ROUNDING),
        confidence=confidence,
        images=len(images),
    )
