"""When to prune and how much: schedules with the signature and semantics of tfmot's (Zhu & Gupta 2017, 1710.01878)."""

import dataclasses
import math

import keras
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity.plain import Plain


class Schedule(Plain):
    """Base: an immutable function of the step, checked when made, evaluated in the graph.

    ``schedule(step)`` gives ``(update_now, sparsity)`` for an int or scalar integer tensor ``step``: a boolean scalar
    (recompute thresholds at this step?) and a float32 scalar in [0, 1).  A subclass gives ``sparsity_at`` and has the
    fields ``begin_step``, ``end_step`` (-1: no end) and ``frequency``.
    """

    begin_step: int
    end_step: int
    frequency: int

    def __call__(self, step):
        """Whether to update now, and the sparsity."""
        step = ops.cast(step, "int32")
        turn = ops.equal(ops.mod(step - self.begin_step, self.frequency), 0)
        return ops.logical_and(self.is_active(step), turn), ops.cast(self.sparsity_at(step), "float32")

    def sparsity_at(self, step):
        """Target sparsity at an int32 scalar tensor ``step``."""
        raise NotImplementedError

    @property
    def last_update_step(self):
        """Last step at which thresholds may be recomputed, -1 for no end."""
        return self.end_step

    @property
    def final(self):
        """The sparsity at the end."""
        raise NotImplementedError

    def is_active(self, step):
        """Bool scalar: may masks still change at ``step``?  From the begin to the last update."""
        step = ops.cast(step, "int32")
        begun = step >= self.begin_step
        return ops.logical_and(begun, step <= self.last_update_step) if self.last_update_step >= 0 else begun

    def _check(self, **sparsities):
        for name in ("begin_step", "end_step", "frequency"):
            if int(getattr(self, name)) != getattr(self, name):
                raise InvalidArgument(f"{name} must be an integer. Received: {name}={getattr(self, name)}")
        for name, value in sparsities.items():
            if not 0.0 <= value < 1.0:
                raise InvalidArgument(f"{name} must lie in [0, 1). Received: {name}={value}")
        if self.begin_step < 0:
            raise InvalidArgument(f"begin_step must be >= 0. Received: begin_step={self.begin_step}")
        if self.end_step != -1 and self.end_step < self.begin_step:
            raise InvalidArgument(
                f"end_step must not lie before begin_step. Received: begin_step={self.begin_step}, "
                f"end_step={self.end_step}"
            )
        if self.frequency < 1:
            raise InvalidArgument(f"frequency must be >= 1. Received: frequency={self.frequency}")


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """Sparsity rises from initial to final: ``s_f + (s_i - s_f) (1 - (t - begin)/(end - begin))^power``.

    Args:
        initial_sparsity, final_sparsity: in [0, 1).
        begin_step, end_step: first and last step of the rise; thresholds are recomputed at
            ``begin_step, begin_step + frequency, ...``, none after ``end_step``.  With ``begin_step == end_step`` the
            sparsity is final at once (tfmot divides 0 by 0 there).
        power: exponent, positive.
        frequency: steps between updates, >= 1.
        hold: go on recomputing after ``end_step``, at the final sparsity, as Dynamic Network Surgery does while its
            dense weights keep moving.  tfmot has no such choice: it stops.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100
    hold: bool = False

    def __post_init__(self):
        self._check(initial_sparsity=self.initial_sparsity, final_sparsity=self.final_sparsity)
        if self.end_step < 0:
            raise InvalidArgument(f"end_step must be >= 0. Received: end_step={self.end_step}")
        if not (math.isfinite(self.power) and self.power > 0):
            raise InvalidArgument(f"power must be positive. Received: power={self.power}")

    @property
    def last_update_step(self):
        """The end of the rise, or none when held."""
        return -1 if self.hold else self.end_step

    @property
    def final(self):
        """The final sparsity."""
        return self.final_sparsity

    def sparsity_at(self, step):
        """The polynomial, constant outside [begin_step, end_step]."""
        begun = ops.cast(step - self.begin_step, "float32")
        length = self.end_step - self.begin_step
        progress = begun / length if length else ops.cast(begun >= 0, "float32")
        remaining = 1.0 - ops.clip(progress, 0.0, 1.0)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * remaining**self.power


@keras.saving.register_keras_serializable(package="tf_robustcomp")
@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """One sparsity from ``begin_step`` on.

    Args:
        target_sparsity: in [0, 1).
        begin_step, end_step: first and last step at which thresholds are recomputed; end_step -1: no end.
        frequency: steps between updates, >= 1.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    def __post_init__(self):
        self._check(target_sparsity=self.target_sparsity)

    @property
    def final(self):
        """The one sparsity."""
        return self.target_sparsity

    def sparsity_at(self, step):
        """Constant."""
        return self.target_sparsity


def get(schedule):
    """Schedule from ours, from its config, or from any object with tfmot's ``get_config()``.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(schedule, Schedule):
        return schedule
    config = schedule if isinstance(schedule, dict) else getattr(schedule, "get_config", dict)()
    classes = {cls.__name__: cls for cls in (PolynomialDecay, ConstantSparsity)}
    try:
        return classes[config["class_name"].split(">")[-1]].from_config(config["config"])
    except (KeyError, TypeError):
        raise InvalidArgument(
            f"schedule must be PolynomialDecay, ConstantSparsity, their config, or tfmot's. Received: {schedule!r}"
        ) from None
