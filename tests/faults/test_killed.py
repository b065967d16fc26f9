"""Killed at random moments and started again, every entry point ends in the files of a run that was never killed."""

import functools
import signal
import time

import numpy as np
import pytest

from tests.faults import programs
from tests.faults.conftest import FULL
from tests.faults.programs import CLASSIFIER, COMPRESSOR, words
from tests.pruning.models import numpy_state
from tf_robustcomp.runs import directory as runs

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier and a compressor for the entry points that start from one."""
    folder = tmp_path_factory.mktemp("trained")
    jobs = [
        words(
            "train_resnet_random",
            "train",
            *CLASSIFIER,
            "--max-steps=6",
            "--learning-rates=0.05",
            "--boundaries=",
            f"--train-dir={folder / 'classifier'}",
        ),
        words(
            "train_compressor", "train", *COMPRESSOR, "--latent-dim=3", "--epochs=1", f"--train-dir={folder / 'code'}"
        ),
    ]
    for job in jobs:
        code, _, stderr = programs.run(job)
        assert code == 0, stderr[-1000:]
    return folder


PRUNED = ["--max-steps=24", "--ramp-steps=12", "--update-steps=3", "--checkpoint-steps=1"]
CLASSIFIED = ["--learning-rates=0.05,0.01", "--boundaries=8", "--checkpoint-steps=1"]
ATTACKED = ["--latent-dim=3", "--epochs=6", "--adversary=wasserstein", "--rho=5", "--attack-steps=2"]
TURNED = ["--augmentation=rotation", "--checkpoint-steps=1"]
ATTACKS = ["--data=digits", "--images=40", "--gammas=4,2,1", "--attack-steps=5", "--check-images=4"]
SWEPT = ["--train-steps=12", "--sparsities=0.5,0.8"]
SHORT = ("prune_resnet_dns", "train_compressor", "eval_wass_ball")
NAMES = (*SHORT, "train_resnet_random", "run", "eval_rotations", "codec", "compare_codecs") if FULL else SHORT


def commands(trained):
    """Entry points by name: a function of the folder for all that it writes, which gives the command."""
    start, code = f"--warm-start={trained / 'classifier'}", trained / "code"
    arguments = {
        "train_resnet_random": lambda out: [
            *("train", *CLASSIFIER, *CLASSIFIED, "--max-steps=24", "--proportion-random=0.5"),
            f"--train-dir={out}",
        ],
        "prune_resnet_dns": lambda out: [
            *("train", *CLASSIFIER, *PRUNED, "--target-sparsity=0.8", start),
            f"--train-dir={out}",
        ],
        "train_compressor": lambda out: ["train", *COMPRESSOR, *ATTACKED, *TURNED, f"--train-dir={out}"],
        "run": lambda out: [
            *("train", "0.5", "12", *CLASSIFIER, *CLASSIFIED, *SWEPT),
            *("--ramp-steps=6", "--update-steps=2", f"--train-dir={out}"),
        ],
        "eval_wass_ball": lambda out: [f"--models={code}", *ATTACKS, f"--output={out / 'w'}"],
        "eval_rotations": lambda out: [f"--models={code}", "--data=digits", "--angle-step=20", f"--output={out / 'r'}"],
        "codec": lambda out: ["encode", f"--model={code}", f"--out={out / 'digits.rcbs'}", "--resize", "digits"],
        "compare_codecs": lambda out: [
            *(f"--models={code}", "--data=digits", "--images=60", "--max-distortion=20", "--promise-images=10"),
            f"--output={out / 'c'}",
        ],
    }
    return {name: lambda out, name=name: words(name, *arguments[name](out)) for name in arguments}


def same(one, two):
    """Two directories hold the same results, bit for bit, and nothing left over."""
    names = [
        sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and "tfevents" not in path.name
        )
        for folder in (one, two)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith("model.keras"):
            first, second = (runs.Run((folder / name).parent).load_model() for folder in (one, two))
            for a, b in zip(numpy_state(first), numpy_state(second), strict=True):
                np.testing.assert_array_equal(a, b)
        elif name.endswith("config.json"):  # which says where the run is
            texts = [(folder / name).read_text().replace(str(folder), "HERE") for folder in (one, two)]
            assert texts[0] == texts[1]
        else:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_moments_it_ends_in_the_same_files(name, trained, tmp_path, amount):
    command = commands(trained)[name]
    straight = tmp_path / "straight"
    straight.mkdir()
    began = time.monotonic()
    code, _, stderr = programs.run(command(straight))
    assert code == 0, stderr[-1000:]
    took = time.monotonic() - began
    rng = np.random.default_rng()
    for trial in range(amount(1, 3)):
        killed = tmp_path / f"killed{trial}"
        killed.mkdir()
        survived = 0
        for _ in range(3):  # twice or more in one run, wherever it then stands
            code, stderr = programs.kill_after(command(killed), rng.uniform(0.4, 1.0) * took)
            assert code in (0, -signal.SIGKILL), stderr[-1000:]
            survived += code == 0
            if survived:
                break
        code, _, stderr = programs.run(command(killed))
        assert code == 0, stderr[-1000:]
        same(straight, killed)


def _any(folder, pattern):
    return list(folder.glob(pattern))


@pytest.mark.parametrize("moment", ["checkpoint", "final"])
def test_killed_while_it_saves(moment, trained, tmp_path, amount):
    command = commands(trained)["train_compressor"]
    straight = tmp_path / "straight"
    straight.mkdir()
    assert programs.run(command(straight))[0] == 0
    for trial in range(amount(1, 3)):
        killed = tmp_path / f"killed{trial}"
        killed.mkdir()
        pattern = ".tmp-*-checkpoint.keras" if moment == "checkpoint" else ".tmp-*-model.keras"
        code, stderr = programs.kill_when(command(killed), functools.partial(_any, killed, pattern))
        assert code in (0, -signal.SIGKILL), stderr[-1000:]
        code, _, stderr = programs.run(command(killed))
        assert code == 0, stderr[-1000:]
        same(straight, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(number, trained, tmp_path):
    command = commands(trained)["prune_resnet_dns"](tmp_path)
    code, stderr = programs.kill_when(command, lambda: (tmp_path / "metrics.csv").is_file(), number)
    assert code == 128 + number
    assert "run the same command again" in programs.one_line(stderr)
    assert runs.Run(tmp_path).resume(runs.load_model)[1].step > 0
