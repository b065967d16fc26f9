"""Two replicas of a MirroredStrategy, on logical CPU devices, in a process of their own."""

import json
import os
import subprocess
import sys

import pytest

from tests.sampling import sampled

TRAIN = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_robustcomp as rc
from tf_robustcomp.backend.replicas import strategy_scope
from tests.pruning.models import compiled, dense_net, small_data

kind, schedule, pattern = sys.argv[1:]
losses, weights, masks = [], [], []
for strategy in ("none", "mirrored"):
    keras.utils.set_random_seed(1)
    with strategy_scope(strategy):
        optimizer = getattr(rc, kind)(keras.optimizers.SGD(0.05, momentum=0.9), eval(schedule), pattern=eval(pattern))
        model = compiled(dense_net(), optimizer)
    data = tf.data.Dataset.from_tensor_slices(small_data()).batch(16, drop_remainder=True)
    losses.append(model.fit(data, epochs=3, verbose=0).history["loss"])
    weights.append([w.tolist() for w in model.get_weights()])
    if strategy == "mirrored":
        for p in model.optimizer.pruned:
            masks.append([part.numpy().tolist() for part in p.mask.value.values])
    sparsity = rc.sparsity_report(model).total.sparsity
print(json.dumps([losses, weights, masks, sparsity]))
"""


RISING, CONSTANT = "rc.PolynomialDecay(0.0, 0.75, 0, 8, frequency=2)", "rc.ConstantSparsity(0.75, 0, frequency=2)"


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    ("kind", "schedule", "pattern"),
    sampled(
        [
            ("DNS", RISING, "None"),
            ("MagnitudePruning", RISING, "None"),
            ("RandomPruning", RISING, "None"),
            ("MovementPruning", RISING, "None"),
            ("RigL", CONSTANT, "None"),
            ("DNS", RISING, "rc.Channels(coupled=True)"),
            ("MovementPruning", RISING, "rc.Channels(coupled=True)"),
        ],
        *(0, 4, 5),
    ),
)
def test_two_replicas_train_as_one_device_and_hold_identical_masks(kind, schedule, pattern):
    words = [sys.executable, "-c", TRAIN, kind, schedule, pattern]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    losses, weights, masks, sparsity = json.loads(done.stdout.splitlines()[-1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, two in zip(*weights, strict=True):
        assert all(pytest.approx(row, abs=1e-5) == other for row, other in zip(one, two, strict=True))
    assert len(masks) == 2
    assert all(len(copies) == 2 and copies[0] == copies[1] for copies in masks)
    assert sparsity == pytest.approx(0.75, abs=0.01)
