"""Schedules against tfmot's own objects and against their formula."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.pruning import schedules

# tfmot sets TF_USE_LEGACY_KERAS for its whole process, so it is asked in one of its own.
ASK_TFMOT = """
import json, sys
import tensorflow_model_optimization as tfmot, tensorflow as tf
cases, steps = json.loads(sys.argv[1])
schedules = [getattr(tfmot.sparsity.keras, kind)(**config) for kind, config in cases]
answers = [[schedule(tf.constant(step)) for step in range(steps)] for schedule in schedules]
print(json.dumps([
    {"config": schedule.get_config(), "answers": [[bool(u), float(s)] for u, s in given]}
    for schedule, given in zip(schedules, answers)
]))
"""
CASES = [
    ("PolynomialDecay", dict(initial_sparsity=0.0, final_sparsity=0.9, begin_step=0, end_step=150, frequency=50)),
    (
        "PolynomialDecay",
        dict(initial_sparsity=0.2, final_sparsity=0.7, begin_step=13, end_step=97, power=2.0),
    ),
    ("ConstantSparsity", dict(target_sparsity=0.6, begin_step=5, end_step=60, frequency=10)),
    ("ConstantSparsity", dict(target_sparsity=0.6, begin_step=0, end_step=-1, frequency=30)),
]


def answers(schedule, steps):
    values = [schedule(step) for step in range(steps)]
    return [bool(keras.ops.convert_to_numpy(u)) for u, _ in values], [
        float(keras.ops.convert_to_numpy(s)) for _, s in values
    ]


@pytest.mark.tensorflow_only
def test_every_step_of_a_run_equals_tfmots():
    steps = 200
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    command = [sys.executable, "-c", ASK_TFMOT, json.dumps([CASES, steps])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for theirs in json.loads(done.stdout.splitlines()[-1]):
        update_now, sparsity = answers(schedules.get(theirs["config"]), steps)
        # Beside tfmot's updates there is one where the rise ends: without it the last part of the rise is missing.
        config = theirs["config"]["config"]
        ends = config["end_step"] if "final_sparsity" in config else -1
        assert update_now == [u or step == ends for step, (u, _) in enumerate(theirs["answers"])]
        np.testing.assert_allclose(sparsity, [s for _, s in theirs["answers"]], atol=1e-6)


def test_polynomial_decay_follows_its_formula_at_the_edges():
    schedule = rc.PolynomialDecay(0.1, 0.8, 10, 20, power=3, frequency=5)
    update_now, sparsity = answers(schedule, 31)
    assert [step for step, now in enumerate(update_now) if now] == [10, 15, 20]
    expected = [0.8 + (0.1 - 0.8) * (1 - np.clip((t - 10) / 10, 0, 1)) ** 3 for t in range(31)]
    np.testing.assert_allclose(sparsity, expected, atol=1e-6)


def test_held_schedule_goes_on_updating_at_the_final_sparsity():
    update_now, sparsity = answers(rc.PolynomialDecay(0.0, 0.8, 0, 10, frequency=5, hold=True), 21)
    assert [step for step, now in enumerate(update_now) if now] == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(sparsity[10:], 0.8, rtol=1e-6)


def test_decay_that_ends_where_it_begins_jumps_to_the_final_sparsity():
    update_now, sparsity = answers(rc.PolynomialDecay(0.0, 0.8, 4, 4, frequency=1), 7)
    assert [step for step, now in enumerate(update_now) if now] == [4]
    np.testing.assert_allclose(sparsity, [0, 0, 0, 0, 0.8, 0.8, 0.8], atol=1e-6)


@pytest.mark.parametrize(
    "schedule", [rc.PolynomialDecay(0.1, 0.8, 3, 9, 2, 4, True), rc.ConstantSparsity(0.3, 1, 9, 2)]
)
def test_every_argument_survives_the_config(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(json.loads(json.dumps(config))) == schedule
    assert schedules.get(config) == schedule


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: rc.PolynomialDecay(0.0, 1.0, 0, 10), "final_sparsity"),
        (lambda: rc.PolynomialDecay(-0.1, 0.5, 0, 10), "initial_sparsity"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, 10, 9), "end_step"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, 0, -1), "end_step"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, -1, 9), "begin_step"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, 0, 9, frequency=0), "frequency"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, 0, 9, power=0), "power"),
        (lambda: rc.ConstantSparsity(1.2, 0), "target_sparsity"),
        (lambda: rc.ConstantSparsity(float("nan"), 0), "target_sparsity"),
        (lambda: rc.ConstantSparsity(0.5, 10, 9), "end_step"),
        (lambda: schedules.get(object()), "schedule"),
        (lambda: schedules.get({"class_name": "Cosine", "config": {}}), "schedule"),
    ],
)
def test_bad_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named) as error:
        make()
    assert isinstance(error.value, rc.Error)
    assert "\n" not in str(error.value)
