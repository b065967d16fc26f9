"""An ensemble of attacks on a network: several starts and two geometries, the worst point of each image kept."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from scipy import ndimage

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.backend.folding import inference_function
from tf_robustcomp.backend.gradients import compiled, read, value_and_input_gradient
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.points import AttackedPoints

STEP_SIZE = 0.1  # of the first steps of Adam, for each pixel
SHORTER = 0.5  # factor of an image's step size when its ascent stalls, from its best point on
PATIENCE = 8  # steps in a row without a gain that count as stalling
LEAST_GAIN = 1e-4  # fraction of the objective that a step must gain
SHORTEST = 0.02  # fraction of the first step size at which an image has converged
DECAYS = (0.9, 0.99)  # of Adam's averages
SPACING = 1.2  # ratio of the prices at which all starts are climbed from; between them points move little
SAMPLES = 8  # calls of a random model that its gradient is the mean of
LEAST_OPEN = 1e-3  # a member that gained less in its last steps has converged
ADAPTIVE = "adaptive from the clean image and noise"


@dataclasses.dataclass(frozen=True)
class Member:
    """A member of the ensemble and what it did at one price.

    Attributes:
        name: of the member.
        won: fraction of images whose worst point it found.
        gain: fraction of its objective that its last steps gained, over images that had not converged; nan after a
            single step.
    """

    name: str
    won: float
    gain: float


def starts(images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return images that ascents begin at, by name.

    Noise is the same for every image, so an image's result does not depend on its place.

    Args:
        images: (n, h, w, c) in [0, 1].
        seed: int, of the noise.
    """
    rng = np.random.default_rng(seed)
    shape = images.shape[1:]
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (2, 2, 0))
    smooth = 0.5 + 0.5 * smooth / np.abs(smooth).max()
    made = {
        "binary noise": np.broadcast_to(rng.random(shape) < 0.5, images.shape),
        "smooth noise": 0.6 * images + 0.4 * smooth,
        "the inverted image mixed in": 0.7 * images + 0.3 * (1 - images),
        "grey mixed in": 0.7 * images + 0.15,
        "the clean image": images,
    }
    return {f"Adam from {name}": value.astype(np.float32) for name, value in made.items()}


class Ensemble:
    """Attacks a model over a Wasserstein ball at one price after the other, and keeps every image's points.

    Members are the adaptive ascent of `WassersteinBall` and, from several starts, ascents whose steps Adam scales for
    each pixel: these leave plateaus that the first one takes for maxima.  Each image has its own step size and stops by
    its own gain.  At each price the worst points of the price before are one more start; at a price within `SPACING` of
    the last one with all starts it is the only one beside the adaptive ascent.  A member that found no image's worst
    point at two of its prices in a row is left out from then on: only there do other images matter.

    Args:
        model: Keras model or layer, or any function from images to images.
        images: (n, h, w, c) in [0, 1].
        stage: index of the stage.
        steps: gradient evaluations of each ascent at most.
        seed: int, of the noise.
        sources: arrays like ``images``, attacked on other models: further starts.
        precision: of the adaptive ascent, as in `WassersteinBall`.

    Attributes:
        points: of every image, the clean one first.
        worst: like ``images``, the worst images at the last price.
        members: what each did at the last price.
        undefined: (n,) of bool, where the model returned values that are not finite.
    """

    def __init__(
        self,
        model: Any,
        images: np.ndarray,
        stage: int,
        steps: int = 120,
        seed: int = 0,
        sources: Sequence[np.ndarray] = (),
        precision: str = "float32",
    ) -> None:
        self.model, self.images, self.stage, self.steps = model, images, stage, steps
        self.arguments = subjects.call_arguments(model, stage)
        self._measure = subjects.measurer(model, stage)
        self.points = AttackedPoints.clean(self._measure(images)[1])
        self.worst, self.undefined = images.copy(), ~np.isfinite(self.points.distortion[:, 0])
        self.members: list[Member] = []
        once, again = (self._measure(images[:4])[1] for _ in range(2))
        self.random = not np.array_equal(once, again)
        self._starts = starts(images, seed)
        self._starts |= {f"Adam from source {number}": source for number, source in enumerate(sources, 1)}
        self._adaptive = WassersteinBall(1.0, min(steps, 100), method="adaptive", precision=precision, seed=seed)
        self._gradient = _gradient_of(model, self.arguments, SAMPLES if self.random else 1)
        self._lost: dict[str, int] = {}
        self._all_from = np.inf  # the last price at which all starts were climbed from

    def climb(self, gamma: float) -> int:
        """Attack at a price; return the mean number of gradient evaluations of an image, rounded up."""
        best = self._objective(self.worst, gamma)
        found, evaluations = {}, 0.0
        if self._lost.get(ADAPTIVE, 0) < 2:
            images, gain, count = self._climb_adaptively(gamma)
            found[ADAPTIVE] = (images, gain)
            evaluations += count
        starts = {}
        if not self._all_from / SPACING < gamma < self._all_from * SPACING:
            self._all_from = gamma
            starts = {name: start for name, start in self._starts.items() if self._lost.get(name, 0) < 2}
        if np.any(self.points.radius):
            starts["Adam from the worst image of the price before"] = self.worst.copy()
        if starts:
            climbed = self._climb_by_adam(np.stack([*starts.values()]), gamma)
            found |= dict(zip(starts, zip(climbed.images, climbed.gains, strict=True), strict=True))
            evaluations += climbed.evaluations
            radius, reached = np.moveaxis(climbed.trail, 0, 2)
            self.points = self.points.with_trail(radius, reached, [*starts] * (len(climbed.trail) // len(starts)))
        winners = np.full(len(best), "", object)
        for name, (images, _) in found.items():
            radius, reached = self._measure_exactly(images)
            self.points = self.points.with_point(radius, reached, name)
            objective = reached - gamma * radius
            better = objective > best + LEAST_GAIN * np.abs(best)
            best[better], self.worst[better], winners[better] = objective[better], images[better], name
        self.members = [Member(name, float(np.mean(winners == name)), gain) for name, (_, gain) in found.items()]
        for member in self.members:
            self._lost[member.name] = 0 if member.won else self._lost.get(member.name, 0) + 1
        return int(np.ceil(evaluations))

    def verdict(self) -> str:
        """Return what is known of the last climb, in words: "converged", or what it may have missed."""
        said = []
        if self.random:
            said.append(f"random: gradients are means of {SAMPLES} calls")
        if not np.any(self.worst != self.images):
            said.append("nothing found: the gradient may be zero")
        if any(np.isnan(member.gain) for member in self.members):
            said.append("not converged: one step of each ascent cannot tell")
        still = [member for member in self.members if member.won and member.gain > LEAST_OPEN]
        if still:
            most = max(still, key=lambda member: member.gain)
            said.append(f"not converged: {most.name} still gained {100 * most.gain:.2g} %")
        return "; ".join(said) or "converged"

    def _climb_adaptively(self, gamma):
        self._adaptive.gamma = gamma
        results = [self._adaptive.attack(self.model, part, **self.arguments) for part in subjects.batches(self.images)]
        images = np.concatenate([ops.convert_to_numpy(result.x) for result in results])
        self.undefined |= ~np.concatenate([ops.convert_to_numpy(result.defined) for result in results])
        gain = max(float(result.gain) for result in results)
        return images, gain, int(max(int(result.evaluations) for result in results))

    def _climb_by_adam(self, starts, gamma):
        """Climb from all starts (k, n, h, w, c) side by side, in full batches."""
        count, images = starts.shape[:2]
        owner = np.tile(np.arange(images), count)  # the image of each row
        points = starts.reshape(-1, *starts.shape[2:]).copy()
        best_points = points.copy()
        best, recent = np.full(len(points), -np.inf), np.full(len(points), -np.inf)
        size, failures = np.full(len(points), STEP_SIZE), np.zeros(len(points), int)
        mean, square = np.zeros_like(points), np.zeros_like(points)
        active, trail, evaluations = np.arange(len(points)), [], 0
        for step in range(1, self.steps + 1):
            objective, gradient = self._gradient(points[active], self.images[owner[active]], gamma)
            evaluations += len(active)
            finite = np.isfinite(objective) & np.isfinite(gradient).all(axis=(1, 2, 3))
            self.undefined[owner[active[~finite]]] = True
            objective, gradient = np.where(finite, objective, -np.inf), np.nan_to_num(gradient)
            trail.append(self._passed(active[finite], owner, points, objective[finite], gamma))
            known = best[active]
            least = np.where(np.isfinite(known), LEAST_GAIN * np.abs(known), 0)
            better = objective > known + least
            higher = active[objective > known]
            best_points[higher], best[higher] = points[higher], objective[objective > known]
            failures[active] = np.where(better, 0, failures[active] + 1)
            stalled = active[failures[active] >= PATIENCE]
            size[stalled] *= SHORTER
            failures[stalled] = 0
            mean[active] += (1 - DECAYS[0]) * (gradient - mean[active])
            square[active] += (1 - DECAYS[1]) * (gradient**2 - square[active])
            scaled = mean[active] / (1 - DECAYS[0] ** step) / (np.sqrt(square[active] / (1 - DECAYS[1] ** step)) + 1e-8)
            points[stalled] = best_points[stalled]
            points[active] = np.clip(points[active] + size[active, None, None, None] * scaled, 0, 1)
            if step == max(self.steps - PATIENCE, 1):
                recent = best.copy()
            active = active[(size[active] > SHORTEST * STEP_SIZE) & finite]
            if not len(active):
                break
        open_rows = [active[active // images == number] for number in range(count)]
        gains = [
            _share_gained(best[number * images :][:images], (best - recent)[rows].sum(), len(rows), self.steps)
            for number, rows in enumerate(open_rows)
        ]
        return _Climbed(best_points.reshape(starts.shape), gains, np.concatenate(trail), evaluations / images)

    def _passed(self, rows, owner, points, objective, gamma):
        """Squared distance and distortion (k, 2, n) of points on the way; the clean ones where a climb has stopped."""
        passed = np.zeros((2, len(owner)))
        passed[1] = self.points.distortion[owner, 0]
        radius = np.sum((points[rows].astype(np.float64) - self.images[owner[rows]]) ** 2, axis=(1, 2, 3))
        passed[:, rows] = radius, objective + gamma * radius
        return np.moveaxis(passed.reshape(2, -1, len(self.images)), 0, 1)

    def _measure_exactly(self, images):
        """Squared distance and distortion (n,) of images by the model itself; of a random model the mean of calls."""
        calls = [self._measure(images)[1].astype(np.float64) for _ in range(SAMPLES if self.random else 1)]
        difference = images.astype(np.float64) - self.images
        return np.einsum("nhwc,nhwc->n", difference, difference), np.mean(calls, axis=0)

    def _objective(self, images, gamma):
        radius, reached = self._measure_exactly(images)
        return reached - gamma * radius


class _Climbed(NamedTuple):
    """Best images (k, n, h, w, c) from each start, what each still gained, all points (., 2, n), and the cost."""

    images: np.ndarray
    gains: list[float]
    trail: np.ndarray
    evaluations: float


def _share_gained(best, gained, still_open, steps):
    """Fraction of the objective that images which are still open gained lately; nan if a single step cannot tell."""
    if not still_open:
        return 0.0
    if steps == 1:
        return float("nan")
    return float(gained / max(abs(best[np.isfinite(best)].sum()), 1e-12))


def _gradient_of(model: Any, arguments: dict[str, Any], samples: int) -> Callable:
    """Return a function of points, clean images and a price: objective (n,) and gradient, as arrays."""
    is_layer = isinstance(model, keras.Layer)
    variables = model.variables if is_layer else []
    kwargs = {**arguments, "training": False} if is_layer else arguments

    def run(values, points, images, gamma):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            fast = inference_function(model)

            def objective(points):
                calls = [distortion(points, fast(points, **kwargs)) for _ in range(samples)]
                return sum(calls) / samples - gamma * distortion(points, images)

            return value_and_input_gradient(objective, points)

    traced = compiled(run) if is_layer else run

    def gradient(points, images, gamma):
        parts = [_padded(*pair) for pair in zip(subjects.batches(points), subjects.batches(images), strict=True)]
        values, results = [read(variable) for variable in variables], []
        for count, point, image in parts:
            pair = traced(values, *map(ops.convert_to_tensor, (point, image, np.float32(gamma))))
            results.append([np.array(ops.convert_to_numpy(value)[:count]) for value in pair])
        return tuple(np.concatenate(part) for part in zip(*results, strict=True))

    def _padded(points, images):
        """Rows filled up to a power of two: few traces for all numbers of images that are left."""
        count = len(points)
        rows = np.arange(min(1 << (count - 1).bit_length(), subjects.BATCH)) if is_layer else np.arange(count)
        return count, points[rows % count], images[rows % count]

    return gradient
