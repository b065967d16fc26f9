"""Adaptive gradient ascent: maximise the objective of each image by steps of its own length."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.data.distortion import per_image

WINDOW = 15  # the ascent of an image stops when this many steps together, enough for two returns to its best point, ...
LEAST_GAIN = 1e-3  # ... gained less than this fraction of its objective
PATIENCE = 5  # steps in a row without a new best point before an image returns to its best one ...
SHORTER = 0.3  # ... with a step size multiplied by this
FEW = 10  # with at most this many evaluations there is no time to explore
STEP_SIZES = (0.01, 20.0)  # bounds of a step size


class StepRule(NamedTuple):
    """Step sizes and momentum of an ascent.

    Attributes:
        first: size of the first step; with the published 1 an ascent soon ends in the nearest maximum.
        momentum: fraction of an image's last move that the next one repeats.
        growth: factor of the step size where the objective is curved upwards along the last move.
        size: function of the last move and of the change of the gradient by it, both (n, h, w, c) -> (n,).
    """

    first: float
    momentum: float
    growth: float
    size: Callable


def _barzilai_borwein(move, change):
    """|move|^2 / |move . change| (Barzilai, Borwein 1988): long where the objective hardly bends along the move."""
    return _squares(move) / (ops.abs(_dot(move, change)) + 1e-9)


def _geometric_mean(move, change):
    """1.35 |move| / |change|: geometric mean of Barzilai's and Borwein's two sizes (Dai, Al-Baali, Yang 2015)."""
    return 1.35 * ops.sqrt(_squares(move) / (_squares(change) + 1e-9))


# Long steps jump to other maxima and find higher ones; with few evaluations, steps that rarely lose get further.
EXPLORE = StepRule(first=3.0, momentum=0.3, growth=2.0, size=_barzilai_borwein)
CLIMB = StepRule(first=5.0, momentum=0.4, growth=1.5, size=_geometric_mean)


class Ascent(NamedTuple):
    """Result of an ascent: best points (n, h, w, c), their objective (n,), evaluations, and the gain at its end.

    The gain is that of the last steps of each image, as a fraction of the mean objective; ``defined`` (n,) says whether
    every value of the objective was finite.
    """

    points: Any
    objective: Any
    evaluations: Any
    gain: Any
    defined: Any

    def better_of(self, other: "Ascent") -> "Ascent":
        """Return the better point of each image, with the evaluations of both."""
        better = other.objective > self.objective
        return Ascent(
            _choose(better, other.points, self.points),
            ops.where(better, other.objective, self.objective),
            self.evaluations + other.evaluations,
            ops.maximum(self.gain, other.gain),
            ops.logical_and(self.defined, other.defined),
        )


class _State(NamedTuple):
    """State of the ascent: present points, best points so far, and the next step."""

    i: Any
    x: Any
    move: Any
    gradient: Any
    step_size: Any
    best_x: Any
    best_gradient: Any
    best: Any
    failures: Any
    history: Any  # (WINDOW + 1, n), best objective before and after each of the last WINDOW steps
    defined: Any


def adaptive_ascent(objective: Callable, start: Any, steps: int) -> Ascent:
    """Maximise each image's objective over [0, 1] by gradient steps with momentum.

    The step size of an image follows from its last two points.  A step may lower the objective: the quantiser's
    gradient is a surrogate for the slope of a staircase, on which a monotone search is soon stuck.  After five steps
    without a new best point an image returns to its best one, with a shorter step.  Each image stops by its own gain,
    so that its result does not depend on the others of its batch.

    Args:
        objective: function of images (n, h, w, c) -> (n,).
        start: images (n, h, w, c).
        steps: evaluations at most, the last one without a gradient.  At most ten are spent on steps that rarely lose,
            more of them on long steps, which find higher maxima in the end.
    """
    rule = CLIMB if steps <= FEW else EXPLORE

    def unfinished(*values):
        state = _State(*values)
        return ops.logical_and(state.i < steps - 1, ops.any(_gaining(state)))

    state = _first(objective, start, rule)
    if steps == 1:
        return Ascent(start, state.best, 1, _gain(state.history), state.defined)
    state = ops.while_loop(unfinished, lambda *values: tuple(_step(objective, _State(*values), rule)), tuple(state))
    return _last(objective, _State(*state), rule)


def _first(objective, start, rule):
    best, gradient = value_and_input_gradient(objective, start)
    zeros = ops.zeros_like(best)
    history = ops.zeros_like(best) + ops.zeros((WINDOW + 1, 1), "float32")
    return _State(
        i=1,
        x=start,
        move=ops.zeros_like(start),
        gradient=gradient,
        step_size=zeros + rule.first,
        best_x=start,
        best_gradient=gradient,
        best=best,
        failures=zeros,
        history=_recorded(history, best),
        defined=ops.isfinite(best),
    )


def _step(objective, at, rule):
    """Move the images that still gain; the others stay as they are."""
    moved = _moved(objective, at, rule)
    gaining = _gaining(at)
    kept = {
        name: ops.where(per_image(gaining) if len(old.shape) == 4 else gaining, getattr(moved, name), old)
        for name, old in at._asdict().items()
        if name != "i"
    }
    return _State(i=moved.i, **kept)


def _moved(objective, at, rule):
    x = _next_point(at, rule)
    reached, gradient = value_and_input_gradient(objective, x)
    move, change = x - at.x, gradient - at.gradient
    # A gradient that grows along the move: curved upwards, so a quadratic model has no maximum and the step grows.
    upwards = _dot(move, change) > 0.0
    step_size = ops.where(upwards, rule.growth * at.step_size, rule.size(move, change))
    better = reached > at.best
    best_x, best_gradient = _choose(better, x, at.best_x), _choose(better, gradient, at.best_gradient)
    best = ops.where(better, reached, at.best)
    failures = ops.where(better, 0.0, at.failures + 1.0)
    back = failures >= PATIENCE
    return _State(
        i=at.i + 1,
        x=_choose(back, best_x, x),
        move=_choose(back, ops.zeros_like(move), move),
        gradient=_choose(back, best_gradient, gradient),
        step_size=ops.clip(ops.where(back, SHORTER * step_size, step_size), *STEP_SIZES),
        best_x=best_x,
        best_gradient=best_gradient,
        best=best,
        failures=ops.where(back, 0.0, failures),
        history=_recorded(at.history, best),
        defined=ops.logical_and(at.defined, ops.isfinite(reached)),
    )


def _last(objective, at, rule):
    """One more point, without a gradient."""
    x = _next_point(at, rule)
    reached = objective(x)
    better = reached > at.best
    best = ops.where(better, reached, at.best)
    gain = _gain(_recorded(at.history, best))
    defined = ops.logical_and(at.defined, ops.isfinite(reached))
    return Ascent(_choose(better, x, at.best_x), best, at.i + 1, gain, defined)


def _next_point(at, rule):
    return ops.clip(at.x + per_image(at.step_size) * at.gradient + rule.momentum * at.move, 0.0, 1.0)


def _recorded(history, best):
    return ops.concatenate([history[1:], ops.expand_dims(best, 0)])


def _gaining(at):
    """Which images (n,) still gain, or have not made enough steps to tell."""
    gained = at.history[-1] - at.history[0] >= LEAST_GAIN * ops.abs(at.history[-1]) + 1e-12
    return ops.logical_or(at.i <= WINDOW, gained)


def _gain(history):
    first, last = ops.mean(history[0]), ops.mean(history[-1])
    return (last - first) / (ops.abs(last) + 1e-12)


def _dot(one, other):
    return ops.sum(one * other, axis=(1, 2, 3))


def _squares(change):
    return _dot(change, change)


def _choose(which, one, other):
    return ops.where(per_image(which), one, other)
