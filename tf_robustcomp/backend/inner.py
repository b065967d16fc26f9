"""Look into the optimizer that is wrapped: its settings, steps without updates, gradients, slots."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.utils.errors import InvalidArgument

CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
WITH_SLOTS = ("use_ema", "gradient_accumulation_steps")  # settings for which `build` makes slots
OTHERS = ("weight_decay", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor")


class Setting:
    """A setting of Keras' optimizers as an attribute of a wrapper: the innermost optimizers have it, and act on it."""

    def __set_name__(self, owner: type, name: str) -> None:
        """Note the setting's name."""
        self.name = name

    def __get__(self, wrapper: Any, owner: type | None = None) -> Any:
        """Return the value of the first innermost optimizer."""
        return self if wrapper is None else getattr(innermost(wrapper.inner_optimizer)[0], self.name)

    def __set__(self, wrapper: Any, value: Any) -> None:
        """Set it in all innermost optimizers.

        Raises:
            InvalidArgument: it is too late for it, or a LossScaleOptimizer rules it out.
        """
        if "inner_optimizer" not in vars(wrapper):  # Keras' constructor sets its defaults before there is one
            return
        if self.name in WITH_SLOTS and wrapper.built and bool(value) != bool(getattr(wrapper, self.name)):
            raise InvalidArgument(f"{self.name} must be set before the optimizer is built. Received: {value}")
        if self.name == "loss_scale_factor" and value is not None and any(map(_is_scaled, _nested(wrapper))):
            raise InvalidArgument(f"loss_scale_factor must be None in a LossScaleOptimizer. Received: {value}")
        for one in innermost(wrapper.inner_optimizer):
            setattr(one, self.name, value)


def refuse_settings(settings: dict[str, Any]) -> None:
    """Refuse arguments that are those of the inner optimizer, as Python does all other unknown ones.

    Raises:
        InvalidArgument: names the argument.
    """
    for name, value in settings.items():
        if name in (*CLIPPING, *WITH_SLOTS, *OTHERS, "learning_rate"):
            raise InvalidArgument(f"{name} must be an argument of the inner optimizer. Received: {name}={value}")
        raise TypeError(f"unexpected keyword argument {name!r}")


def innermost(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that train: itself, or those inside loss scaling or several in one."""
    return [one for one in _nested(optimizer) if len(_nested(one)) == 1]


def may_wait(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether some steps update nothing: gradients accumulate, or overflow under a loss scale."""
    return any(_is_scaled(one) or one.gradient_accumulation_steps for one in _nested(optimizer))


def applied(optimizer: keras.optimizers.Optimizer, variable: Any, gradient: Any) -> Any:
    """Return the gradient that the optimizer will apply to a variable: unscaled, averaged over accumulated steps.

    Args:
        optimizer: built Keras optimizer.
        variable: one that it trains.
        gradient: float32 tensor of the variable's shape, as it is handed to the optimizer.
    """
    for one in _nested(optimizer):
        if _is_scaled(one):
            gradient = gradient / ops.cast(ops.convert_to_tensor(one.dynamic_scale), "float32")
        accumulated = keras_private.accumulated_gradient(one, variable)
        if accumulated is not None:
            total = gradient + ops.cast(ops.convert_to_tensor(accumulated), "float32")
            gradient = total / one.gradient_accumulation_steps
    return gradient


def slots_of(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> list[list[tuple[Any, float]]]:
    """Return, for each variable, the slots of its shape (such as momentum) with their initial values.

    Slots of other shapes, such as Adafactor's, are left out.
    """
    found: dict[int, list] = {id(variable): [] for variable in variables}
    for one in _nested(optimizer):
        for name, slots in keras_private.slot_lists(one).items():
            first = keras_private.initial_slot_value(one, name)
            for slot, variable in zip(slots, keras_private.trained_variables(one), strict=True):
                if id(variable) in found and getattr(slot, "shape", None) == variable.shape:
                    found[id(variable)].append((slot, first))
    return [found[id(variable)] for variable in variables]


def averages_of(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> list[Any]:
    """Return, for each variable, its moving average (``use_ema``), None without one."""
    found = [[keras_private.average(one, variable) for one in innermost(optimizer)] for variable in variables]
    return [next((one for one in several if one is not None), None) for several in found]


def _is_scaled(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _nested(optimizer):
    """An optimizer and those inside it (loss scaling, several optimizers in one)."""
    inside = [getattr(optimizer, "inner_optimizer", None), *(getattr(optimizer, "optimizers", None) or [])]
    return [optimizer, *(one for part in inside if part is not None for one in _nested(part))]
