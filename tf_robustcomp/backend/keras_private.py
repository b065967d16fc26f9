"""Every private name of Keras and TensorFlow that the package uses, each with its reason.

`tests/backend/test_keras_private.py` has a test for each function, which fails where a new version changes its meaning.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tf_robustcomp.backend import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf

# Attributes of an optimizer that are lists as long as its list of variables and yet are no slots.
_NOT_SLOTS = ("_trainable_variables", "_model_variables_moving_average", "_accumulated_gradients")


_OWN = ("_trainable_variables", "_non_trainable_variables")
_holders: dict[int, tuple] = {}  # id of a variable -> weak references to it and to its layer, attribute


def holder(variable: Any) -> tuple[keras.Layer | None, str]:
    """Return the layer that made a variable and its attribute there; None and the variable's name without a layer.

    An optimizer is given variables and nothing else, and a variable of Keras does not know its layer; the garbage
    collector knows all layers.  It is asked once for all variables that there are.
    """
    if not isinstance(variable, keras.Variable):
        return None, variable.name
    if _holders.get(id(variable), (lambda: None,))[0]() is not variable:
        for key in [key for key, (known, _, _) in _holders.items() if known() is None]:
            del _holders[key]
        _holders[id(variable)] = (weakref.ref(variable), lambda: None, variable.name)
        objects = gc.get_objects()
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, keras.Layer)}
        for layer in [one for one in objects if type(one) in kinds]:
            for one, attribute in _variables_of(layer):
                made_here = one.path == f"{layer.path}/{one.name}"  # a tied weight has several holders and one maker
                if made_here or id(one) not in _holders or _holders[id(one)][1]() is None:
                    _holders[id(one)] = (weakref.ref(one), weakref.ref(layer), attribute)
    _, layer, attribute = _holders[id(variable)]
    return layer(), attribute


def models_with(variables: Iterable) -> list[keras.Model]:
    """Return the built models that hold all of some variables; the garbage collector knows all models."""
    wanted = {id(variable) for variable in variables}
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, keras.Model)}
    models = [one for one in objects if type(one) in kinds and getattr(one, "built", False)]
    return [model for model in models if wanted <= {id(variable) for variable in model.weights}]


def _variables_of(layer: keras.Layer) -> Iterator[tuple[keras.Variable, str]]:
    """Variables of a layer itself, each with the attribute that holds it, alone or in a list or dict."""
    attributes = {}
    for name, value in vars(layer).items():
        several = list(value.values()) if isinstance(value, dict) else value
        if isinstance(several, list | tuple) and not name.startswith("_"):  # Keras keeps private lists of its own
            attributes.update({id(one): name for one in several})
    attributes.update({id(value): name.lstrip("_") for name, value in vars(layer).items()})
    for name in _OWN:
        for variable in vars(layer).get(name, ()):
            yield variable, attributes.get(id(variable), variable.name)


def all_layers(model: keras.Layer) -> list[keras.Layer]:
    """Return a layer and all layers inside it; ``model.layers`` stops at nested models."""
    return list(model._flatten_layers())


def graph_nodes(model: keras.Model) -> list[Any]:
    """Return the calls of a functional or Sequential model, each after those that it needs.

    A call has ``operation`` (a layer or an operation of ``keras.ops``), ``arguments``, ``input_tensors``, ``outputs``.
    """
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]


def loss_tracker(model: keras.Model) -> keras.Metric:
    """Return the mean loss that Keras keeps; ``compute_metrics`` must report it and no public name leads to it."""
    return model._loss_tracker


def metric_direction(model: keras.Model, name: str) -> str | None:
    """Return "up" or "down", the better way of a metric that ``evaluate`` names; None where Keras does not know it.

    A model with several outputs puts the output's name before the metric's.
    """
    metrics = [metric for one in model.metrics for metric in (one, *getattr(one, "metrics", ()))]
    named = [one for one in metrics if name == one.name or name.endswith(f"_{one.name}")]
    directions = {getattr(metric, "_direction", None) for metric in named}
    return directions.pop() if len(directions) == 1 else None


def forget_evaluation(model: keras.Model) -> None:
    """Let a model forget the state of an ``evaluate`` that was interrupted, which its next callback would bring back.

    Under JAX ``evaluate`` takes the values out of all variables, so all of them must then be assigned again.
    """
    if BACKEND == "jax":
        model._jax_state_synced = True


def replace_optimizer(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Let a compiled model go on with another optimizer, and be saved with it, not with that of ``compile``."""
    model.optimizer = optimizer
    if hasattr(model, "_compile_config"):
        model._compile_config.config["optimizer"] = optimizer


def random_seed_dtype() -> str:
    """Return the integer type of random seeds on this backend, which a seed generator must return."""
    return keras.src.backend.random_seed_dtype()


def trained_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that a built optimizer trains, in the order of its slots."""
    return optimizer._trainable_variables


def mark_built(optimizer: keras.optimizers.Optimizer, variables: list) -> None:
    """Make an optimizer built for variables, without the slots that ``Optimizer.build`` makes for its settings."""
    keys = {variable_key(optimizer, variable): index for index, variable in enumerate(variables)}
    vars(optimizer).update(_trainable_variables=list(variables), _trainable_variables_indices=keys)
    optimizer.built = True


def own_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables that an optimizer made itself; a wrapper overrides the public ``variables``."""
    return optimizer._variables


def holds_value(variable: keras.Variable) -> bool:
    """Return whether a variable has a value; during ``fit`` under JAX variables have none."""
    return variable._value is not None


def variable_key(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """Return the identity of a variable, the same for the copies of it that replicas see."""
    return optimizer._var_key(variable)


def count_step(optimizer: keras.optimizers.Optimizer) -> None:
    """Add one to an optimizer's own counter; a wrapper shows its inner optimizer's under the public name."""
    optimizer._iterations.assign_add(1)


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[keras.Variable, keras.Variable]:
    """Return the first and second moment that Adam keeps for a variable."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def accumulated_gradient(optimizer: keras.optimizers.Optimizer, variable: Any) -> keras.Variable | None:
    """Return the sum of gradients that ``gradient_accumulation_steps`` keeps for a variable; None without one."""
    if not optimizer.gradient_accumulation_steps:
        return None
    trained = [id(one) for one in trained_variables(optimizer)]
    return optimizer._accumulated_gradients[trained.index(id(variable))] if id(variable) in trained else None


def average(optimizer: keras.optimizers.Optimizer, variable: Any) -> keras.Variable | None:
    """Return the moving average that ``use_ema`` keeps of a variable; None without one."""
    trained = [id(one) for one in trained_variables(optimizer)]
    if not optimizer.use_ema or id(variable) not in trained:
        return None
    return optimizer._model_variables_moving_average[trained.index(id(variable))]


def slot_lists(optimizer: keras.optimizers.Optimizer) -> dict[str, list]:
    """Return the lists of slots of a built optimizer (momentum, ...) by name, each in the order of its variables."""
    count = len(trained_variables(optimizer))
    lists = {name: value for name, value in vars(optimizer).items() if isinstance(value, list | tuple)}
    return {name: list(value) for name, value in lists.items() if len(value) == count and name not in _NOT_SLOTS}


def initial_slot_value(optimizer: keras.optimizers.Optimizer, name: str) -> float:
    """Return the value that the slots of a list begin with; Adagrad's accumulators do not begin at 0."""
    return getattr(optimizer, "initial_accumulator_value", 0.0) if name == "_accumulators" else 0.0


def merge_replicas(function: Any) -> None:
    """Call ``function(strategy)`` where all replicas of a TensorFlow strategy meet; Keras' own optimizers do so."""
    tf.__internal__.distribute.interim.maybe_merge_call(function, tf.distribute.get_strategy())
