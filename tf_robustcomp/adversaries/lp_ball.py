"""Worst image in a norm ball around each image, by projected gradient ascent."""

from collections.abc import Callable
from typing import Any

from keras import ops

from tf_robustcomp.adversaries.base import Adversary, Proposal
from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.data.distortion import distortion, per_image
from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.registry import register

REACH = 2.5  # all steps together are 2.5 times epsilon: enough to cross the ball and to come back from its border


class _NormBall(Adversary):
    """Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083) that keeps each image's best point.

    A ball is two hooks: ``direction(gradient)``, the step of norm 1 that gains most, and ``project(perturbation)``.
    """

    def __init__(self, epsilon: float, steps: int = 20) -> None:
        super().__init__()
        self.epsilon = check_positive("epsilon", epsilon)
        self.steps = check_at_least("steps", steps, 1)

    def direction(self, gradient: Any) -> Any:
        """Return the step of norm 1 that gains most, for a gradient (n, h, w, c)."""
        raise NotImplementedError

    def project(self, perturbation: Any) -> Any:
        """Return the nearest perturbation within the ball, for one (n, h, w, c)."""
        raise NotImplementedError

    def images_from(self, value: Any, x: Any) -> tuple[Any, Any]:
        """Return images in the ball and in [0, 1]."""
        # Clipping to [0, 1], where x is, moves no pixel away from x: the result stays in the ball.
        return ops.clip(x + self.project(value - x), 0.0, 1.0), ops.zeros_like(x[:, 0, 0, 0])

    def propose(self, objective: Callable, x: Any, step: Any) -> Proposal:
        """Climb from the clean images."""
        step_size = REACH * self.epsilon / self.steps

        def climb(_, state):
            points, best_points, best, defined = state
            reached, gradient = value_and_input_gradient(objective, points)
            better = reached > best
            best_points = ops.where(per_image(better), points, best_points)
            points, _ = self.images_from(points + step_size * self.direction(gradient), x)
            defined = ops.logical_and(defined, ops.isfinite(reached))
            return points, best_points, ops.where(better, reached, best), defined

        clean = objective(x)
        first = (x, x, clean, ops.isfinite(clean))
        points, best_points, best, defined = ops.fori_loop(0, self.steps, climb, first)
        last = objective(points)
        defined = ops.logical_and(defined, ops.isfinite(last))
        return Proposal(ops.where(per_image(last > best), points, best_points), self.steps, defined=defined)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"epsilon": self.epsilon, "steps": self.steps}


@register("adversary", "l2", uses={"epsilon": "epsilon", "steps": "attack_steps"})
class L2Ball(_NormBall):
    """Worst image with ||x' - x||_2 <= epsilon (the norm, not its square) in [0, 1].

    Args:
        epsilon: float > 0, radius.
        steps: int >= 1, gradient steps.
    """

    def direction(self, gradient: Any) -> Any:
        """Return the gradient at length 1."""
        return gradient / (_norm(gradient) + 1e-12)

    def project(self, perturbation: Any) -> Any:
        """Shorten to epsilon."""
        return perturbation * ops.minimum(1.0, self.epsilon / (_norm(perturbation) + 1e-12))


@register("adversary", "linf", uses={"epsilon": "epsilon", "steps": "attack_steps"})
class LinfBall(_NormBall):
    """Worst image with no pixel changed by more than epsilon, in [0, 1].

    Args:
        epsilon: float > 0, greatest change of a pixel.
        steps: int >= 1, gradient steps.
    """

    def direction(self, gradient: Any) -> Any:
        """Return the sign of the gradient."""
        return ops.sign(gradient)

    def project(self, perturbation: Any) -> Any:
        """Clip to epsilon."""
        return ops.clip(perturbation, -self.epsilon, self.epsilon)


def _norm(change):
    return per_image(ops.sqrt(distortion(change, ops.zeros_like(change))))
