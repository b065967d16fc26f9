"""The optimizer's state for a variable, and the step that a rule sees."""

from typing import Any, NamedTuple

import keras


class PrunedVariable(NamedTuple):
    """A variable of the model and what the optimizer keeps for it, all of its shape but the scalars.

    Attributes:
        variable: the model's own.
        mask: bool, True where the weight is in use.
        threshold: float32 scalar, in units of |weight|.
        dense: of rules that keep dense weights; valid where the mask is False, elsewhere the model's weight is.
        state: float32, of rules that have one.
        least: float32 scalar, the sparsity at the start, with ``initial_masks="from_zeros"``: updates leave no less.
    """

    variable: keras.Variable
    mask: keras.Variable
    threshold: keras.Variable
    dense: keras.Variable | None = None
    state: keras.Variable | None = None
    least: keras.Variable | None = None


class ChannelBlock(NamedTuple):
    """The optimizer's state for a block of coupled channels.

    Attributes:
        mask: bool (units,), True where the group of channels is in use.
        threshold: as of `PrunedVariable`, in units of the groups' scores.
        least: as of `PrunedVariable`.
    """

    mask: keras.Variable
    threshold: keras.Variable
    least: keras.Variable | None = None


class StepContext(NamedTuple):
    """The present step as a rule sees it, for one variable: scalar tensors, and two of the variable's shape.

    Attributes:
        step: int32, updates made before this one.
        active: bool, whether this step is between the schedule's begin and its last update.
        update_now: bool, whether the schedule asks for new masks.
        sparsity: float32 in [0, 1), the target sparsity of this variable at this step.
        random_number: float32 in [0, 1), one for each variable.
        index: int32, of the variable among the pruned ones.
        gradient: of the loss at the masked weights, for rules that need it; None without a gradient.
        state: the value that `observe` returned.
        stepped: bool, whether weights were updated at this step; not while gradients are only accumulated.
        pattern: `patterns.Pattern` of this variable, its axes those of the variable's layer.
    """

    step: Any
    active: Any
    update_now: Any
    sparsity: Any
    random_number: Any
    index: Any = 0
    gradient: Any = None
    state: Any = None
    stepped: Any = True
    pattern: Any = None


def parts(one: PrunedVariable | ChannelBlock) -> dict[str, keras.Variable]:
    """Return the variables that exist, by name."""
    return {name: value for name, value in one._asdict().items() if value is not None}
