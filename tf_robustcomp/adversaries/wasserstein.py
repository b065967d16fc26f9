"""Worst case in a Wasserstein ball around the data, by its Lagrangian."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from tf_robustcomp.adversaries.base import (
    Adversary,
    Proposal,
    check_at_least,
    check_positive,
    distortion,
    per_image,
    step_seed,
)
from tf_robustcomp.backend import computing_in, read, value_and_input_gradient
from tf_robustcomp.errors import InvalidArgument

WINDOW = 5  # the adaptive method stops when this many steps together ...
LEAST_GAIN = 1e-3  # ... gained less than this share of the mean objective
PATIENCE = 5  # losses in a row before it goes back to its best point ...
SHORTER = 0.3  # ... with a step shortened by this
FEW = 10  # with so many evaluations or less there is no time to explore
LENGTHS = (0.01, 20.0)  # bounds of a step
SPREAD = 0.3  # standard deviation of the noise at a restart, wide enough to end at other maxima


@keras.saving.register_keras_serializable("tf_robustcomp")
class WassersteinBall(Adversary):
    """Worst distribution within squared 2-Wasserstein distance rho: max over x' of d(x', f(x')) - gamma ||x' - x||^2.

    ``method="paper"`` takes ``steps`` gradient steps from x' = x, step i of size 1/sqrt(i), clipped to [0, 1]: Sinha,
    Namkoong, Duchi 2018 as used by Lei, Hassani, Saeedi Bidokhti 2021 (arXiv 2110.07007).  These steps do not reach
    the maximum.  ``method="adaptive"`` (``adaptive_ascent``) uses the same gradients with a step size of each image's
    own, keeps each image's best point, and stops when the mean objective gains less than 0.1 % in five steps.  Eight
    of its evaluations reach more than the 15 published ones on most models (docs/speed.md).

    Args:
        gamma: float > 0, price of squared distance.  Either ``gamma`` or ``rho``.
        rho: float > 0, mean squared distance that gamma is tuned to while a model trains: dual ascent on log gamma.
        steps: int >= 1, gradient evaluations, at most so many (and so many for each restart) if adaptive.
        method: "paper" or "adaptive".
        restarts: int >= 0, further adaptive ascents, each from the clean images plus noise; the best counts.
        dual_rate: float > 0, size of the steps in log gamma, with ``rho``.
        precision: "float32", or "bfloat16" to climb in that: faster where the processor has it.  What is reached is
            measured in the model's own precision, so that only the path differs.
        seed: int, of the restarts' noise.

    Example:
        >>> model.compile("adam", adversary=WassersteinBall(gamma=1.0, steps=15))
    """

    def __init__(
        self,
        gamma=None,
        steps=15,
        rho=None,
        method="paper",
        restarts=1,
        dual_rate=0.05,
        precision="float32",
        seed=0,
    ):
        super().__init__()
        if (gamma is None) == (rho is None):
            raise InvalidArgument(f"either gamma or rho must be given. Received: gamma={gamma}, rho={rho}")
        if method not in ("paper", "adaptive"):
            raise InvalidArgument(f"method must be 'paper' or 'adaptive'. Received: method={method!r}")
        self.steps = check_at_least("steps", steps, 1)
        self.restarts = check_at_least("restarts", restarts, 0)
        self.dual_rate = check_positive("dual_rate", dual_rate)
        self.rho = None if rho is None else check_positive("rho", rho)
        self._gamma = None if gamma is None else check_positive("gamma", gamma)
        self.method = method
        if precision not in ("float32", "bfloat16"):
            raise InvalidArgument(f"precision must be 'float32' or 'bfloat16'. Received: precision={precision!r}")
        self.precision = precision
        self.seed = seed
        if rho is None:
            # A variable, so that another price needs no new trace; no part of a model's state, since it is no result.
            self._price = keras.Variable(self._gamma, trainable=False, dtype="float32", name="gamma")
        else:
            self._log_gamma = keras.Variable(
                0.0, trainable=False, dtype="float32", name="log_gamma", aggregation="mean"
            )

    @property
    def gamma(self):
        """The price now in use: a float that may be set, or with ``rho`` a tensor that training moves."""
        return ops.exp(self._log_gamma) if self._gamma is None else self._gamma

    @gamma.setter
    def gamma(self, gamma):
        if self.rho is not None:
            raise InvalidArgument(f"gamma is tuned to rho and cannot be set. Received: gamma={gamma}")
        self._gamma = check_positive("gamma", gamma)
        self._price.assign(self._gamma)

    @property
    def variables(self):
        """The logarithm of gamma, where it is tuned."""
        return [] if self.rho is None else [self._log_gamma]

    def penalty(self, candidate, x):
        """gamma ||x' - x||^2."""
        price = ops.exp(self._log_gamma) if self._gamma is None else read(self._price)
        return price * distortion(candidate, x)

    def _state(self, model):
        return super()._state(model) + ([] if self._gamma is None else [self._price])

    @contextlib.contextmanager
    def proposing(self, model):
        """The model in the precision asked for."""
        as_it_is = self.precision == "float32" or model is None
        precision = contextlib.nullcontext() if as_it_is else computing_in(model, self.precision)
        with precision, super().proposing(model):
            yield

    def propose(self, objective, x, step):
        """Climb from the clean images."""
        if self.method == "paper":
            return self._paper_steps(objective, x)
        best = adaptive_ascent(objective, x, self.steps)
        for restart in range(self.restarts):
            seed = step_seed(f"restart {restart}", self.seed, step)
            noisy = ops.clip(x + SPREAD * keras.random.normal(ops.shape(x), seed=seed), 0.0, 1.0)
            best = _better_of(best, adaptive_ascent(objective, noisy, self.steps))
        points, _, evaluations, gain = best
        return Proposal(points, evaluations, gain)

    def _paper_steps(self, objective, x):
        def climb(i, candidate):
            _, gradient = value_and_input_gradient(objective, candidate)
            return ops.clip(candidate + ops.rsqrt(ops.cast(i, "float32")) * gradient, 0.0, 1.0)

        return Proposal(ops.fori_loop(1, self.steps + 1, climb, x), self.steps)

    def adapt(self, result, weight=1.0):
        """One step of dual ascent: gamma rises while the measured radius is above rho, and falls below it."""
        if self.rho is not None:
            radius = ops.mean(result.radius)
            excess = (radius - self.rho) / (radius + self.rho)  # in [-1, 1], however far off the radius is
            self._log_gamma.assign_add(self.dual_rate * weight * excess)

    def get_config(self):
        """Constructor's arguments."""
        names = ("steps", "rho", "method", "restarts", "dual_rate", "precision", "seed")
        return {"gamma": self._gamma, **{name: getattr(self, name) for name in names}}


def _barzilai_borwein(moved, turned):
    """|moved|^2 / |moved . turned| (Barzilai and Borwein 1988): long where the objective hardly bends on the way."""
    return _squares(moved) / (ops.abs(_dot(moved, turned)) + 1e-9)


def _sure(moved, turned):
    """1.35 |moved| / |turned|: the geometric mean of both of their lengths (Dai, Al-Baali, Yang 2015), stretched."""
    return 1.35 * ops.sqrt(_squares(moved) / (_squares(turned) + 1e-9))


class _Pace(NamedTuple):
    """How far an image goes.

    Attributes:
        first: length of the first step; the published 1 soon ends in the nearest maximum.
        momentum: share of an image's last move that its next one repeats.
        upwards: where the objective is curved upwards along the last move, the length grows by this.
        length: function of the last move and of the gradient's change by it, both (n, h, w, c) -> (n,).
    """

    first: float
    momentum: float
    upwards: float
    length: Callable


# Long steps jump to other maxima and find the higher ones; when there are few, sure ones get further.
EXPLORING = _Pace(3.0, 0.3, 2.0, _barzilai_borwein)
CLIMBING = _Pace(5.0, 0.4, 1.5, _sure)


class _Ascent(NamedTuple):
    """State of the adaptive ascent: where each image is, the best of where it was, and the step from here."""

    i: Any
    x: Any
    moved: Any
    gradient: Any
    length: Any
    best_x: Any
    best_gradient: Any
    best: Any
    failures: Any
    history: Any


def adaptive_ascent(objective, start, steps):
    """Maximise each image's objective over [0, 1] by gradient steps of each image's own length, with momentum.

    The length comes from the last two points.  Steps may lose: the quantiser's gradient is a surrogate, and a monotone
    search is soon stuck on its stairs.  After five losses in a row an image goes back to its best point, with a shorter
    step.

    Args:
        objective: function of images (n, h, w, c) -> (n,).
        start: images (n, h, w, c).
        steps: int, at most so many evaluations, the last without a gradient.  Ten and less are spent on steps that
            climb surely, more of them on long ones, which find higher maxima in the end.

    Returns:
        ``(points, objective (n,), evaluations, gain)`` as in AttackResult.
    """
    pace = CLIMBING if steps <= FEW else EXPLORING

    def unfinished(*state):
        state = _Ascent(*state)
        gaining = ops.logical_or(state.i <= WINDOW, _gain(state.history) >= LEAST_GAIN)
        return ops.logical_and(state.i < steps - 1, gaining)

    best, gradient = value_and_input_gradient(objective, start)
    row = ops.zeros_like(best)
    history = ops.concatenate([ops.zeros(WINDOW, "float32"), ops.reshape(ops.mean(best), (1,))])
    still = ops.zeros_like(start)
    state = _Ascent(1, start, still, gradient, row + pace.first, start, gradient, best, row, history)
    if steps == 1:
        return start, best, 1, _gain(history)
    state = ops.while_loop(unfinished, lambda *at: tuple(_step(objective, _Ascent(*at), pace)), tuple(state))
    state = _Ascent(*state)
    x = _moved(state, pace)
    reached = objective(x)
    better = reached > state.best
    best = ops.where(better, reached, state.best)
    return _choose(better, x, state.best_x), best, state.i + 1, _gain(_recorded(state.history, best))


def _moved(at, pace):
    return ops.clip(at.x + per_image(at.length) * at.gradient + pace.momentum * at.moved, 0.0, 1.0)


def _recorded(history, best):
    return ops.concatenate([history[1:], ops.reshape(ops.mean(best), (1,))])


def _step(objective, at, pace):
    x = _moved(at, pace)
    reached, gradient = value_and_input_gradient(objective, x)
    moved, turned = x - at.x, gradient - at.gradient
    length = ops.where(_dot(moved, turned) > 0.0, pace.upwards * at.length, pace.length(moved, turned))
    better = reached > at.best
    best_x, best_gradient = _choose(better, x, at.best_x), _choose(better, gradient, at.best_gradient)
    best = ops.where(better, reached, at.best)
    failures = ops.where(better, 0.0, at.failures + 1.0)
    back = failures >= PATIENCE
    return _Ascent(
        at.i + 1,
        _choose(back, best_x, x),
        _choose(back, ops.zeros_like(moved), moved),
        _choose(back, best_gradient, gradient),
        ops.clip(ops.where(back, SHORTER * length, length), *LENGTHS),
        best_x,
        best_gradient,
        best,
        ops.where(back, 0.0, failures),
        _recorded(at.history, best),
    )


def _dot(one, other):
    return ops.sum(one * other, axis=(1, 2, 3))


def _squares(change):
    return _dot(change, change)


def _choose(which, one, other):
    return ops.where(per_image(which), one, other)


def _gain(history):
    return (history[-1] - history[0]) / (ops.abs(history[-1]) + 1e-12)


def _better_of(one, other):
    better = other[1] > one[1]
    return (
        _choose(better, other[0], one[0]),
        ops.where(better, other[1], one[1]),
        one[2] + other[2],
        ops.minimum(one[3], other[3]),
    )
