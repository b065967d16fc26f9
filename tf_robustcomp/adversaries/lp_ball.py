"""Worst image in a norm ball around each image, by projected gradient ascent."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_robustcomp.adversaries.ascent import Ascent
from tf_robustcomp.adversaries.base import Adversary, Proposal
from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.data.distortion import distortion, per_image
from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.registry import register

REACH = 2.5  # all steps together are 2.5 times epsilon: enough to cross the ball and to come back from its border


class _NormBall(Adversary):
    """Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083) that keeps each image's best point.

    A ball is three hooks: ``direction(gradient)``, the step of norm 1 that gains most, ``project(perturbation)``, and
    ``spread(noise)``, a random perturbation in the ball.
    """

    def __init__(self, epsilon: float, steps: int = 20, restarts: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.epsilon = check_positive("epsilon", epsilon)
        self.steps = check_at_least("steps", steps, 1)
        self.restarts = check_at_least("restarts", restarts, 0)
        self.seed = seed

    def direction(self, gradient: Any) -> Any:
        """Return the step of norm 1 that gains most, for a gradient (n, h, w, c)."""
        raise NotImplementedError

    def project(self, perturbation: Any) -> Any:
        """Return the nearest perturbation within the ball, for one (n, h, w, c)."""
        raise NotImplementedError

    def spread(self, noise: Any) -> Any:
        """Return a perturbation in the ball, from normal noise (1, h, w, c)."""
        raise NotImplementedError

    def images_from(self, value: Any, x: Any) -> tuple[Any, Any]:
        """Return images in the ball and in [0, 1]."""
        # Clipping to [0, 1], where x is, moves no pixel away from x: the result stays in the ball.
        return ops.clip(x + self.project(value - x), 0.0, 1.0), ops.zeros_like(x[:, 0, 0, 0])

    def propose(self, objective: Callable, x: Any, step: Any) -> Proposal:
        """Climb from the clean images, then from random ones in the ball; the best of each image counts."""
        best = self._climb(objective, x, x)
        for restart in range(self.restarts):
            # One noise for all images, so that no place in the batch counts.
            noise = keras.random.normal((1, *x.shape[1:]), seed=step_seed(f"restart {restart}", self.seed, step))
            start, _ = self.images_from(x + self.spread(noise), x)
            best = best.better_of(self._climb(objective, start, x))
        return Proposal(best.points, best.evaluations, best.gain, best.defined)

    def _climb(self, objective, start, x):
        """Projected ascent from ``start``; its gain is that of the last quarter of the steps."""
        step_size = REACH * self.epsilon / self.steps

        def climb(i, state):
            points, best_points, best, late, defined = state
            reached, gradient = value_and_input_gradient(objective, points)
            better = reached > best
            best_points = ops.where(per_image(better), points, best_points)
            best = ops.where(better, reached, best)
            late = ops.where(i < (3 * self.steps) // 4, best, late)
            points, _ = self.images_from(points + step_size * self.direction(gradient), x)
            return points, best_points, best, late, ops.logical_and(defined, ops.isfinite(reached))

        first = objective(start)
        state = (start, start, first, first, ops.isfinite(first))
        points, best_points, best, late, defined = ops.fori_loop(0, self.steps, climb, state)
        last = objective(points)
        best_points = ops.where(per_image(last > best), points, best_points)
        best = ops.maximum(last, best)
        gain = ops.mean(best - late) / (ops.abs(ops.mean(best)) + 1e-12)
        return Ascent(best_points, best, self.steps, gain, ops.logical_and(defined, ops.isfinite(last)))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in ("epsilon", "steps", "restarts", "seed")}


@register("adversary", "l2", uses={"epsilon": "epsilon", "steps": "attack_steps", "seed": "adversary_seed"})
class L2Ball(_NormBall):
    """Worst image with ||x' - x||_2 <= epsilon (the norm, not its square) in [0, 1].

    Args:
        epsilon: float > 0, radius.
        steps: int >= 1, gradient steps.
        restarts: int >= 0, further ascents from random images in the ball.
        seed: int, of their noise.

    Example:
        >>> result = rc.L2Ball(epsilon=2.0).attack(model, images)
        >>> result.distortion >= result.clean_distortion  # for each image
    """

    def direction(self, gradient: Any) -> Any:
        """Return the gradient at length 1."""
        return gradient / (_norm(gradient) + 1e-12)

    def project(self, perturbation: Any) -> Any:
        """Shorten to epsilon."""
        return perturbation * ops.minimum(1.0, self.epsilon / (_norm(perturbation) + 1e-12))

    def spread(self, noise: Any) -> Any:
        """Return noise of length epsilon."""
        return self.epsilon * noise / (_norm(noise) + 1e-12)


@register("adversary", "linf", uses={"epsilon": "epsilon", "steps": "attack_steps", "seed": "adversary_seed"})
class LinfBall(_NormBall):
    """Worst image with no pixel changed by more than epsilon, in [0, 1].

    Args:
        epsilon: float > 0, greatest change of a pixel.
        steps: int >= 1, gradient steps.
        restarts: int >= 0, further ascents from random images in the ball.
        seed: int, of their noise.

    Example:
        >>> worse = rc.LinfBall(epsilon=8 / 255)(model, images)
    """

    def direction(self, gradient: Any) -> Any:
        """Return the sign of the gradient."""
        return ops.sign(gradient)

    def project(self, perturbation: Any) -> Any:
        """Clip to epsilon."""
        return ops.clip(perturbation, -self.epsilon, self.epsilon)

    def spread(self, noise: Any) -> Any:
        """Return a change of every pixel by epsilon, up or down."""
        return self.epsilon * ops.sign(noise)


def _norm(change):
    return per_image(ops.sqrt(distortion(change, ops.zeros_like(change))))
