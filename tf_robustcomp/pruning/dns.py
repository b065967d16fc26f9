"""Dynamic Network Surgery."""

from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend.randomness import StepSeed
from tf_robustcomp.pruning.context import StepContext
from tf_robustcomp.pruning.patterns import NM, Unstructured, is_highest
from tf_robustcomp.pruning.rules import SeededPruning
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register


@register(
    "pruning rule",
    "dns",
    uses={"update_probability": "surgery_decay_steps", "exact": "threshold", "seed": "surgery_seed"},
)
class DNS(SeededPruning):
    """Dynamic Network Surgery (Guo, Yao, Chen 2016, arXiv 1608.04493): weights are cut, and come back when they grow.

    At an update of the schedule a variable's threshold ``a`` is set for the target sparsity.  At a step ``t`` from the
    schedule's begin to its last update, with probability ``p_t``, its mask changes: cut where ``|w| <= (1 - band) a``,
    spliced where ``|w| >= (1 + band) a``, kept in between (the hysteresis band).  ``w`` is the dense weight, which
    keeps learning from the gradient at the masked weights.

    Args:
        *args, **kwargs: see `PruningOptimizer`; patterns other than single weights need ``exact``.
        update_probability: ``p_t``: a number in (0, 1] or a Keras learning rate schedule; default
            ``1 / (1 + 0.2 floor(t / 100))`` (Zhou et al. 2018, arXiv 1804.05862).
        band: half-width of the hysteresis, relative, in [0, 1).
        exact: True corrects ``a`` for the hysteresis band, so that ``round(s n)`` zeros are left, and changes the mask
            at every update.  False takes the ``s`` quantile of ``|w|`` as Zhou et al. do, which leaves fewer zeros than
            asked: the weights between ``(1 - band) a`` and ``a`` stay in use.
        seed: int, of the random numbers that are compared with ``p_t``.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> model.compile(rc.DNS("adam", schedule), loss, metrics=["accuracy"])
        >>> model.fit(images, labels, epochs=10)
        >>> print(rc.sparsity_report(model))
    """

    def __init__(
        self, *args: Any, update_probability: Any = None, band: float = 0.1, exact: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if update_probability is None:
            update_probability = keras.optimizers.schedules.InverseTimeDecay(1.0, 100, 0.2, staircase=True)
        elif not callable(update_probability) and not 0.0 < update_probability <= 1.0:
            raise InvalidArgument(
                f"update_probability must lie in (0, 1]. Received: update_probability={update_probability}"
            )
        if not exact and not isinstance(self.pattern, Unstructured):
            raise InvalidArgument(f"exact must be True for a pattern. Received: exact=False, pattern={self.pattern}")
        if not 0.0 <= band < 1.0:
            raise InvalidArgument(f"band must lie in [0, 1). Received: band={band}")
        self.update_probability = update_probability
        self.band = band
        self.exact = exact

    @classmethod
    def from_settings(cls, settings: Any, *args: Any, **kwargs: Any) -> "DNS":
        """Return the rule that a command's flags name; the other arguments are those of the constructor."""
        decay = keras.optimizers.schedules.InverseTimeDecay
        return cls(
            *args,
            update_probability=decay(1.0, settings.surgery_decay_steps, decay_rate=0.2, staircase=True),
            exact=settings.threshold == "exact",
            seed=settings.surgery_seed,
            **kwargs,
        )

    def random_numbers(self, step: Any, count: int) -> Any:
        """Return uniform numbers that depend on (seed, step) only."""
        return keras.random.uniform((count,), seed=StepSeed(self.seed, step))

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return magnitudes, corrected for the hysteresis band.

        A weight in use is cut when |w| <= (1 - band) a, a cut one stays cut when |w| < (1 + band) a: on this scale both
        read "score <= a", so one sort finds the ``a`` that leaves the wanted number of zeros.
        """
        return ops.abs(weights) / ops.where(mask, 1.0 - self.band, 1.0 + self.band)

    def update_mask(self, weights: Any, mask: Any, threshold: Any, context: StepContext) -> tuple[Any, Any]:
        """Cut below the band, splice above it, keep the mask within it."""
        threshold = ops.cast(threshold, "float32")
        change = ops.logical_and(context.active, context.random_number < self._probability(context.step))
        # Masks change ever more rarely; kernels whose mask does not take a branch that costs nothing.
        branch = ops.where(context.update_now, 2, ops.where(change, 1, 0))
        return ops.switch(
            branch,
            [
                lambda: (mask, threshold),
                lambda: (self._changed(weights, mask, threshold, context), threshold),
                lambda: self._updated(weights, mask, threshold, context, change),
            ],
        )

    def _changed(self, weights, mask, threshold, context):
        pattern = context.pattern
        if isinstance(pattern, NM):
            return pattern.select(self.scores(weights, mask, context), context.sparsity)
        units, in_use = pattern.pool(ops.abs(weights)), pattern.pool_mask(mask)
        return pattern.expand(self._within_band(units, in_use, threshold), weights.shape)

    def _updated(self, weights, mask, threshold, context, change):
        pattern = context.pattern
        if isinstance(pattern, NM):  # no threshold: weights are compared within their group
            return self._changed(weights, mask, threshold, context), threshold
        units, in_use = pattern.pool(ops.abs(weights)), pattern.pool_mask(mask)
        threshold = self._threshold(units, in_use, context)
        if self.exact:  # by rank, which separates equal magnitudes too
            kept = self._ranked(units, in_use, context)
        else:
            kept = ops.where(change, self._within_band(units, in_use, threshold), in_use)
        return pattern.expand(kept, weights.shape), threshold

    def _within_band(self, units, in_use, threshold):
        spliced = ops.logical_or(in_use, units >= (1.0 + self.band) * threshold)
        kept = ops.logical_and(spliced, units > (1.0 - self.band) * threshold)
        # Weights may all have shrunk below the threshold, or equal it: then the largest keeps the layer alive.
        return ops.cond(ops.any(kept), lambda: kept, lambda: is_highest(units))

    def _ranked(self, units, in_use, context):
        order = ops.argsort(ops.argsort(self.scores(units, in_use, context)))
        return ops.cast(order, "float32") >= context.pattern.number_cut(context.sparsity, units.shape[0])

    def _threshold(self, units, in_use, context):
        if not self.exact:
            return _quantile_threshold(units, context.sparsity)
        # The k-th smallest score is the threshold that leaves k zeros.
        ordered = ops.sort(self.scores(units, in_use, context))
        count = ops.cast(context.pattern.number_cut(context.sparsity, units.shape[0]), "int32")
        lowest_kept = ops.take(ordered, ops.minimum(count, ordered.shape[0] - 1))
        # Just below the lowest score that is kept: of equal scores at the threshold none is cut.
        threshold = ops.where(count > 0, lowest_kept * (1.0 - 1e-6), -ops.ones_like(lowest_kept))
        return ops.where(count < ordered.shape[0], threshold, lowest_kept * (1.0 + 1e-6))

    def _probability(self, step):
        return self.update_probability(step) if callable(self.update_probability) else self.update_probability

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        probability = self.update_probability
        return {
            **super().get_config(),
            "update_probability": keras.saving.serialize_keras_object(probability)
            if callable(probability)
            else probability,
            "band": self.band,
            "exact": self.exact,
        }


def _quantile_threshold(magnitudes, sparsity):
    """The ``s`` quantile of all magnitudes, interpolated as ``numpy.quantile`` does; below every one for ``s = 0``."""
    ordered = ops.sort(magnitudes)
    last = ordered.shape[0] - 1
    position = sparsity * last
    below = ops.cast(ops.floor(position), "int32")
    low, high = ops.take(ordered, below), ops.take(ordered, ops.minimum(below + 1, last))
    quantile = low + (high - low) * (position - ops.floor(position))
    return ops.where(sparsity > 0.0, quantile, -ops.ones_like(quantile))
