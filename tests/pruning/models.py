"""Small models and data for the pruning tests."""

import keras
import numpy as np
from keras import layers

# A few steps cost less than the trace of one; JAX would compile each operation by itself.
EAGERLY = keras.backend.backend() != "jax"


def dense_net(activation="tanh"):
    """(n, 8) -> logits (n, 4), two dense layers."""
    first = layers.Dense(16, activation=activation, name="dense")
    return keras.Sequential([layers.Input((8,)), first, layers.Dense(4, name="dense_1")])


def small_data(seed=3, count=64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8)).astype("float32"), rng.integers(0, 4, size=count)


def compiled(model, optimizer, **options):
    model.compile(optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    return model


def numpy_state(model):
    return [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def kernels(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables if v.name == "kernel"]
