"""Schedules of sparsity with the signature and semantics of tfmot's (Zhu, Gupta 2017, arXiv 1710.01878)."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from tf_robustcomp.pruning.plain import Plain
from tf_robustcomp.utils.errors import InvalidArgument


class Schedule(Plain):
    """Base: an immutable function of the step, checked when made, evaluated in the graph.

    ``schedule(step)`` returns ``(update_now, sparsity)`` for an int or scalar integer tensor ``step``: a boolean scalar
    (recompute thresholds at this step?) and a float32 scalar in [0, 1).  A subclass states ``sparsity_at`` and has the
    fields ``begin_step``, ``end_step`` (-1: no end) and ``frequency``.
    """

    begin_step: int
    end_step: int
    frequency: int

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether to update masks at a step, and the target sparsity."""
        step = ops.cast(step, "int32")
        turn = ops.equal(ops.mod(step - self.begin_step, self.frequency), 0)
        turn = ops.logical_or(turn, ops.equal(step, self.final_step))
        return ops.logical_and(self.is_active(step), turn), ops.cast(self.sparsity_at(step), "float32")

    def sparsity_at(self, step: Any) -> Any:
        """Return the target sparsity at an int32 scalar tensor ``step``."""
        raise NotImplementedError

    @property
    def last_update_step(self) -> int:
        """Last step at which thresholds may be recomputed, -1 for no end."""
        return self.end_step

    @property
    def final(self) -> float:
        """The sparsity at the end."""
        raise NotImplementedError

    @property
    def final_step(self) -> int:
        """The first step that prunes to the final sparsity; masks are updated there whatever the frequency."""
        raise NotImplementedError

    def is_active(self, step: Any) -> Any:
        """Return whether masks may change at ``step``: from the begin to the last update."""
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
            ``begin_step, begin_step + frequency, ...`` and at ``end_step``, none after.  (tfmot recomputes none at an
            end that the frequency does not meet, and stays short of its target.)  With ``begin_step == end_step`` the
            sparsity is final at once (tfmot divides 0 by 0 there).
        power: exponent, positive.
        frequency: steps between updates, >= 1.
        hold: keep recomputing after ``end_step``, at the final sparsity, as Dynamic Network Surgery does while its
            dense weights move.  tfmot stops.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> schedule = rc.PolynomialDecay(0.0, 0.9, begin_step=0, end_step=1000, frequency=50)
        >>> model.compile(rc.MagnitudePruning("adam", schedule), loss)
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
    def last_update_step(self) -> int:
        """The end of the rise, or none when held."""
        return -1 if self.hold else self.end_step

    @property
    def final(self) -> float:
        """The final sparsity."""
        return self.final_sparsity

    @property
    def final_step(self) -> int:
        """The end of the rise."""
        return self.end_step

    def sparsity_at(self, step: Any) -> Any:
        """Return the polynomial, constant outside [begin_step, end_step]."""
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

    Example:
        >>> model.compile(rc.MagnitudePruning("adam", rc.ConstantSparsity(0.5, begin_step=100)), loss)
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    def __post_init__(self):
        self._check(target_sparsity=self.target_sparsity)

    @property
    def final(self) -> float:
        """The one sparsity."""
        return self.target_sparsity

    @property
    def final_step(self) -> int:
        """The begin."""
        return self.begin_step

    def sparsity_at(self, step: Any) -> Any:
        """Return the one sparsity."""
        return self.target_sparsity


def get(schedule: Any) -> Schedule:
    """Return a schedule from an instance, its config, or any object with tfmot's ``get_config()``.

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
