"""The network half's commands through their real entry points, on the embedded digits."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.pruning.models import numpy_state
from tf_robustcomp import plot_summary, prune_resnet_dns, run, train_resnet_random
from tf_robustcomp.data.images import load_images
from tf_robustcomp.experiments import classifier, summary
from tf_robustcomp.runs import directory as runs

pytestmark = pytest.mark.tensorflow_only

SMALL = ["--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--batch-size=32", "--log-steps=5"]
RATES = ["--learning-rates=0.05,0.01", "--boundaries=8"]
PRUNING = ["--ramp-steps=6", "--update-steps=2", "--threshold=exact"]


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two shares of random labels, two sparsities each, trained and evaluated by `run`."""
    folder = tmp_path_factory.mktemp("study")
    flags = [*SMALL, *RATES, *PRUNING, "--train-steps=12", "--sparsities=0.5,0.9", f"--train-dir={folder}"]
    for proportion in ("0", "0.3"):
        assert run.main(["train", proportion, "8", *flags]) == 0
        assert run.main(["eval", proportion, "8", *flags]) == 0
    return folder, flags


@pytest.mark.slow
def test_run_makes_the_published_directories_and_passes_over_what_has_finished(study, capsys):
    folder, flags = study
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("out-0", "out-prune-0-5", "out-prune-0-9"),
        *("out-30", "out-prune-30-5", "out-prune-30-9"),
    }
    assert run.main(["train", "0.3", "8", *flags]) == 0
    assert capsys.readouterr().out.count("has finished") == 3


@pytest.mark.parametrize(("momentum", "said"), [(0.9, "still 28% initial values"), (0.5, None)])
@pytest.mark.slow
def test_a_run_too_short_for_its_batch_norm_is_told_so(momentum, said, tmp_path, capsys):
    words = [*SMALL, f"--bn-momentum={momentum}", "--max-steps=12", *RATES, f"--train-dir={tmp_path / 'run'}"]
    assert train_resnet_random.main(["train", *words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "batch-norm averages" in line]
    assert len(lines) == (said is not None) and all(said in line for line in lines)
    norm = keras.layers.BatchNormalization(momentum=momentum)  # begins with a variance of 1
    for _ in range(12):
        norm(np.zeros((4, 1), "float32"), training=True)
    left = float(norm.moving_variance[0])
    assert said is None or f"{left:.0%}" in said
    assert (said is not None) == (left > classifier.LAGGING)


@pytest.mark.slow
def test_evaluation_agrees_with_a_computation_from_the_logits(study):
    from tf_robustcomp.data.random_labels import random_labels

    folder, _ = study
    digits = load_images("digits")
    model = runs.Run(folder / "out-prune-30-9").load_model()
    for split, images, labels in (("train", digits.x_train, digits.y_train), ("test", digits.x_test, digits.y_test)):
        results = json.loads((folder / "out-prune-30-9" / f"eval_{split}.json").read_text())
        logits = model.predict(images / np.float32(255), verbose=0).astype("float64")
        log_p = (
            logits
            - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            - logits.max(1, keepdims=True)
        )
        for kind, targets in (("true_labels", labels), ("random_labels", random_labels(labels, 0.3)[0])):
            own = np.take_along_axis(logits, targets[:, None], axis=1)
            assert results[kind]["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == targets), abs=2e-3)
            assert results[kind]["top5_recall"] == pytest.approx(np.mean((logits > own).sum(1) < 5), abs=2e-3)
            assert results[kind]["loss"] == pytest.approx(
                -np.take_along_axis(log_p, targets[:, None], 1).mean(), rel=1e-4
            )


def test_a_run_on_the_first_images_is_trained_and_evaluated_on_those(tmp_path):
    digits = load_images("digits")
    settings = train_resnet_random.Settings(dataset="digits", proportion_random=0.5, max_images=100)
    part = classifier.labelled_records(settings, "digits", "train")
    whole = classifier.labelled_records(dataclasses.replace(settings, max_images=0), "digits", "train")
    for some, every, source in zip(part, whole, (digits.x_train, None, digits.y_train), strict=True):
        np.testing.assert_array_equal(some, every[:100])
        assert source is None or np.array_equal(every, source)
    assert len(classifier.labelled_records(settings, "digits", "test")[0]) == len(digits.x_test)

    words = [*SMALL, *RATES, "--max-steps=2", "--max-images=100", f"--train-dir={tmp_path / 'out'}"]
    assert train_resnet_random.main(["train", *words]) == 0
    assert train_resnet_random.main(["eval", f"--train-dir={tmp_path / 'out'}"]) == 0
    assert json.loads((tmp_path / "out/eval_train.json").read_text())["records"] == 100
    start = f"--warm-start={tmp_path / 'out'}"
    assert prune_resnet_dns.main(["train", *SMALL, *PRUNING, start, f"--train-dir={tmp_path / 'pruned'}"]) == 2


@pytest.mark.slow
def test_pruned_runs_report_their_sparsity_as_the_weights_have_it(study):
    folder, _ = study
    for name, target in (("out-prune-0-5", 0.5), ("out-prune-30-9", 0.9)):
        model = runs.Run(folder / name).load_model()
        kernels = {v.path: v.numpy() for v in model.trainable_variables if v.name == "kernel"}
        results = json.loads((folder / name / "eval_train.json").read_text())
        assert results["sparsity_per_layer"] == {path: pytest.approx(np.mean(k == 0)) for path, k in kernels.items()}
        total = sum(int((k == 0).sum()) for k in kernels.values()) / sum(k.size for k in kernels.values())
        assert results["sparsity"] == pytest.approx(total) == pytest.approx(target, abs=0.02)


@pytest.mark.slow
def test_biases_and_batch_norm_rest_while_kernels_and_moving_statistics_move(study):
    folder, _ = study
    before = {v.path: v.numpy() for v in runs.Run(folder / "out-30").load_model().variables}
    after = {v.path: v.numpy() for v in runs.Run(folder / "out-prune-30-5").load_model().variables}
    for path, value in after.items():
        moves = path.split("/")[-1] in ("kernel", "moving_mean", "moving_variance")
        assert moves != np.array_equal(value, before[path]), path


@pytest.mark.slow
def test_metrics_and_learning_rates_are_those_of_the_schedules(study):
    folder, _ = study
    trained = rows(folder / "out-30" / "metrics.csv")
    assert [row["step"] for row in trained] == ["5", "10", "12"]
    assert [float(row["learning_rate"]) for row in trained] == pytest.approx([0.05, 0.01, 0.01])
    pruned = rows(folder / "out-prune-30-9" / "metrics.csv")
    assert float(pruned[0]["learning_rate"]) == pytest.approx(0.05 / (1 + 0.1 * 5 / 200))
    assert list((folder / "out-30" / "tensorboard").iterdir())


@pytest.mark.slow
def test_the_summary_gives_means_and_ranges_over_seeds(study, tmp_path, capsys):
    folder, flags = study
    other = tmp_path / "seed1"
    assert run.main(["train", "0.3", "8", *flags, "--seed=1", f"--train-dir={other}"]) == 0
    assert run.main(["eval", "0.3", "8", "--sparsities=0.5,0.9", f"--train-dir={other}"]) == 0
    capsys.readouterr()
    assert plot_summary.main([str(folder), str(other), f"--output={tmp_path / 'figure'}"]) == 0
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    table = {(row["proportion_random"], row["target_sparsity"]): row for row in rows(tmp_path / "figure.csv")}
    assert set(table) == {(p, s) for p in ("0.0", "0.3") for s in ("0.0", "0.5", "0.9")}
    found = [
        json.loads((place / "out-prune-30-5" / "eval_train.json").read_text())["random_labels"]["accuracy"]
        for place in (folder, other)
    ]
    row = table["0.3", "0.5"]
    assert row["seeds"] == "2"
    assert float(row["train_accuracy"]) == pytest.approx(np.mean(found), abs=1e-6)
    assert [float(row["train_accuracy_min"]), float(row["train_accuracy_max"])] == pytest.approx(
        sorted(found), abs=1e-6
    )


def test_a_run_tells_the_bits_that_its_accuracy_needs_and_those_of_its_file(tmp_path):
    one, other = (summary.Result(1.0, 0.9, 0.9, a, a, 0.1, 50000, 10, file_bits=a * 1e6) for a in (0.8, 1.0))
    (row,) = table = summary.summarise([one, other])
    assert row["least_bits"] == pytest.approx(rc.least_bits(0.1, 0.9, 50000)) and row["file_bits"] == 9e5
    (row,) = summary.summarise([summary.Result(1.0, 0.9, 0.9, 1.0, 1.0, 0.1)])  # of how many examples nobody knows
    assert row["least_bits"] == "" and row["file_bits"] == ""
    summary.draw(tmp_path / "figure.png", [*table, row], "trained on digits")


def needed_bits(row, accuracy):
    return summary.needed_bits(float(row["proportion_random"]), float(row[accuracy]), int(row["train_records"]))


@pytest.mark.parametrize("folder", ["randomisation", "randomisation/published-threshold"])
def test_no_committed_network_lies_below_the_least_bits_at_its_accuracy(folder):
    root = Path(__file__).parents[2] / "results" / folder
    pruned = [row for row in rows(root / "figures/summary.csv") if float(row["target_sparsity"])]
    assert len(pruned) == 25
    for row in pruned:
        assert float(row["least_bits"]) == pytest.approx(needed_bits(row, "train_accuracy"), abs=0.5)
        assert max(needed_bits(row, f"train_accuracy{end}") for end in ("", "_max")) < float(row["file_bits"]), row


def test_files_of_trained_networks_are_longer_than_those_that_stand_for_them():
    """The report has files of networks with as many nonzeros; `files/` has those of networks trained again."""
    root = Path(__file__).parents[2] / "results/randomisation"
    kind = ("proportion_random", "target_sparsity")
    remade = {tuple(row[name] for name in kind): row for row in rows(root / "figures/summary.csv")}
    trained = [row for row in rows(root / "files/summary.csv") if row["file_bits"]]
    assert {row["proportion_random"] for row in trained} >= {"0.0", "1.0"}
    for row in trained:
        stand_in = remade[tuple(row[name] for name in kind)]
        assert needed_bits(row, "train_accuracy") < float(stand_in["file_bits"]) < float(row["file_bits"]), row


@pytest.mark.parametrize("seeds", [3, 6, 20])
def test_the_summary_of_seeds_that_agree_is_their_accuracy(seeds, tmp_path):
    """A mean that rounding takes out of the range of its values would draw a bar of negative length."""
    for accuracy in np.random.default_rng(seeds).random(50).tolist():
        result = summary.Result(0.3, 0.9, accuracy, accuracy, accuracy, accuracy)
        (row,) = table = summary.summarise(seeds * [result])
        assert {row["train_accuracy"], row["test_accuracy"], row["sparsity"]} == {accuracy}
    summary.draw(tmp_path / "figure.png", table, "trained on digits")


def entry_point(name, *words):
    return [sys.executable, "-m", f"tf_robustcomp.{name}", *words]


def kill_after_rows(command, path, count, number):
    """Start a command, send the signal once metrics.csv has so many rows; gives the exit code."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.read_text().count("\n") > count:
            process.send_signal(number)
            break
        time.sleep(0.02)
    return process.wait()


@pytest.mark.slow
def test_a_run_killed_at_any_step_ends_in_the_same_bits(study, tmp_path):
    folder, _ = study
    flags = [*SMALL, *PRUNING, "--proportion-random=0.3", "--target-sparsity=0.8", f"--warm-start={folder / 'out-30'}"]
    flags += ["--max-steps=120", "--ramp-steps=60", "--log-steps=3", "--surgery-seed=5"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    command = ["train", *flags, "--checkpoint-steps=50"]
    assert prune_resnet_dns.main([*command, f"--train-dir={straight}"]) == 0
    words = entry_point("prune_resnet_dns", "train", *flags, "--checkpoint-steps=7", f"--train-dir={killed}")
    rng = np.random.default_rng()
    assert kill_after_rows(words, killed / "metrics.csv", rng.integers(3, 14), signal.SIGKILL) == -signal.SIGKILL
    assert kill_after_rows(words, killed / "metrics.csv", rng.integers(18, 30), signal.SIGTERM) == 128 + signal.SIGTERM
    assert prune_resnet_dns.main([*command, f"--train-dir={killed}"]) == 0
    assert (straight / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()
    one, two = runs.Run(straight).load_model(), runs.Run(killed).load_model()
    for a, b, variable in zip(
        numpy_state(one), numpy_state(two), (*one.variables, *one.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=variable.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [["--mixed-precision"], ["--jit-compile"], ["--strategy=mirrored"], ["--train-unpruned"], ["--threshold=quantile"]],
)
def test_every_switch_goes_through_the_entry_point(study, tmp_path, extra):
    folder, _ = study
    words = [*SMALL, *PRUNING, "--proportion-random=0.3", f"--warm-start={folder / 'out-30'}", "--max-steps=4"]
    assert prune_resnet_dns.main(["train", *words, *extra, f"--train-dir={tmp_path}"]) == 0
    assert prune_resnet_dns.main(["eval", f"--train-dir={tmp_path}"]) == 0


@pytest.mark.parametrize(
    ("main", "words", "named"),
    [
        (train_resnet_random.main, ["train"], "data/cifar10_train.tfrecord: no such file; make it with"),
        (train_resnet_random.main, ["train", "--model-size=57"], "--model-size must be 6n + 2"),
        (train_resnet_random.main, ["train", "--boundaries=5"], "--learning-rates must be one more"),
        (train_resnet_random.main, ["train", "--dataset=none.npz"], "none.npz: no such file"),
        (train_resnet_random.main, ["eval"], "out-0: not a run directory"),
        (
            prune_resnet_dns.main,
            ["train", "--proportion-random=0.3"],
            "train_resnet_random train --proportion-random 0.3",
        ),
        (prune_resnet_dns.main, ["train", "--target-sparsity=1"], "--target-sparsity must be in"),
        (prune_resnet_dns.main, ["train", "--train-dir=out-0"], "must differ"),
        (run.main, ["train", "2", "10"], "P must be a number"),
        (run.main, ["train", "0", "few"], "STEPS must be a number"),
        (run.main, ["train", "0", "5", "--max-steps=3"], "--max-steps"),
        (plot_summary.main, [], "no evaluated pruning"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(main, words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and "\n" not in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.slow
def test_evaluation_refuses_other_settings_and_needs_a_model(study, capsys):
    folder, _ = study
    assert train_resnet_random.main(["eval", f"--train-dir={folder / 'out-30'}", "--proportion-random=0.5"]) == 2
    assert "--proportion-random is 0.3 there, 0.5 here" in capsys.readouterr().err


@pytest.mark.slow
def test_pruning_refuses_a_start_with_other_labels(study, tmp_path, capsys):
    folder, _ = study
    words = ["train", *SMALL, "--proportion-random=0.5", f"--warm-start={folder / 'out-30'}", f"--train-dir={tmp_path}"]
    assert prune_resnet_dns.main(words) == 2
    assert "--proportion-random must be that of --warm-start" in capsys.readouterr().err
