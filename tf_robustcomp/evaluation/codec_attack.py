"""An attack on any codec, seen from outside: what it makes of an image is all that is known."""

from collections.abc import Callable, Sequence

import numpy as np

from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.evaluation.gradient_free import search
from tf_robustcomp.evaluation.list_bound import wasserstein_bound
from tf_robustcomp.evaluation.points import AttackedPoints

ROUNDS = 12
LEAST_GAIN = 1e-3  # fraction of its objective that an image must be able to gain
CUTS = 60  # codewords of each image that are kept, the last ones


class CodecAttack:
    """Climbs D(y) - gamma ||y - x||^2, where D(y) is the distance of y to what a codec makes of it.

    A codec that takes the nearest of its codewords s has D(y) <= ||y - s||^2 for every s that it may return, with
    equality at the one that it does return.  Each round maximises the least of these bounds over the codewords seen so
    far (`wasserstein_bound`), asks the codec at the maximiser, and adds what it returns: the cutting planes of Kelley
    (1960).  For an encoder that scans a list exactly and gamma > 1 this ends in the worst case.  For any other codec
    the bounds only propose, and every point is a floor.

    Points and codewords are kept from one gamma to the next.

    Args:
        code: function of images (n, h, w, c), an array, that returns them as the codec decodes them.
        images: (n, h, w, c) in [0, 1].
        starts: arrays like ``images``, attacked in other ways, which are evaluated first.
        codewords: (n, k, p), some that the codec may return, such as the nearest ones of an encoder's list.

    Attributes:
        worst: like ``images``, the worst image of each that was evaluated at the last price.
    """

    def __init__(
        self,
        code: Callable[[np.ndarray], np.ndarray],
        images: np.ndarray,
        starts: Sequence[np.ndarray] = (),
        codewords: np.ndarray | None = None,
    ) -> None:
        self.code, self.images, self.worst = code, images, images.copy()
        self._gamma = 1.0
        self._flat = images.reshape(len(images), -1)
        self._codewords = np.zeros((len(images), 0, 0), np.float32)
        self._points: AttackedPoints | None = None
        for start in (images, *starts):
            self.evaluate(start)
        if codewords is not None:
            self._codewords = np.concatenate([codewords, self._codewords], axis=1)

    @property
    def points(self) -> AttackedPoints:
        """All points that were evaluated."""
        assert self._points is not None
        return self._points

    def search(self, gamma: float, rounds: int, seed: int = 0) -> None:
        """Search without gradients from the worst images of the last climb, and add what was found."""

        def objective(images):
            return squared_error(images, self.code(images)) - gamma * squared_error(images, self.images)

        self.evaluate(search(objective, self.worst, rounds, seed), finder="search without gradients")

    def climb(self, gamma: float, rounds: int = ROUNDS, within: float = np.inf) -> AttackedPoints:
        """Return all points after some rounds at a price; an image stops when its bound meets its best point.

        Args:
            gamma: price > 0.
            rounds: int, evaluations of each image at most.
            within: squared radius of a ball around each image, to whose border points outside are moved.
        """
        self._gamma = gamma
        active = np.arange(len(self.images))
        for _ in range(rounds):
            bound = wasserstein_bound(self._flat[active], self._codewords[active], gamma)
            radius, distortion = self.points.best(gamma)
            reached = (distortion - gamma * radius)[active]
            gaining = bound.value > reached + LEAST_GAIN * np.abs(reached)
            if not gaining.any():
                break
            active = active[gaining]
            moves = bound.worst[gaining] - self._flat[active]
            length = np.sum(moves**2, axis=1, keepdims=True)
            moves *= np.sqrt(np.minimum(1, within / np.maximum(length, 1e-12)))
            worst = np.clip(self._flat[active] + moves, 0, 1).astype(np.float32)
            self.evaluate(worst.reshape(-1, *self.images.shape[1:]), active, "cutting planes")
        return self.points

    def evaluate(self, images: np.ndarray, rows: np.ndarray | None = None, finder: str = "given images") -> None:
        """Code images that stand for those of ``rows``, by default all; the others repeat their clean point.

        ``finder`` names the attack that they come from.
        """
        decoded = self.code(images)
        distortion, codewords = squared_error(images, decoded), decoded.reshape(len(images), 1, -1)
        if self._points is None:
            self._points, self._codewords = AttackedPoints.clean(distortion), codewords
            self._worst_point = (np.zeros(len(images)), distortion.copy())
            return
        rows = np.arange(len(self.images)) if rows is None else rows
        all_radii, all_distortions = np.zeros(len(self.images)), self._points.distortion[:, 0].copy()
        all_radii[rows], all_distortions[rows] = squared_error(self.images[rows], images), distortion
        self._keep_worst(images, rows, all_radii, all_distortions)
        all_codewords = self._codewords[:, -1:].copy()
        all_codewords[rows] = codewords
        self._points = self._points.with_point(all_radii, all_distortions, finder)
        self._codewords = np.concatenate([self._codewords, all_codewords], axis=1)[:, -CUTS:]

    def _keep_worst(self, images, rows, radii, distortions):
        """Replace the worst images at the present price."""
        known_radii, known_distortions = self._worst_point
        better = (distortions - self._gamma * radii > known_distortions - self._gamma * known_radii)[rows]
        self.worst[rows[better]] = images[better]
        known_radii[rows[better]], known_distortions[rows[better]] = radii[rows[better]], distortions[rows[better]]
