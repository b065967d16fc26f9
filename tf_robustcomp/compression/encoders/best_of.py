"""Several encoders, one after another."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder, check_budget
from tf_robustcomp.compression.encoders.latents import LatentSearch
from tf_robustcomp.utils.errors import InvalidArgument


class BestOf(Encoder):
    """Lets several encoders improve the same codes, in order: the nearest code of all is kept.

    Args:
        encoders: encoders; a later one begins where the earlier ones ended.
        budget: decoder evaluations of each image at most, for all together; None is no limit.

    Example:
        >>> rc.BestOf([rc.ListEncoder.fit(model, train_images), rc.SearchEncoder()])
    """

    def __init__(self, encoders: Sequence[Encoder], budget: int | None = None) -> None:
        self.encoders = tuple(encoders)
        if not self.encoders or not all(isinstance(encoder, Encoder) for encoder in self.encoders):
            raise InvalidArgument(f"encoders must be one or more encoders. Received: {encoders!r}")
        self.budget = check_budget(budget)

    @property
    def lists(self) -> tuple:
        """The lists of all encoders."""
        return tuple(one for encoder in self.encoders for one in encoder.lists)

    def improve(self, search: CodeSearch) -> None:
        """Let each encoder offer its codes."""
        whole = search.limit
        for encoder in self.encoders:
            search.limit = whole if encoder.budget is None else np.minimum(whole, search.used + encoder.budget)
            encoder.improve(search)
        search.limit = whole

    def improve_latents(self, search: LatentSearch) -> None:
        """Let each encoder offer its latents."""
        whole = search.limit
        for encoder in self.encoders:
            search.limit = whole if encoder.budget is None else min(whole, search.used + encoder.budget)
            encoder.improve_latents(search)
        search.limit = whole

    def check(self, model: Any) -> None:
        """Check every encoder."""
        for encoder in self.encoders:
            encoder.check(model)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"encoders": self.encoders, "budget": self.budget}
