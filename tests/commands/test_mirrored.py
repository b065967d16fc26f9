"""Every trainer on two replicas (logical CPU devices, in a process of their own) against the same on one device."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

COMPRESSOR = ["--data=digits", "--width=4", "--side=16", "--max-images=64", "--batch-size=16", "--epochs=2"]
COMPRESSOR += ["--log-steps=2", "--checkpoint-steps=3"]
CLASSIFIER = ["--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--batch-size=32", "--log-steps=2"]
TRAINED = ["--learning-rates=0.05", "--boundaries=", "--max-steps=8", "--checkpoint-steps=3"]
PRUNED = ["--max-steps=8", "--ramp-steps=4", "--update-steps=2", "--threshold=exact", "--checkpoint-steps=3"]
STANDARD = [*COMPRESSOR, "--latent-dim=3"]
CASES = {
    "standard": ("train_compressor", STANDARD),
    "wasserstein": ("train_compressor", [*STANDARD, "--adversary=wasserstein", "--attack-steps=3"]),
    "tuned": ("train_compressor", [*STANDARD, "--adversary=wasserstein", "--attack-steps=3", "--rho=5"]),
    "l2": ("train_compressor", [*STANDARD, "--adversary=l2", "--attack-steps=3"]),
    "refinement": (
        "train_compressor",
        [*COMPRESSOR, "--model=successive_refinement", "--stage-dims=2,1", "--warmup-epochs=1", "--adversary=l2"],
    ),
    "classifier": ("train_resnet_random", [*CLASSIFIER, *TRAINED, "--proportion-random=0.5"]),
    "pruning": ("prune_resnet_dns", [*CLASSIFIER, *PRUNED, "--proportion-random=0.5"]),
}
OWN_DRAWS = {  # each replica searches, rotates or draws for itself
    "search": ("train_compressor", [*STANDARD, "--adversary=rotation_search"]),
    "aligned": ("train_compressor", [*STANDARD, "--model=rotation_aligned"]),
    "noise": ("train_compressor", [*STANDARD, "--augmentation=noise", "--rho=2"]),
}

PROGRAM = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import importlib
from tf_robustcomp.runs import directory as runs
from tf_robustcomp.utils.errors import Interrupted

out, cases = sys.argv[1], json.loads(sys.argv[2])

def train(name, folder, *more):
    entry, words = cases[name]
    words = words + ([f"--warm-start={out}/classifier-none"] if name == "pruning" else [])
    module = importlib.import_module("tf_robustcomp." + entry)
    return module.main(["train", *words, f"--train-dir={out}/{folder}", *more])

for name in cases:
    for strategy in ("none", "mirrored"):
        assert train(name, f"{name}-{strategy}", f"--strategy={strategy}") == 0

# Checkpoints are interchangeable: stopped after step 4 under one strategy, ended under the other.
save = runs.Run.save_checkpoint

def save_and_stop(self, model, progress):
    save(self, model, progress)
    raise Interrupted(15)

for name in ("standard", "classifier") if "standard" in cases else ():
    for first, second in (("none", "mirrored"), ("mirrored", "none")):
        runs.Run.save_checkpoint = save_and_stop
        assert train(name, f"{name}-{first}-{second}", f"--strategy={first}") == 143
        runs.Run.save_checkpoint = save
        assert train(name, f"{name}-{first}-{second}", f"--strategy={second}") == 0
"""


def perform(folder, cases):
    words = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(cases)]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return perform(tmp_path_factory.mktemp("mirrored"), CASES)


def rows(path):
    with open(path / "metrics.csv", newline="") as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_have_the_losses_of_one_device(name, trained):
    one, two = (np.asarray(rows(trained / f"{name}-{strategy}")) for strategy in ("none", "mirrored"))
    assert one.shape == two.shape and len(one) == 4
    np.testing.assert_allclose(two, one, rtol=2e-3)


def test_masks_are_those_of_one_device(trained):
    from tf_robustcomp.runs import directory as runs

    models = [runs.Run(trained / f"pruning-{strategy}").load_model() for strategy in ("none", "mirrored")]
    for one, two in zip(*(model.optimizer.pruned for model in models), strict=True):
        different = np.mean(one.mask.numpy() != two.mask.numpy())
        assert different < 0.01  # weights at the threshold, which rounding moves to either side


@pytest.mark.parametrize("name", ["standard", "classifier"])
def test_checkpoints_are_interchangeable(name, trained):
    straight = np.asarray(rows(trained / f"{name}-none"))
    for order in ("none-mirrored", "mirrored-none"):
        np.testing.assert_allclose(rows(trained / f"{name}-{order}"), straight, rtol=2e-3)


def test_what_draws_by_chance_trains_too(tmp_path):
    perform(tmp_path, OWN_DRAWS)
    for name in OWN_DRAWS:
        one, two = (np.asarray(rows(tmp_path / f"{name}-{strategy}")) for strategy in ("none", "mirrored"))
        assert np.isfinite(two).all() and two.shape == one.shape
