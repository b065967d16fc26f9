"""The wheel, in an environment that holds nothing else, away from the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
OURS = ("PYTHONPATH", "KERAS_BACKEND", "PYTHONDONTWRITEBYTECODE")  # the last is a warning of the build
CLEAN = {name: value for name, value in os.environ.items() if name not in OURS}
NETWORK = "train_resnet_random train --dataset=digits --model-size=8 --batch-size=32 --max-steps=2 --train-dir=net"
DATA = "train_compressor train --data=digits --side=16 --width=4 --latent-dim=3 --epochs=0.1 --train-dir=codec"


def run(words, folder):
    done = subprocess.run(words, cwd=folder, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    said = run([sys.executable, "-m", "build", "--outdir", folder, ROOT], folder)
    return folder, said


def test_wheel_and_source_build_without_warnings_and_hold_the_licence(built):
    folder, said = built
    assert "warning" not in said.lower() and "deprecat" not in said.lower()
    names = zipfile.ZipFile(next(folder.glob("*.whl"))).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {"tf_robustcomp/py.typed", "tf_robustcomp/__init__.pyi"} <= set(names)
    models = {path.name for path in (ROOT / "tf_robustcomp" / "pretrained").glob("*.npz")}
    assert models and {f"tf_robustcomp/pretrained/{name}" for name in models} <= set(names)
    assert not [name for name in names if not name.startswith("tf_robustcomp")]
    with tarfile.open(next(folder.glob("*.tar.gz"))) as source:
        assert any(name.endswith("/LICENSE") for name in source.getnames())


def test_the_index_would_take_both(built, tmp_path):
    said = run([sys.executable, "-m", "twine", "check", "--strict", *built[0].iterdir()], tmp_path)
    assert said.count("PASSED") == 2


def test_the_wheel_runs_a_command_of_each_half_in_an_empty_environment(built, tmp_path):
    wheel = next(built[0].glob("*.whl"))
    run([sys.executable, "-m", "venv", "env"], tmp_path)
    run(["env/bin/pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel], tmp_path)
    assert "train_compressor" in run(["env/bin/robustcomp"], tmp_path)
    run(["env/bin/robustcomp", *NETWORK.split()], tmp_path)
    run(["env/bin/python", "-m", *f"tf_robustcomp.{DATA}".split()], tmp_path)
    assert (tmp_path / "net/model.keras").exists() and (tmp_path / "codec/model.keras").exists()
