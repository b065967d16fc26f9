"""Runs and pictures that the cases share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tf_robustcomp import train_compressor

ROOT = Path(__file__).parents[2]
SMALL = ["--data=digits", "--width=4", "--side=16", "--max-images=64", "--batch-size=16", "--log-steps=2"]
SMALL += ["--latent-dim=3", "--epochs=1"]


def command(name, *words, **options):
    """Run a command in a process; give its result."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    words = [sys.executable, *options.pop("python", ()), "-m", f"tf_robustcomp.{name}", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train_compressor.main(["train", *SMALL, f"--train-dir={folder}"]) == 0
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)).save(path)
    return path


@pytest.fixture
def refused(capsys):
    """Check that a command's main ended with one line that has all of these parts."""

    def check(code, *parts):
        lines = capsys.readouterr().err.strip().splitlines()
        error = "\n".join(line for line in lines if ": warning: " not in line)
        assert code == 2 and "\n" not in error, error
        for part in parts:
            assert str(part) in error, error

    return check
