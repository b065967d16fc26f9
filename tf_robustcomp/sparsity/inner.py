"""What a pruning optimizer must know of the Keras optimizer inside it: steps without updates, gradients, slots."""

import keras
from keras import ops

NOT_SLOTS = ("_trainable_variables", "_model_variables_moving_average", "_accumulated_gradients")


def may_wait(optimizer):
    """Whether there are steps that update nothing: gradients add up, or overflow under a loss scale."""
    return any(_is_scaled(one) or one.gradient_accumulation_steps for one in _nested(optimizer))


def applied(optimizer, variable, gradient):
    """The gradient that the optimizer will apply to a variable: unscaled, averaged over accumulated steps.

    Args:
        optimizer: built Keras optimizer.
        variable: one that it trains.
        gradient: float32 tensor of the variable's shape, as it is handed to the optimizer.
    """
    for one in _nested(optimizer):
        if _is_scaled(one):
            gradient = gradient / ops.cast(ops.convert_to_tensor(one.dynamic_scale), "float32")
        steps = one.gradient_accumulation_steps
        places = [id(trained) for trained in one._trainable_variables] if steps else []
        if id(variable) in places:
            accumulated = one._accumulated_gradients[places.index(id(variable))]
            gradient = (gradient + ops.cast(ops.convert_to_tensor(accumulated), "float32")) / steps
    return gradient


def slots_of(optimizer, variables):
    """For each variable the optimizer's slots of its shape, such as momentum: lists of pairs (slot, first value).

    Keras' optimizers keep them in lists in the order of their variables; slots of other shapes (Adafactor's) stay.
    """
    found: dict[int, list] = {id(variable): [] for variable in variables}
    for one in _nested(optimizer):
        trained = one._trainable_variables
        for name, slots in vars(one).items():
            if not isinstance(slots, (list, tuple)) or len(slots) != len(trained) or name in NOT_SLOTS:
                continue
            first = getattr(one, "initial_accumulator_value", 0.0) if name == "_accumulators" else 0.0
            for slot, variable in zip(slots, trained, strict=True):
                if id(variable) in found and getattr(slot, "shape", None) == variable.shape:
                    found[id(variable)].append((slot, first))
    return [found[id(variable)] for variable in variables]


def _is_scaled(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _nested(optimizer):
    """The optimizer and those inside it (loss scaling, several optimizers in one)."""
    inside = [getattr(optimizer, "inner_optimizer", None), *(getattr(optimizer, "optimizers", None) or [])]
    return [optimizer, *(one for part in inside if part is not None for one in _nested(part))]
