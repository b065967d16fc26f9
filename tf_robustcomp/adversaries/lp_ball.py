"""Worst image in a norm ball around each image, by projected gradient ascent."""

import keras
from keras import ops

from tf_robustcomp.adversaries.base import (
    Adversary,
    Proposal,
    check_at_least,
    check_positive,
    distortion,
    per_image,
)
from tf_robustcomp.backend import value_and_input_gradient

REACH = 2.5  # all steps together are that many times epsilon: enough to turn round at the border


class _NormBall(Adversary):
    """Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083) that keeps each image's best point.

    A ball is two hooks: ``direction(gradient)``, the step of norm 1 that gains most, and ``project(change)``.
    """

    def __init__(self, epsilon, steps=20):
        super().__init__()
        self.epsilon = check_positive("epsilon", epsilon)
        self.steps = check_at_least("steps", steps, 1)

    def direction(self, gradient):
        """The step of norm 1 that gains most, for a gradient (n, h, w, c)."""
        raise NotImplementedError

    def project(self, change):
        """The nearest change within the ball, for one (n, h, w, c)."""
        raise NotImplementedError

    def realise(self, value, x):
        """Images in the ball and in [0, 1]."""
        # Clipping towards [0, 1], where x is, brings no pixel further from x: the result stays in the ball.
        return ops.clip(x + self.project(value - x), 0.0, 1.0), ops.zeros_like(x[:, 0, 0, 0])

    def propose(self, objective, x, step):
        """Climb from the clean images."""
        length = REACH * self.epsilon / self.steps

        def climb(_, state):
            points, best_points, best = state
            reached, gradient = value_and_input_gradient(objective, points)
            better = reached > best
            best_points = ops.where(per_image(better), points, best_points)
            points, _ = self.realise(points + length * self.direction(gradient), x)
            return points, best_points, ops.where(better, reached, best)

        points, best_points, best = ops.fori_loop(0, self.steps, climb, (x, x, objective(x)))
        better = objective(points) > best
        return Proposal(ops.where(per_image(better), points, best_points), self.steps)

    def get_config(self):
        """Constructor's arguments."""
        return {"epsilon": self.epsilon, "steps": self.steps}


@keras.saving.register_keras_serializable("tf_robustcomp")
class L2Ball(_NormBall):
    """Worst image with ||x' - x||_2 <= epsilon (the norm, not its square) in [0, 1].

    Args:
        epsilon: float > 0, radius.
        steps: int >= 1, gradient steps.
    """

    def direction(self, gradient):
        """Along the gradient."""
        return gradient / (_norm(gradient) + 1e-12)

    def project(self, change):
        """Shorten to epsilon."""
        return change * ops.minimum(1.0, self.epsilon / (_norm(change) + 1e-12))


@keras.saving.register_keras_serializable("tf_robustcomp")
class LinfBall(_NormBall):
    """Worst image with no pixel changed by more than epsilon, in [0, 1].

    Args:
        epsilon: float > 0, greatest change of a pixel.
        steps: int >= 1, gradient steps.
    """

    def direction(self, gradient):
        """Sign of the gradient."""
        return ops.sign(gradient)

    def project(self, change):
        """Clip to epsilon."""
        return ops.clip(change, -self.epsilon, self.epsilon)


def _norm(change):
    return per_image(ops.sqrt(distortion(change, ops.zeros_like(change))))
