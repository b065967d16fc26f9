"""What a pruning optimizer keeps for each variable that it prunes, and what a rule may ask at a step."""

from typing import Any, NamedTuple

import keras

NOT_KERNELS = ("bias", "gamma", "beta", "alpha")


class PrunedVariable(NamedTuple):
    """A model's variable and what the optimizer keeps beside it; all but the threshold are of the variable's shape."""

    variable: keras.Variable
    mask: keras.Variable  # bool, True where the weight is in use
    threshold: keras.Variable  # float32 scalar, in units of |weight|
    dense: keras.Variable | None = None  # of rules that revive; read where the mask is False, the model's elsewhere
    state: keras.Variable | None = None  # float32, of rules that keep one

    def parts(self):
        """What is there, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Moment(NamedTuple):
    """What a rule may ask about the present step: scalar tensors, and two of the variable's shape."""

    step: Any  # int32, updates made before this one
    active: Any  # bool, is this step between the schedule's begin and its last update?
    update_now: Any  # bool, does the schedule ask for new masks?
    sparsity: Any  # float32 in [0, 1), the target of this variable
    draw: Any  # float32 in [0, 1), this variable's random number
    number: Any = 0  # int32, of the variable among the pruned ones
    gradient: Any = None  # of the loss at the masked weights, for rules that use it; None without a gradient
    state: Any = None  # what `observe` returned
    made: Any = True  # bool, were weights updated at this step? not while gradients are only being accumulated


def is_kernel(path, variable):
    """Default choice of what to prune: tensors of rank >= 2 that are no parameters of bias, norm or activation."""
    name = path.split("/")[-1]
    return len(variable.shape) >= 2 and not any(word in name for word in NOT_KERNELS)
