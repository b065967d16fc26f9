"""What a disk can do to a run: it is full, it may not be written, the directory goes."""

import os
import shutil
import subprocess
import time

import pytest

from tests.faults import programs
from tests.faults.programs import CLASSIFIER, COMPRESSOR, words
from tf_robustcomp.runs import directory as runs

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


def training(folder, *more):
    return words(
        "train_compressor",
        "train",
        *COMPRESSOR,
        "--latent-dim=3",
        "--checkpoint-steps=2",
        f"--train-dir={folder}",
        *more,
    )


def test_a_full_disk_leaves_the_last_checkpoint_and_is_named(tmp_path):
    assert programs.run(training(tmp_path, "--epochs=1"), timeout=240)[0] == 0
    size = (tmp_path / "model.keras").stat().st_size
    shutil.rmtree(tmp_path)
    # The metrics fit, the first checkpoint does not.
    code, _, stderr = programs.run(training(tmp_path, "--epochs=4"), preexec_fn=programs.limited_files(size // 2))
    assert code == 2
    line = programs.one_line(stderr)
    assert "checkpoint" in line and str(tmp_path) in line
    # With room again, it goes on and ends as if nothing had been.
    code, _, stderr = programs.run(training(tmp_path, "--epochs=4"))
    assert code == 0, stderr[-500:]
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_disk_that_fills_up_later_keeps_the_checkpoint_before(tmp_path):
    command = training(tmp_path, "--epochs=200")
    code, _ = programs.kill_when(command, lambda: (tmp_path / "checkpoint-previous.keras").is_file())
    step = runs.Run(tmp_path).resume(runs.load_model)[1].step
    size = (tmp_path / "checkpoint-previous.keras").stat().st_size  # the newest may not have its name yet
    code, _, stderr = programs.run(command, preexec_fn=programs.limited_files(size // 2))
    assert code == 2 and str(tmp_path) in programs.one_line(stderr)
    assert runs.Run(tmp_path).resume(runs.load_model)[1].step >= step > 0


@pytest.mark.parametrize("name", ["train_compressor", "train_resnet_random"])
def test_a_directory_that_may_not_be_written_is_named(name, tmp_path):
    if os.geteuid():
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    else:  # nothing is locked for root but what the kernel keeps
        folder = "/proc/sys/kernel"
    flags = COMPRESSOR if name == "train_compressor" else CLASSIFIER
    code, _, stderr = programs.run(words(name, "train", *flags, f"--train-dir={folder}/run"))
    line = programs.one_line(stderr)
    assert code == 2 and f"{folder}/run" in line


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    code, _, stderr = programs.run(training(tmp_path / "run", "--epochs=1"))
    assert code == 2 and f"{tmp_path / 'run'}" in programs.one_line(stderr)


def test_a_directory_that_vanishes_is_named(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        training(folder, "--epochs=500"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=programs.environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (folder / "checkpoint.keras").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    folder.rename(tmp_path / "gone")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 2
    line = programs.one_line(stderr)
    assert str(folder) in line
    assert runs.Run(tmp_path / "gone").resume(runs.load_model)[1].step > 0


@pytest.mark.parametrize("name", ["eval_rotations", "codec"])
def test_results_that_cannot_be_written_are_named(name, tmp_path):
    assert programs.run(training(tmp_path / "run", "--epochs=1"))[0] == 0
    flags = {
        "eval_rotations": [
            f"--models={tmp_path / 'run'}",
            "--data=digits",
            "--angle-step=180",
            "--output=/proc/none/r",
        ],
        "codec": ["encode", f"--model={tmp_path / 'run'}", "--out=/proc/none.rcbs", "digits", "--resize"],
    }
    code, _, stderr = programs.run(words(name, *flags[name]))
    assert code == 2 and "/proc/" in programs.one_line(stderr)
