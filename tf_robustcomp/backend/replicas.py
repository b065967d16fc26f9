"""Training on several devices of one machine."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tf_robustcomp.backend import BACKEND, keras_private
from tf_robustcomp.utils.errors import InvalidArgument

if BACKEND == "tensorflow":
    import tensorflow as tf


def update_on_every_replica(updates: Sequence[tuple[Callable, Any]]) -> None:
    """Call functions that assign to variables: once each, or once each on every replica of a strategy.

    Under ``tf.distribute`` a mirrored variable may only be assigned where all replicas meet; there a function sees
    each device's own copies.  It must be deterministic, so that the copies stay equal.

    Args:
        updates: list of ``(function, variables)``; the function is called with as many ``keras.Variable`` (under a
            strategy ``tf.Variable``) as are listed, the first of which decides the device.
    """
    if BACKEND != "tensorflow" or not tf.distribute.has_strategy():
        for function, variables in updates:
            function(*variables)
        return

    def merged(strategy):
        for function, variables in updates:
            first, *others = (variable.value for variable in variables)
            strategy.extended.update(first, function, args=tuple(others), group=False)

    keras_private.merge_replicas(merged)


def replicas() -> int:
    """Return the number of devices that share a batch here, 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync if BACKEND == "tensorflow" else 1


def summed_over_replicas(tensors: list) -> list:
    """Return the sums of tensors over the replicas of a strategy; without one the tensors as they are."""
    if BACKEND != "tensorflow" or not tensors or not tf.distribute.has_strategy():
        return tensors
    context = tf.distribute.get_replica_context()
    return tensors if context is None else list(context.all_reduce(tf.distribute.ReduceOp.SUM, tensors))


def strategy_scope(name: str) -> Any:
    """Return the context in which models are made and trained.

    Args:
        name: ``none`` for one device, ``mirrored`` for all devices of this machine that TensorFlow sees (its GPUs, else
            its logical CPU devices), each taking an equal part of every batch.

    Raises:
        InvalidArgument: ``mirrored`` on another backend.
    """
    if name == "none":
        return contextlib.nullcontext()
    if BACKEND != "tensorflow":
        raise InvalidArgument(f"--strategy {name} needs KERAS_BACKEND=tensorflow. Received: {BACKEND}")
    return _mirrored_strategy().scope()


def build_optimizer(model: Any, optimizer: Any = None) -> None:
    """Make the variables of an optimizer for a model, under the model's strategy, unless it has them.

    Keras makes them in the first step, which TensorFlow then traces a second time.

    Args:
        model: built ``keras.Model``.
        optimizer: default: the model's own.
    """
    optimizer = optimizer or model.optimizer
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's models have one
    if not optimizer.built:
        with strategy.scope() if strategy else contextlib.nullcontext():
            optimizer.build(model.trainable_variables)


@functools.cache
def _mirrored_strategy():
    """One for the process: a second one would count its collective operations again from the start, and mix them up."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def join_batch_statistics(model: Any, strategy: str) -> None:
    """Let batch norm see the whole batch under a strategy, as it does on one device.

    Args:
        model: built Keras model.
        strategy: as `strategy_scope` takes it.
    """
    for layer in keras_private.all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = strategy != "none"
