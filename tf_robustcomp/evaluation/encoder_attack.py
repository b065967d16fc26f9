"""An attack that goes through the encoder, whatever it does to find its codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders import Encoder
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.evaluation.list_bound import wasserstein_bound
from tf_robustcomp.evaluation.points import AttackedPoints

ROUNDS = 12
LEAST_GAIN = 1e-3  # fraction of its objective that an image must be able to gain
CUTS = 60  # codewords of each image that are kept, the last ones


class EncoderAttack:
    """Climbs D(y) - gamma ||y - x||^2, where D is the distortion of y by the codes that an encoder finds for it.

    An encoder takes a minimum over codewords s, so D(y) <= ||y - s||^2 for every s that it may return, with equality at
    the one that it does return.  Each round maximises the least of these bounds over the codewords seen so far
    (`wasserstein_bound`), asks the encoder at the maximiser, and adds what it returns: the cutting planes of Kelley
    (1960).  For an encoder that scans a list exactly and gamma > 1 this ends in the worst case.  For any other encoder
    every point is a floor.

    Points and codewords are kept from one gamma to the next.

    Args:
        model: compressor.
        encoder: encoder.
        images: (n, h, w, c) in [0, 1].
        stage: index of the stage.
        starts: arrays like ``images``, attacked in other ways, which are evaluated first.
        codewords: (n, k, p), some that the encoder may return, such as the nearest ones of its list.
    """

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        images: np.ndarray,
        stage: int,
        starts: Sequence[np.ndarray] = (),
        codewords: np.ndarray | None = None,
    ) -> None:
        self.model, self.encoder, self.images, self.stage = model, encoder, images, stage
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

    def climb(self, gamma: float, rounds: int = ROUNDS, within: float = np.inf) -> AttackedPoints:
        """Return all points after some rounds at a price; an image stops when its bound meets its best point.

        Args:
            gamma: price > 0.
            rounds: int, evaluations of each image at most.
            within: squared radius of a ball around each image, to whose border points outside are moved.
        """
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
            self.evaluate(worst.reshape(-1, *self.images.shape[1:]), active)
        return self.points

    def evaluate(self, images: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Code images that stand for those of ``rows``, by default all; the others repeat their clean point."""
        decoded = decode_all(self.model, self.encoder(self.model, images, self.stage), self.stage)
        distortion, codewords = squared_error(images, decoded), decoded.reshape(len(images), 1, -1)
        if self._points is None:
            self._points, self._codewords = AttackedPoints.clean(distortion), codewords
            return
        rows = np.arange(len(self.images)) if rows is None else rows
        all_radii, all_distortions = np.zeros(len(self.images)), self._points.distortion[:, 0].copy()
        all_radii[rows], all_distortions[rows] = squared_error(self.images[rows], images), distortion
        all_codewords = self._codewords[:, -1:].copy()
        all_codewords[rows] = codewords
        self._points = self._points.with_point(all_radii, all_distortions)
        self._codewords = np.concatenate([self._codewords, all_codewords], axis=1)[:, -CUTS:]
