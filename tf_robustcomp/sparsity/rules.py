"""Which weights go: the pruning rules, each a subclass of `PruningOptimizer` with one hook."""

import math

import keras
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.random import StepSeed
from tf_robustcomp.sparsity.optimizer import PruningOptimizer
from tf_robustcomp.sparsity.patterns import NM, Unstructured


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class MagnitudePruning(PruningOptimizer):
    """Cut the smallest magnitudes, for good (Zhu & Gupta 2017, arXiv 1710.01878; tfmot's rule).

    At every update of the schedule exactly ``round(s n)`` of a variable's ``n`` weights are zero, those of least
    magnitude; among equal ones the first in memory go first.  A weight once cut goes first ever after.

    Args: see `PruningOptimizer`.
    """

    revives = False

    def scores(self, weights, mask, moment):
        """Magnitudes; what is cut comes first."""
        return ops.where(mask, ops.abs(weights), -ops.ones_like(weights))


class _Seeded(PruningOptimizer):
    """A rule with random numbers that are a function of (seed, step) alone."""

    def __init__(self, *args, seed=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def get_config(self):
        """Plain values; the inverse is `from_config`."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class RandomPruning(_Seeded):
    """Cut weights at random, for good: the baseline that every rule should beat.

    Args:
        *args, **kwargs: see `PruningOptimizer`.
        seed: int.
    """

    revives = False

    def scores(self, weights, mask, moment):
        """Uniform numbers; what is cut comes first."""
        seed = StepSeed(self.seed, moment.step, moment.number)
        return ops.where(mask, keras.random.uniform(weights.shape, seed=seed), -ops.ones_like(weights))


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class MovementPruning(PruningOptimizer):
    """Cut the weights that move towards zero (Sanh, Wolf, Rush 2020, arXiv 2005.07683).

    A weight's score is the sum over steps of ``-gradient * weight``: it rises while training pushes the weight away
    from zero.  Scores of cut weights go on, so that these may come back.

    Args: see `PruningOptimizer`.
    """

    keeps_state = True
    uses_gradient = True

    def observe(self, weights, mask, moment):
        """Add this step's movement."""
        return moment.state if moment.gradient is None else moment.state - moment.gradient * weights

    def scores(self, weights, mask, moment):
        """Movement so far."""
        return moment.state


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class RigL(PruningOptimizer):
    """Drop small weights, grow where the gradient is large (Evci et al. 2020, arXiv 1911.11134).

    At every update the weights in use of least magnitude are dropped, a share
    ``drop_fraction / 2 (1 + cos(pi t / last update))`` of those that the schedule leaves, and as many of the others of
    largest gradient magnitude grow, from zero.  RigL's own setting is a `ConstantSparsity`; with a rising schedule it
    prunes on the way.

    Args:
        *args, **kwargs: see `PruningOptimizer`.
        drop_fraction: float in [0, 1), at the beginning; without a last update it stays.
    """

    revives = False
    uses_gradient = True
    scores_compare = False

    def __init__(self, *args, drop_fraction=0.3, **kwargs):
        super().__init__(*args, **kwargs)
        if not 0.0 <= drop_fraction < 1.0:
            raise InvalidArgument(f"drop_fraction must lie in [0, 1). Received: drop_fraction={drop_fraction}")
        self.drop_fraction = drop_fraction

    def scores(self, weights, mask, moment):
        """The magnitudes of what stays, above all gradients of the rest."""
        in_use = ops.where(mask, ops.abs(weights), -ops.ones_like(weights))
        dropped = moment.sparsity + self._fraction(moment.step) * (1.0 - moment.sparsity)
        stays = ops.logical_and(mask, self.pattern.select(in_use, dropped, bounded=False))
        gradient = ops.zeros_like(weights) if moment.gradient is None else ops.abs(moment.gradient)
        return ops.where(stays, 2.0 + _scaled(ops.abs(weights)), _scaled(gradient))

    def _fraction(self, step):
        last = self.schedule.last_update_step
        if last <= 0:
            return self.drop_fraction
        progress = ops.clip(ops.cast(step, "float32") / last, 0.0, 1.0)
        return self.drop_fraction / 2 * (1.0 + ops.cos(math.pi * progress))

    def get_config(self):
        """Plain values; the inverse is `from_config`."""
        return {**super().get_config(), "drop_fraction": self.drop_fraction}


@keras.saving.register_keras_serializable(package="tf_robustcomp")
class DNS(_Seeded):
    """Dynamic Network Surgery (Guo, Yao, Chen 2016, arXiv 1608.04493): weights are cut, and come back when they grow.

    At an update of the schedule a variable's threshold ``a`` is set for the target sparsity.  At a step ``t`` from the
    schedule's begin to its last update, with probability ``p_t``, its mask changes: cut where ``|w| <= (1 - band) a``,
    spliced where ``|w| >= (1 + band) a``, kept in between, with ``w`` the dense weight, which goes on learning from the
    gradient at the masked weights.

    Args:
        *args, **kwargs: see `PruningOptimizer`; patterns other than single weights need ``exact``.
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

    def __init__(self, *args, update_probability=None, band=0.1, exact=True, **kwargs):
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

    def draws(self, step, count):
        """Uniform numbers that depend on (seed, step) only."""
        return keras.random.uniform((count,), seed=StepSeed(self.seed, step))

    def scores(self, weights, mask, moment):
        """Magnitudes, with the hysteresis counted in.

        A weight in use is cut when |w| <= (1 - band) a, a cut one stays when |w| < (1 + band) a: on this scale both
        read "score <= a".
        """
        return ops.abs(weights) / ops.where(mask, 1.0 - self.band, 1.0 + self.band)

    def surgery(self, weights, mask, threshold, moment):
        """Cut below the band, splice above it, keep within."""
        threshold = ops.cast(threshold, "float32")
        operate = ops.logical_and(moment.active, moment.draw < self._probability(moment.step))
        # The more steps go by, the fewer kernels are operated, and what is not costs nothing.
        branch = ops.where(moment.update_now, 2, ops.where(operate, 1, 0))
        return ops.switch(
            branch,
            [
                lambda: (mask, threshold),
                lambda: (self._operated(weights, mask, threshold, moment), threshold),
                lambda: self._updated(weights, mask, threshold, moment, operate),
            ],
        )

    def _operated(self, weights, mask, threshold, moment):
        if isinstance(self.pattern, NM):
            return self.pattern.select(self.scores(weights, mask, moment), moment.sparsity)
        units, in_use = self.pattern.pool(ops.abs(weights)), self.pattern.pool_mask(mask)
        return self.pattern.expand(self._within_band(units, in_use, threshold), weights.shape)

    def _updated(self, weights, mask, threshold, moment, operate):
        if isinstance(self.pattern, NM):  # no threshold: weights are compared within their group
            return self._operated(weights, mask, threshold, moment), threshold
        units, in_use = self.pattern.pool(ops.abs(weights)), self.pattern.pool_mask(mask)
        threshold = self._threshold(units, in_use, moment)
        if self.exact:  # by rank, which parts equal magnitudes too
            kept = self._ranked(units, in_use, moment)
        else:
            kept = ops.where(operate, self._within_band(units, in_use, threshold), in_use)
        return self.pattern.expand(kept, weights.shape), threshold

    def _within_band(self, units, in_use, threshold):
        spliced = ops.logical_or(in_use, units >= (1.0 + self.band) * threshold)
        return ops.logical_and(spliced, units > (1.0 - self.band) * threshold)

    def _ranked(self, units, in_use, moment):
        order = ops.argsort(ops.argsort(self.scores(units, in_use, moment)))
        return ops.cast(order, "float32") >= ops.round(moment.sparsity * units.shape[0])

    def _threshold(self, units, in_use, moment):
        if not self.exact:
            return _quantile_threshold(units, moment.sparsity)
        # The k-th smallest score is the threshold that leaves k zeros.
        ordered = ops.sort(self.scores(units, in_use, moment))
        count = ops.cast(ops.round(moment.sparsity * units.shape[0]), "int32")
        lowest_kept = ops.take(ordered, ops.minimum(count, ordered.shape[0] - 1))
        # Just below the lowest score that is kept: of equal scores at the threshold none is cut.
        threshold = ops.where(count > 0, lowest_kept * (1.0 - 1e-6), -ops.ones_like(lowest_kept))
        return ops.where(count < ordered.shape[0], threshold, lowest_kept * (1.0 + 1e-6))

    def _probability(self, step):
        return self.update_probability(step) if callable(self.update_probability) else self.update_probability

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
        }


def _scaled(values):
    """To [0, 1], in order."""
    return values / (ops.max(values) + 1e-30)


def _quantile_threshold(magnitudes, sparsity):
    """The ``s`` quantile of all magnitudes, interpolated as ``numpy.quantile`` does; below every one for ``s = 0``."""
    ordered = ops.sort(magnitudes)
    last = ordered.shape[0] - 1
    position = sparsity * last
    below = ops.cast(ops.floor(position), "int32")
    low, high = ops.take(ordered, below), ops.take(ordered, ops.minimum(below + 1, last))
    quantile = low + (high - low) * (position - ops.floor(position))
    return ops.where(sparsity > 0.0, quantile, -ops.ones_like(quantile))
