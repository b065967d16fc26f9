"""Codes of transformed images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder, check_budget
from tf_robustcomp.compression.symbols import encode_all
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.registry import register

CONTRASTS = (0.8, 1.25)
DEVIATIONS = (0.02, 0.05, 0.1)


@register("encoder", "transformed", uses={"budget": "encoder_budget"})
class TransformedEncoder(Encoder):
    """Tries the network's codes of transformed images, too (two-way coding: Song, Choi, Han 2024, arXiv 2401.11902).

    An image that was perturbed for the network is often coded well after a small change.  The decoder does not undo the
    transformation: the code counts by the distance of its decoded form to the image itself.

    Args:
        transformations: functions of images (n, h, w, c) in [0, 1] that return images of the same shape; default: less
            and more contrast, four shifts by one pixel, and Gaussian noise of three strengths.
        seed: int >= 0, of the noise.
        budget: decoder evaluations of each image at most; None is no limit.

    Example:
        >>> data = model.compress(images, encoder=rc.TransformedEncoder())
    """

    def __init__(
        self, transformations: Sequence[Callable] | None = None, seed: int = 0, budget: int | None = None
    ) -> None:
        self.seed = check_at_least("seed", seed, 0)
        self.budget = check_budget(budget)
        self._given = transformations is not None
        self.transformations = tuple(transformations) if transformations is not None else self._default()

    def improve(self, search: CodeSearch) -> None:
        """Offer the code of each transformed image."""
        for transformation in self.transformations:
            rows = search.rows()
            if not len(rows):
                return
            changed = np.clip(transformation(search.images[rows]), 0, 1).astype(np.float32)
            search.offer(rows, encode_all(search.model, changed, search.stage))

    def _default(self):
        def contrast(factor):
            return lambda images: images * factor

        def shift(places, axis):
            return lambda images: np.roll(images, places, axis)

        def noise(deviation):
            def added(images):
                drawn = np.random.default_rng(self.seed).normal(size=images.shape[1:])  # the same for every image
                return images + deviation * drawn

            return added

        shifts = [shift(places, axis) for axis in (1, 2) for places in (-1, 1)]
        return (*map(contrast, CONTRASTS), *shifts, *map(noise, DEVIATIONS))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        given = self.transformations if self._given else None
        return {"transformations": given, "seed": self.seed, "budget": self.budget}
