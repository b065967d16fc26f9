"""Rotation of images, and the search for the worst angle."""

import math

import keras
import numpy as np
from keras import ops

from tf_robustcomp.adversaries.base import Adversary, Proposal, check_at_least, check_positive, step_seed
from tf_robustcomp.errors import InvalidArgument

LEAST_PART = 16  # images that stand for a batch


def rotate(images, angles):
    """Turn images about their centre: nearest neighbour, zeros outside, positive = counter-clockwise.

    Equal to ``scipy.ndimage.rotate(order=0, reshape=False)`` except where a source point lies, to rounding, half way
    between two pixels or on the border; at multiples of 90 degrees of square images exactly ``numpy.rot90``.

    Args:
        images: tensor (n, h, w, c).
        angles: degrees, any number of turns: (n,), or a scalar for all.

    Returns:
        tensor (n, h, w, c), differentiable in ``images`` (each pixel of it is a copy of one, or zero).
    """
    images = ops.convert_to_tensor(images)
    height, width, channels = images.shape[1:]
    count = ops.shape(images)[0]
    cosine, sine = _cosine_and_sine(ops.broadcast_to(ops.cast(angles, "float32"), (count,)))
    down, right = np.meshgrid(_from_centre(height), _from_centre(width), indexing="ij")
    down, right = (ops.convert_to_tensor(offsets.ravel()) for offsets in (down, right))
    row, row_inside = _nearest(cosine * down + sine * right, height)
    column, column_inside = _nearest(cosine * right - sine * down, width)
    first = ops.expand_dims(ops.arange(count, dtype="int32") * (height * width), 1)
    pixels = ops.take(ops.reshape(images, (-1, channels)), first + row * width + column, axis=0)
    inside = ops.cast(ops.expand_dims(ops.logical_and(row_inside, column_inside), -1), images.dtype)
    return ops.reshape(pixels * inside, (-1, height, width, channels))


def wrap(angles):
    """The same angles in [-180, 180) degrees."""
    return angles - 360.0 * ops.floor((angles + 180.0) / 360.0)


def _cosine_and_sine(degrees):
    """Each (n, 1), exactly 0 and +-1 at multiples of 90 degrees."""
    quarters = ops.round(degrees / 90.0)
    rest = (degrees - 90.0 * quarters) * (np.pi / 180.0)
    cosine, sine = ops.cos(rest), ops.sin(rest)
    quarter = quarters - 4.0 * ops.floor(quarters / 4.0)
    odd = ops.logical_or(quarter == 1.0, quarter == 3.0)
    cosine, sine = ops.where(odd, -sine, cosine), ops.where(odd, cosine, sine)
    sign = ops.expand_dims(ops.where(quarter >= 2.0, -1.0, 1.0), 1)
    return sign * ops.expand_dims(cosine, 1), sign * ops.expand_dims(sine, 1)


def _from_centre(side):
    return np.arange(side, dtype="float32") - np.float32((side - 1) / 2)


def _nearest(offset, side):
    """Source pixel of each point on one axis, clipped to the image, and whether the point was in the image."""
    position = offset + np.float32((side - 1) / 2)
    inside = ops.logical_and(position >= 0.0, position <= side - 1.0)
    return ops.clip(ops.cast(ops.floor(position + 0.5), "int32"), 0, side - 1), inside


class _Rotation(Adversary):
    """Images turned by the worst angle that ``candidates`` lead to, of the batch's mean or of each image."""

    reports = "angle"

    def __init__(self, per):
        super().__init__()
        if per not in ("batch", "image"):
            raise InvalidArgument(f"per must be 'batch' or 'image'. Received: per={per!r}")
        self.per = per
        self.whole_batch = per == "batch"

    def realise(self, value, x):
        """Angles in degrees, (n,) -> turned images."""
        return rotate(x, value), wrap(value)

    def _scores(self, objective, x, angles):
        """Objective at each row of angles (k, n) -> (k, n); for the whole batch its mean, in every column."""

        def score(row):
            reached = objective(rotate(x, row))
            return ops.broadcast_to(ops.mean(reached), ops.shape(reached)) if self.whole_batch else reached

        return ops.map(score, angles)


@keras.saving.register_keras_serializable("tf_robustcomp")
class RotationSearch(_Rotation):
    """The worst angle in [-180, 180): a grid, then its best points refined by halving steps.

    Stands for the differential evolution of Lei, Hassani, Saeedi Bidokhti 2021 (arXiv 2110.07007), whose maximum on
    the same batch it reaches to within 0.5 % with fewer, always equally many evaluations and no randomness.  One angle
    for all images is looked for on a part of the batch; only the peaks found there are compared on all of it.

    Args:
        per: "batch" for one angle for all images, the worst in the mean; "image" for one each.
        grid: int >= 1, equally spaced angles to begin with.
        peaks: int >= 1, how many of the best are refined.
        halvings: int >= 0, rounds of refinement; each tries both sides at half the step before.
        part: float in (0, 1], share of the batch (its first images, one in round(1 / part), 16 at least) on which the
            grid and the refinement are made; 1 makes them on all.  Without meaning for ``per="image"``.
    """

    def __init__(self, per="batch", grid=36, peaks=2, halvings=4, part=0.125):
        super().__init__(per)
        self.grid = check_at_least("grid", grid, 1)
        self.peaks = min(check_at_least("peaks", peaks, 1), self.grid)
        self.halvings = check_at_least("halvings", halvings, 0)
        self.part = check_positive("part", part)
        if self.part > 1:
            raise InvalidArgument(f"part must lie in (0, 1]. Received: part={part}")

    def propose(self, objective, x, step):
        """Look for the worst angles."""
        row = ops.zeros_like(x[:, 0, 0, 0])
        grid = ops.convert_to_tensor(np.linspace(-180.0, 180.0, self.grid, endpoint=False, dtype="float32")[:, None])
        tried = self.grid + 2 * self.peaks * self.halvings
        if not self.whole_batch or self.part == 1:
            angles, scores = self._refined(lambda angles: self._scores(objective, x, angles), row + grid)
            return Proposal(_best_rows(angles, scores, 1)[0][0], tried)
        some = x[: _part_of(ops.shape(x)[0], round(1 / self.part))]
        angles, _ = self._refined(lambda angles: self._means_at_once(objective, some, angles), grid)
        angles = row + angles
        angles, _ = _best_rows(angles, self._scores(objective, x, angles), 1)
        return Proposal(angles[0], math.ceil(tried * self.part) + self.peaks)

    def _refined(self, score, angles):
        """Peaks of ``score``, function of angles (k, n) -> (k, n), on a grid: ``(angles, scores)``, (peaks, n) each."""
        angles, scores = _best_rows(angles, score(angles), self.peaks)
        for halving in range(1, self.halvings + 1):
            distance = 360.0 / self.grid / 2**halving
            tried = ops.concatenate([angles - distance, angles + distance])
            # Row k of the three parts is one peak: each keeps the best of its own neighbourhood.
            angles, scores = _best_of_parts(angles, scores, tried, score(tried), self.peaks)
        return angles, scores

    def _means_at_once(self, objective, some, angles):
        """Mean objective at each angle, (k, 1) -> (k, 1): few images at many angles are one batch."""
        count, number = ops.shape(some)[0], angles.shape[0]
        turned = rotate(ops.tile(some, (number, 1, 1, 1)), ops.repeat(angles[:, 0], count))
        return ops.mean(ops.reshape(objective(turned), (number, -1)), axis=1, keepdims=True)

    def get_config(self):
        """Constructor's arguments."""
        return {name: getattr(self, name) for name in ("per", "grid", "peaks", "halvings", "part")}


@keras.saving.register_keras_serializable("tf_robustcomp")
class RotationRandom(_Rotation):
    """The worst of a few angles drawn uniformly from [-180, 180), anew at every step.

    Args:
        candidates: int >= 1, how many are drawn (8 in the paper).
        per: "batch" for one angle for all images, the worst in the mean; "image" for one each.
        seed: int; the angles are a function of (seed, step).
    """

    def __init__(self, candidates=8, per="batch", seed=0):
        super().__init__(per)
        self.candidates = check_at_least("candidates", candidates, 1)
        self.seed = check_at_least("seed", seed, 0)

    def propose(self, objective, x, step):
        """Look for the worst angles."""
        drawn = keras.random.uniform(
            (self.candidates, 1), -180.0, 180.0, seed=step_seed("random angles", self.seed, step)
        )
        angles = ops.zeros_like(x[:, 0, 0, 0]) + drawn
        angles, _ = _best_rows(angles, self._scores(objective, x, angles), 1)
        return Proposal(angles[0], self.candidates)

    def get_config(self):
        """Constructor's arguments."""
        return {"candidates": self.candidates, "per": self.per, "seed": self.seed}


def _part_of(count, nth):
    """How many images are one in ``nth``, but 16 at least; ``count`` is an int, or a tensor where it is not known."""
    part = (count + nth - 1) // nth
    return max(part, LEAST_PART) if isinstance(count, int) else ops.maximum(part, LEAST_PART)


def _best_rows(angles, scores, count):
    """In each column of (k, n) the ``count`` rows of greatest score, best first: ``(angles, scores)``."""
    scores, index = ops.top_k(ops.transpose(scores), count)
    return ops.transpose(ops.take_along_axis(ops.transpose(angles), index, axis=1)), ops.transpose(scores)


def _best_of_parts(angles, scores, tried, tried_scores, parts):
    for part in (slice(None, parts), slice(parts, None)):
        better = tried_scores[part] > scores
        angles, scores = ops.where(better, tried[part], angles), ops.where(better, tried_scores[part], scores)
    return angles, scores
