"""The points that attacks found, image by image, and the worst mixture of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class AttackedPoints(NamedTuple):
    """Points (squared distance, distortion) of each image; the first of them is the clean image.

    Attributes:
        radius: (n, k), squared 2-norm of the perturbation.
        distortion: (n, k), of the attacked image.
        finder: (n, k) of str, the name of the attack that found it.
    """

    radius: np.ndarray
    distortion: np.ndarray
    finder: np.ndarray

    @classmethod
    def clean(cls, distortion: np.ndarray) -> "AttackedPoints":
        """Return the points of clean images, whose distortion is (n,)."""
        distortion = np.asarray(distortion, np.float64)[:, None]
        return cls(np.zeros_like(distortion), distortion, np.full(distortion.shape, "none"))

    def with_point(self, radius: np.ndarray, distortion: np.ndarray, finder: str) -> "AttackedPoints":
        """Return the points with one more of each image, (n,) twice, and who found them."""
        return AttackedPoints(
            np.column_stack([self.radius, np.asarray(radius, np.float64)]),
            np.column_stack([self.distortion, np.asarray(distortion, np.float64)]),
            np.column_stack([self.finder, np.full(len(self.finder), finder)]),
        )

    def with_trail(self, radius: np.ndarray, distortion: np.ndarray, finders: Sequence[str]) -> "AttackedPoints":
        """Return the points with many more of each image, (n, k) twice, less those that no mixture needs.

        ``finders`` are k names.
        """
        radius, distortion = np.hstack([self.radius, radius]), np.hstack([self.distortion, distortion])
        names = np.array([*finders], dtype=str)
        finder = np.hstack([self.finder, np.broadcast_to(names, (len(radius), len(names)))])
        kept = []
        for far, bad in zip(radius, distortion, strict=True):
            vertices = zip(*concave_envelope(far, bad), strict=True)
            kept.append([0, *(int(np.argmax((far == r) & (bad == d))) for r, d in vertices)])
        longest = max(map(len, kept))
        index = np.array([row + [0] * (longest - len(row)) for row in kept])  # filled up with the clean point
        return AttackedPoints(*(np.take_along_axis(values, index, axis=1) for values in (radius, distortion, finder)))

    def best(self, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return each image's ``(radius, distortion)`` of greatest distortion - gamma radius, (n,) twice."""
        rows, best = np.arange(len(self.radius)), np.argmax(self.distortion - gamma * self.radius, axis=1)
        return self.radius[rows, best], self.distortion[rows, best]

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the greatest mean distortion against the mean radius, as vertices ``(rho, distortion)``.

        A distribution within the ball may split each image among its points.  The best split is a linear programme over
        all images with one constraint, so images move along their own concave envelopes, steepest segments first.  One
        more point never lowers the curve.
        """
        segments = [np.diff(concave_envelope(r, d), axis=1) for r, d in zip(self.radius, self.distortion, strict=True)]
        further, worse = np.concatenate(segments, axis=1)
        order = np.argsort(-worse / further, kind="stable")
        count, least = len(self.radius), self.at_no_radius().mean()
        rho = np.concatenate([[0.0], np.cumsum(further[order]) / count])
        return rho, np.concatenate([[least], least + np.cumsum(worse[order]) / count])

    def at_no_radius(self) -> np.ndarray:
        """Return each image's greatest distortion at radius 0, (n,)."""
        return np.where(self.radius == 0, self.distortion, -np.inf).max(axis=1)

    def at(self, rho: float | np.ndarray) -> np.ndarray:
        """Return the value of ``curve`` at mean radii."""
        return np.interp(rho, *self.curve())


def concave_envelope(x: Iterable[float], y: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least concave nondecreasing function above points, from the leftmost on.

    Args:
        x, y: numbers; constant to the right of the greatest y.

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
