"""Worst case in a Wasserstein ball around the data, by its Lagrangian."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_robustcomp.adversaries.ascent import adaptive_ascent
from tf_robustcomp.adversaries.base import Adversary, AttackResult, Proposal
from tf_robustcomp.backend.gradients import read, value_and_input_gradient
from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.utils.checks import check_at_least, check_choice, check_positive
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register

METHODS = ("paper", "adaptive")
PRECISIONS = ("float32", "bfloat16")
SPREAD = 0.3  # standard deviation of the noise at a restart, wide enough to end at other maxima


@register(
    "adversary",
    "wasserstein",
    uses={
        "gamma": "gamma",
        "rho": "rho",
        "steps": "attack_steps",
        "method": "attack_method",
        "restarts": "attack_restarts",
        "precision": "attack_precision",
        "seed": "adversary_seed",
    },
)
class WassersteinBall(Adversary):
    """Worst distribution within squared 2-Wasserstein distance rho: max over x' of d(x', f(x')) - gamma ||x' - x||^2.

    ``method="paper"`` takes ``steps`` gradient steps from x' = x, step i of size 1/sqrt(i), clipped to [0, 1]: Sinha,
    Namkoong, Duchi 2018 as used by Lei, Hassani, Saeedi Bidokhti 2021 (arXiv 2110.07007).  These steps do not reach
    the maximum.  ``method="adaptive"`` (``adaptive_ascent``) uses the same gradients with a step size for each image,
    keeps each image's best point, and stops each image when it gains less than 0.1 % in fifteen steps.  Eight of its
    evaluations reach more than the 15 published ones on most models (docs/speed.md).

    Args:
        gamma: float > 0, price of squared distance.  Give either ``gamma`` or ``rho``.
        steps: int >= 1, gradient evaluations; if adaptive, at most this many for each ascent.
        rho: float > 0, mean squared distance that gamma is tuned to while a model trains: dual ascent on log gamma.
        method: "paper" or "adaptive".
        restarts: int >= 0, further adaptive ascents, each from the clean images plus noise; the best counts.
        dual_rate: float > 0, step size in log gamma, with ``rho``.
        precision: "float32", or "bfloat16" to climb in that on this package's compressors: faster where the processor
            has it.  The result is measured in the model's own precision.
        seed: int, of the restarts' noise.

    Example:
        >>> model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0, steps=15))
    """

    def __init__(
        self,
        gamma: float | None = None,
        steps: int = 15,
        rho: float | None = None,
        method: str = "paper",
        restarts: int = 1,
        dual_rate: float = 0.05,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (gamma is None) == (rho is None):
            raise InvalidArgument(f"either gamma or rho must be given. Received: gamma={gamma}, rho={rho}")
        self.method = check_choice("method", method, METHODS)
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.steps = check_at_least("steps", steps, 1)
        self.restarts = check_at_least("restarts", restarts, 0)
        self.dual_rate = check_positive("dual_rate", dual_rate)
        self.rho = None if rho is None else check_positive("rho", rho)
        self._gamma = None if gamma is None else check_positive("gamma", gamma)
        self.seed = seed
        # Variables, so that another gamma needs no new trace; only one that training tunes belongs to the model.
        if rho is None:
            self._gamma_variable = keras.Variable(self._gamma, trainable=False, dtype="float32", name="gamma")
        else:
            self._log_gamma = keras.Variable(
                0.0, trainable=False, dtype="float32", name="log_gamma", aggregation="mean"
            )

    @classmethod
    def from_settings(cls, settings: Any) -> "WassersteinBall":
        """Return the attack that a command's flags name; ``--rho`` takes the place of ``--gamma``."""
        return cls(
            gamma=settings.gamma if settings.rho is None else None,
            rho=settings.rho,
            steps=settings.attack_steps,
            method=settings.attack_method,
            restarts=settings.attack_restarts,
            precision=settings.attack_precision,
            seed=settings.adversary_seed,
        )

    @property
    def gamma(self) -> Any:
        """Gamma now in use: a float that may be set, or with ``rho`` a tensor that training moves."""
        return ops.exp(self._log_gamma) if self._gamma is None else self._gamma

    @gamma.setter
    def gamma(self, gamma: float) -> None:
        if self.rho is not None:
            raise InvalidArgument(f"gamma is tuned to rho and cannot be set. Received: gamma={gamma}")
        self._gamma = check_positive("gamma", gamma)
        self._gamma_variable.assign(self._gamma)

    @property
    def variables(self) -> list[keras.Variable]:
        """The logarithm of gamma, where it is tuned."""
        return [] if self.rho is None else [self._log_gamma]

    def penalty(self, candidate: Any, x: Any) -> Any:
        """Return gamma ||x' - x||^2."""
        gamma = ops.exp(self._log_gamma) if self._gamma is None else read(self._gamma_variable)
        return gamma * distortion(candidate, x)

    def propose(self, objective: Callable, x: Any, step: Any) -> Proposal:
        """Climb from the clean images, and in further ascents from noisy ones."""
        if self.method == "paper":
            return self._paper_steps(objective, x)
        best = adaptive_ascent(objective, x, self.steps)
        for restart in range(self.restarts):
            seed = step_seed(f"restart {restart}", self.seed, step)
            noise = keras.random.normal((1, *x.shape[1:]), seed=seed)  # one for all: no place in the batch counts
            noisy = ops.clip(x + SPREAD * noise, 0.0, 1.0)
            best = best.better_of(adaptive_ascent(objective, noisy, self.steps))
        return Proposal(best.points, best.evaluations, best.gain, best.defined)

    def adapt(self, result: AttackResult, weight: Any = 1.0) -> None:
        """Make one step of dual ascent: gamma rises while the measured radius is above rho, and falls below it."""
        if self.rho is not None:
            radius = ops.mean(result.radius)
            excess = (radius - self.rho) / (radius + self.rho)  # in [-1, 1], however far off the radius is
            self._log_gamma.assign_add(self.dual_rate * weight * excess)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("steps", "rho", "method", "restarts", "dual_rate", "precision", "seed")
        return {"gamma": self._gamma, **{name: getattr(self, name) for name in names}}

    def _paper_steps(self, objective, x):
        def climb(i, candidate):
            _, gradient = value_and_input_gradient(objective, candidate)
            return ops.clip(candidate + ops.rsqrt(ops.cast(i, "float32")) * gradient, 0.0, 1.0)

        return Proposal(ops.fori_loop(1, self.steps + 1, climb, x), self.steps)

    def _state(self, model):
        return super()._state(model) + ([] if self._gamma is None else [self._gamma_variable])
