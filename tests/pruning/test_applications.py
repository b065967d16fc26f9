"""Networks of keras.applications, each in a process with one thread, where the same steps give the same bits."""

import os
import subprocess
import sys

import pytest

from tests.pruning import zoo

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import keras, numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
import tf_robustcomp as rc
from tests.pruning import zoo

name, path = sys.argv[1:]
x, y = np.random.default_rng(0).random((2, 32, 32, 3), dtype="float32"), zoo.labels()[:2]

def trained(wrap, steps):
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = zoo.APPLICATIONS[name]()
    names = [layer.name for layer in model.layers]
    optimizer = wrap(keras.optimizers.SGD(0.01, momentum=0.9))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(), run_eagerly=True)
    for _ in range(steps):
        model.train_on_batch(x, y)
    assert [layer.name for layer in model.layers] == names
    return model

def same(one, two):
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)

# With zero sparsity, training is that without pruning.
never = lambda inner: rc.DNS(inner, rc.ConstantSparsity(0.8, 10**6))
for a, b in zip(trained(lambda inner: inner, 2).get_weights(), trained(never, 2).get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)

# The target is met to the weight; saved, loaded and gone on with, it is the same to the bit.
model = trained(lambda inner: rc.MagnitudePruning(inner, rc.ConstantSparsity(0.8, 0, frequency=1)), 1)
pruned = {id(p.variable) for p in model.optimizer.pruned}
for v in model.trainable_variables:
    kernel = v.path.split("/")[-1] in ("kernel", "depthwise_kernel")
    assert (id(v) in pruned) == kernel, v.path
    zeros = round(np.float32(0.8) * v.numpy().size) if kernel else 0
    assert not kernel or np.sum(v.numpy() == 0) == zeros, v.path
model.save(path)
loaded = keras.saving.load_model(path)
loaded.run_eagerly = True
for one, two in zip(model.variables, loaded.variables, strict=True):
    if "seed_generator" in one.path:  # Keras does not save where the random numbers of dropout stand
        two.assign(one)
for one in (model, loaded):
    one.train_on_batch(x, y)
same(model, loaded)
same(model.optimizer, loaded.optimizer)
"""


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", zoo.APPLICATIONS)
def test_they_are_pruned_saved_and_resumed_to_the_bit(name, tmp_path):
    words = [sys.executable, "-c", PROGRAM, name, str(tmp_path / "m.keras")]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
