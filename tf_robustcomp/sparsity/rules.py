"""Which weights go: the pruning rules, each a subclass of `PruningOptimizer` with one hook."""

import math

import keras
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.random import StepSeed
from tf_robustcomp.sparsity.optimizer import PruningOptimizer


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class MagnitudePruning(PruningOptimizer):
    """Cut the smallest magnitudes, for good (Zhu & Gupta 2017, arXiv 1710.01878; tfmot's rule).

    At every update of the schedule exactly ``round(s n)`` of a variable's ``n`` weights are zero, those of least
    magnitude; among equal ones the first in memory go first.  A weight once cut goes first ever after.

    Args: see `PruningOptimizer`.
    """

    def surgery(self, weights, mask, threshold, moment):
        """Keep all but the lowest ranks; ranks, not magnitudes, decide, so that ties do no harm."""

        def cut():
            magnitudes = ops.reshape(ops.where(mask, ops.abs(weights), -ops.ones_like(weights)), (-1,))
            order = ops.argsort(magnitudes)
            count = ops.round(moment.sparsity * math.prod(weights.shape))
            keep = ops.cast(ops.argsort(order), "float32") >= count
            largest_cut = ops.max(ops.where(keep, ops.zeros_like(magnitudes), magnitudes))
            return ops.reshape(keep, weights.shape), ops.cast(largest_cut, "float32")

        return ops.cond(moment.update_now, cut, lambda: (mask, threshold))


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class DNS(PruningOptimizer):
    """Dynamic Network Surgery (Guo, Yao, Chen 2016, arXiv 1608.04493): weights are cut, and come back when they grow.

    At an update of the schedule a variable's threshold ``a`` is set for the target sparsity.  At a step ``t`` from the
    schedule's begin to its last update, with probability ``p_t``, its mask changes: cut where ``|w| <= (1 - band) a``,
    spliced where ``|w| >= (1 + band) a``, kept in between, with ``w`` the dense weight, which goes on learning from the
    gradient at the masked weights.

    Args:
        optimizer, schedule, include, train_unpruned, name: see `PruningOptimizer`.
        update_probability: ``p_t``: a number in (0, 1] or a Keras learning rate schedule; default
            ``1 / (1 + 0.2 floor(t / 100))`` (Zhou et al. 2018, arXiv 1804.05862).
        band: half-width of the hysteresis, relative, in [0, 1).
        exact: True chooses ``a`` such that the surgery, hysteresis counted in, leaves ``round(s n)`` zeros, and
            operates at every update.  False takes the ``s`` quantile of ``|w|`` as Zhou et al. do, which leaves fewer
            zeros than asked: the weights between ``(1 - band) a`` and ``a`` live on.
        seed: int, of the random numbers that are compared with ``p_t``.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    def __init__(
        self,
        optimizer,
        schedule,
        include=None,
        train_unpruned=True,
        update_probability=None,
        band=0.1,
        exact=True,
        seed=0,
        name=None,
    ):
        super().__init__(optimizer, schedule, include=include, train_unpruned=train_unpruned, name=name)
        if update_probability is None:
            update_probability = keras.optimizers.schedules.InverseTimeDecay(1.0, 100, 0.2, staircase=True)
        elif not callable(update_probability) and not 0.0 < update_probability <= 1.0:
            raise InvalidArgument(
                f"update_probability must lie in (0, 1]. Received: update_probability={update_probability}"
            )
        if not 0.0 <= band < 1.0:
            raise InvalidArgument(f"band must lie in [0, 1). Received: band={band}")
        self.update_probability = update_probability
        self.band = band
        self.exact = exact
        self.seed = seed

    def draws(self, step, count):
        """Uniform numbers that depend on (seed, step) only."""
        return keras.random.uniform((count,), seed=StepSeed(self.seed, step))

    def surgery(self, weights, mask, threshold, moment):
        """Cut below the band, splice above it, keep within."""
        magnitudes = ops.cast(ops.abs(weights), "float32")
        find = self._exact_threshold if self.exact else _quantile_threshold
        threshold = ops.cond(
            moment.update_now, lambda: find(magnitudes, mask, moment.sparsity), lambda: ops.cast(threshold, "float32")
        )
        operate = ops.logical_and(moment.active, moment.draw < self._probability(moment.step))
        if self.exact:
            operate = ops.logical_or(operate, moment.update_now)
        spliced = ops.logical_or(mask, magnitudes >= (1.0 + self.band) * threshold)
        operated = ops.logical_and(spliced, magnitudes > (1.0 - self.band) * threshold)
        return ops.where(operate, operated, mask), threshold

    def _probability(self, step):
        return self.update_probability(step) if callable(self.update_probability) else self.update_probability

    def _exact_threshold(self, magnitudes, mask, sparsity):
        # A weight in use is cut when |w| <= (1 - band) a, a cut one stays when |w| < (1 + band) a.  On the scale where
        # both read "score <= a", the k-th smallest score is the threshold that leaves k zeros.
        scores = magnitudes / ops.where(mask, 1.0 - self.band, 1.0 + self.band)
        ordered = ops.sort(ops.reshape(scores, (-1,)))
        count = ops.cast(ops.round(sparsity * math.prod(magnitudes.shape)), "int32")
        lowest_kept = ops.take(ordered, ops.minimum(count, ordered.shape[0] - 1))
        # Just below the lowest score that is kept: of equal scores at the threshold none is cut.
        return ops.where(count > 0, lowest_kept * (1.0 - 1e-6), -ops.ones_like(lowest_kept))

    def get_config(self):
        """Plain values; the inverse is `from_config`."""
        probability = self.update_probability
        return {
            **super().get_config(),
            "update_probability": keras.saving.serialize_keras_object(probability)
            if callable(probability)
            else probability,
            "band": self.band,
            "exact": self.exact,
            "seed": self.seed,
        }


def _quantile_threshold(magnitudes, mask, sparsity):
    """The ``s`` quantile of all magnitudes, interpolated as ``numpy.quantile`` does; below every one for ``s = 0``."""
    del mask
    ordered = ops.sort(ops.reshape(magnitudes, (-1,)))
    last = ordered.shape[0] - 1
    position = sparsity * last
    below = ops.cast(ops.floor(position), "int32")
    low, high = ops.take(ordered, below), ops.take(ordered, ops.minimum(below + 1, last))
    quantile = low + (high - low) * (position - ops.floor(position))
    return ops.where(sparsity > 0.0, quantile, -ops.ones_like(quantile))
