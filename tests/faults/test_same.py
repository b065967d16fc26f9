"""The same command gives the same files; two commands at once do no harm; long runs do not grow."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.faults import programs
from tests.faults.programs import CLASSIFIER, COMPRESSOR, words
from tests.faults.test_killed import same
from tests.pruning.models import numpy_state
from tf_robustcomp.runs import directory as runs
from tf_robustcomp.runs import trainer as training
from tf_robustcomp.runs.metrics import read_metrics

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

CLASSIFIED = [*CLASSIFIER, "--max-steps=6", "--learning-rates=0.05", "--boundaries=", "--proportion-random=0.5"]
ATTACKED = [
    *COMPRESSOR,
    "--latent-dim=3",
    "--epochs=1",
    "--adversary=rotation_random",
    "--augmentation=noise",
    "--rho=2",
]


@pytest.mark.parametrize(("name", "flags"), [("train_resnet_random", CLASSIFIED), ("train_compressor", ATTACKED)])
def test_the_same_command_gives_the_same_files(name, flags, tmp_path):
    for folder in ("one", "two"):
        code, _, stderr = programs.run(
            words(name, "train", *flags, "--deterministic", f"--train-dir={tmp_path / folder}")
        )
        assert code == 0, stderr[-1000:]
    same(tmp_path / "one", tmp_path / "two")


@pytest.fixture(scope="module")
def by_seed(tmp_path_factory):
    """Final weights, first losses and settings of runs that differ in one seed each."""
    from tf_robustcomp import train_compressor

    folder = tmp_path_factory.mktemp("seeds")
    found = {}
    for seed in ("none", "seed", "order_seed", "adversary_seed"):
        out = folder / seed
        more = [] if seed == "none" else [f"--{seed}=7"]
        flags = [*ATTACKED, "--learning-rate=1e-12", "--log-steps=1", f"--train-dir={out}"]
        assert train_compressor.main(["train", *flags, *more]) == 0
        model = runs.Run(out).load_model()
        found[seed] = ([w.numpy() for w in model.trainable_variables], read_metrics(out / "metrics.csv"))
    return found


def test_a_seed_moves_only_what_it_names(by_seed):
    weights, rows = by_seed["none"]
    others = {name: by_seed[name] for name in ("seed", "order_seed", "adversary_seed")}
    for name, (found, _) in others.items():  # with so small a learning rate these are the initial weights
        moved = any(np.abs(a - b).max() > 1e-6 for a, b in zip(weights, found, strict=True))
        assert moved == (name == "seed"), name
    for name, (_, found) in others.items():
        assert found[0]["loss"] != rows[0]["loss"], name
    # The epoch's images are the same in another order: their mean clean distortion is, too.
    mean = [np.mean([row["distortion"] for row in by_seed[n][1]]) for n in ("none", "order_seed")]
    assert mean[0] == pytest.approx(mean[1], rel=0.05)


def test_a_second_process_in_one_directory_is_refused_and_evaluation_is_not(tmp_path):
    training_command = words("train_compressor", "train", *COMPRESSOR, "--latent-dim=3", "--epochs=3000",
                             "--checkpoint-steps=5", f"--train-dir={tmp_path / 'run'}")  # fmt: skip
    first = subprocess.Popen(
        training_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=programs.environment()
    )
    try:
        checkpoint = tmp_path / "run" / "checkpoint.keras"
        while not checkpoint.is_file() and first.poll() is None:
            pass
        code, _, stderr = programs.run(training_command)
        assert code == 2 and "another process trains in this directory" in programs.one_line(stderr)
        evaluation = words("eval_rotations", f"--models={tmp_path / 'run'}", "--data=digits", "--images=9",
                           "--angle-step=180", f"--output={tmp_path / 'r'}")  # fmt: skip
        code, out, stderr = programs.run(evaluation)
        assert code == 0 and "not finished; using its checkpoint" in out, stderr[-500:]
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


def test_two_conversions_into_one_folder_end_in_whole_files(tmp_path):
    from tests.commands.test_convert_cifar10 import members, write_archive
    from tf_robustcomp.data.tfrecord import is_complete, read_records

    archive = write_archive(tmp_path / "a.tar.gz", members(np.random.default_rng(0)))
    out = tmp_path / "out"
    command = [sys.executable, "tools/download_and_convert_cifar10.py", f"--source={archive}", f"--out-dir={out}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": programs.environment()}
    both = [subprocess.Popen(command, **quiet) for _ in "ab"]
    for process in both:
        _, stderr = process.communicate(timeout=240)
        assert process.returncode in (0, 2), stderr[-500:]
        assert "Traceback" not in stderr
    assert any(process.returncode == 0 for process in both)
    for name in ("cifar10_train.tfrecord", "cifar10_test.tfrecord"):
        assert is_complete(tmp_path / "out" / name)
        assert len(read_records(tmp_path / "out" / name)[0])


def test_a_long_run_does_not_grow(tmp_path, amount):
    """Tiny steps: memory after them all is that after the first tenth; the table has every row."""
    steps = amount(3000, 100_000)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    batch = (np.ones((2, 2), "float32"), np.ones((2, 1), "float32"))
    memory = []

    def batches():
        for number in range(steps + 1):
            if number in (steps // 10, steps - 1):
                memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)
            yield batch

    run = runs.Run(tmp_path, "test", None)
    training.train(run, model, runs.Progress(), batches(), steps, log_steps=10, checkpoint_steps=steps // 3)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(10, steps + 1, 10))
    (tmp_path / "memory.json").write_text(json.dumps(memory))
    print(f"memory after {steps // 10} and {steps} steps: {memory[0]:.0f} and {memory[-1]:.0f} MiB")
    assert memory[-1] - memory[0] < 60
    assert len(numpy_state(runs.load_model(tmp_path / "model.keras"))) == len(numpy_state(model))
    assert sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir()) < 2000 * len(rows) + 10_000
