"""A search for nearer codes: similar codes, gradient steps on the latents, steps on single symbols."""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import compiled, read, value_and_input_gradient
from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder, check_budget
from tf_robustcomp.compression.encoders.code_list import ListEncoder
from tf_robustcomp.compression.encoders.latents import LatentSearch, anneal
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register

STEP_SIZE = 0.1  # of Adam on the latents, which lie in [-1, 1]
DECAYS = (0.9, 0.99)  # of Adam's two averages
SIMILAR = 4  # codes of the list that are offered
GRADIENT_COST = 3  # decoder evaluations that one evaluation with its gradient counts as


@register("encoder", "search", uses={"budget": "encoder_budget"})
class SearchEncoder(Encoder):
    """Searches a code nearer to the image than the network's, by the decoder alone.

    It offers, in this order: a few codes of a list, if one is given; the codes that gradient steps on the latents pass
    through; and codes that differ from the nearest one so far in a single symbol, by one, until a sweep over all
    symbols brings nothing.  Any latent is a whole code away from its neighbours, so the gradient is that of the
    quantiser's soft assignment.

    For a codec of images of any size it minimises rate + lambda * distortion by gradient steps on the latents and
    hyper-latents while their rounding grows harder (Yang, Bamler, Mandt 2020, arXiv 2006.04240).  There are no sweeps.

    Args:
        sweeps: int >= 0, passes over the symbols at most.
        gradient_steps: int >= 0; each counts as three decoder evaluations.
        starts: `ListEncoder` whose nearest codes are offered first, or None.
        budget: decoder evaluations of each image at most; None is no limit.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> symbols = rc.SearchEncoder()(model, images)
        >>> data = model.compress(images, encoder=rc.SearchEncoder(budget=100))
    """

    def __init__(
        self, sweeps: int = 3, gradient_steps: int = 60, starts: ListEncoder | None = None, budget: int | None = None
    ) -> None:
        self.sweeps = check_at_least("sweeps", sweeps, 0)
        self.gradient_steps = check_at_least("gradient_steps", gradient_steps, 0)
        if starts is not None and not isinstance(starts, ListEncoder):
            raise InvalidArgument(f"starts must be a ListEncoder or None. Received: starts={starts!r}")
        self.starts = starts
        self.budget = check_budget(budget)

    @property
    def lists(self) -> tuple:
        """The list of starts, whose nearest code is always offered."""
        return () if self.starts is None else (self.starts,)

    def check(self, model: Any) -> None:
        """Check the list of starts."""
        if self.starts is not None:
            self.starts.check(model)

    def improve(self, search: CodeSearch) -> None:
        """Offer similar codes, then those of gradient steps, then neighbours."""
        if self.starts is not None:
            self.starts.improve(search, SIMILAR)
        if self.gradient_steps:
            _follow_gradient(search, self.gradient_steps)
        for _ in range(self.sweeps):
            if not _sweep(search):
                break

    def improve_latents(self, search: LatentSearch) -> None:
        """Offer the latents that gradient steps reach."""
        if self.starts is not None:
            super().improve_latents(search)
        steps = int(min(self.gradient_steps, (search.limit - search.used - 1) / GRADIENT_COST))
        if steps >= 1:
            anneal(search, steps)
            search.used += steps * GRADIENT_COST

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in ("sweeps", "gradient_steps", "starts", "budget")}


def _sweep(search):
    """Try both neighbours of every symbol; return whether any code became nearer.

    A symbol moves by one at most.  Trying all L values of each costs several times as many evaluations, and meets a
    bound on fewer photographs.
    """
    moved = False
    for latent in range(search.first, search.symbols.shape[1]):
        rows = search.rows()
        for move in (-1, 1):
            tried = search.symbols[rows]
            tried[:, latent] += move
            kept = search.offer(rows, tried)
            moved |= bool(kept.any())
            rows = rows[~kept]
    return moved


def _follow_gradient(search, steps):
    """Adam on the latents of all images at once; the nearest code that each image passed through is offered."""
    rows = search.rows()
    left = search.left[rows].min(initial=np.inf)  # the same for all, so that they go together
    if np.isfinite(left):
        steps = min(steps, int(max(left - 1, 0)) // GRADIENT_COST)
    if not len(rows) or not steps:
        return
    model, images = search.model, search.images[rows]
    latents = ops.convert_to_numpy(model.quantizer.values(search.symbols[rows]))
    best, reached = search.symbols[rows].copy(), search.distortion[rows].copy()
    mean, square = np.zeros_like(latents), np.zeros_like(latents)
    slopes = _slopes_of(model, search.stage)
    for step in range(1, steps + 1):
        values, gradient, symbols = slopes(images, latents)
        gradient[:, : search.first] = 0
        nearer = values < reached
        best[nearer], reached[nearer] = symbols[nearer], values[nearer]
        mean += (1 - DECAYS[0]) * (gradient - mean)
        square += (1 - DECAYS[1]) * (gradient**2 - square)
        scale = np.sqrt(square / (1 - DECAYS[1] ** step)) + 1e-12
        latents = np.clip(latents - STEP_SIZE * mean / (1 - DECAYS[0] ** step) / scale, -1, 1).astype(np.float32)
    search.used[rows] += GRADIENT_COST * steps
    search.offer(rows, best)


_traced: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


def _slopes_of(model, stage):
    """A function of images and latents that returns, as arrays, distortion, its gradient, and the symbols there."""
    functions = _traced.setdefault(model, {})
    if stage not in functions:
        weak = weakref.ref(model)  # or the cache would keep the model alive

        def run(weights, images, latents):
            model: Any = weak()
            with keras.StatelessScope(zip(model.variables, weights, strict=True)):

                def objective(latents):
                    return distortion(images, model.reconstruct(model.quantizer(latents), stage))

                return (*value_and_input_gradient(objective, latents), model.quantizer.symbols(latents))

        functions[stage] = compiled(run)

    def slopes(images, latents):
        count = len(images)
        whole = 1 << (count - 1).bit_length()  # one trace for each power of two
        padded = [
            np.concatenate([part, np.zeros((whole - count, *part.shape[1:]), part.dtype)]) for part in (images, latents)
        ]
        weights = [read(variable) for variable in model.variables]
        results = functions[stage](weights, *map(ops.convert_to_tensor, padded))
        return [np.array(ops.convert_to_numpy(result)[:count]) for result in results]

    return slopes
