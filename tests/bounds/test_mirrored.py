"""Two replicas of a MirroredStrategy, on logical CPU devices, in a process of their own."""

import json
import os
import subprocess
import sys

import pytest

TRAIN = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tf_robustcomp.backend.replicas import strategy_scope
from tests.bounds import test_optimizers as here
import tf_robustcomp as rc

sgd = lambda: keras.optimizers.SGD(0.05, momentum=0.9)
losses, weights, numbers, copies = [], [], [], []
for strategy in ("none", "mirrored"):
    keras.utils.set_random_seed(1)
    with strategy_scope(strategy):
        model = here.compiled(here.network(), eval(sys.argv[1]))
    data = tf.data.Dataset.from_tensor_slices(here.data()).batch(32)
    losses.append(model.fit(data, epochs=3, verbose=0).history["loss"])
    weights.append([w.ravel().tolist() for w in model.get_weights()])
    numbers.append([k.ravel().tolist() for k in model.optimizer.symbols()[0]])
for variable in model.trainable_variables:
    copies.append([part.numpy().tolist() for part in variable.value.values])
print(json.dumps([losses, weights, numbers, copies]))
"""


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    "optimizer",
    [
        "rc.Quantize(sgd(), 128, bit_weight=2)",
        "rc.Quantize(sgd(), 128, begin='model')",
        "rc.Subspace(sgd(), 128, dim=60, seed=3)",
    ],
)
def test_two_replicas_train_as_one_device_and_hold_identical_weights(optimizer):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, optimizer], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    losses, weights, numbers, copies = json.loads(done.stdout.splitlines()[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert numbers[0] == numbers[1] and any(map(any, numbers[0]))
    for one, other in zip(*weights, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert all(len(parts) == 2 and parts[0] == parts[1] for parts in copies)
