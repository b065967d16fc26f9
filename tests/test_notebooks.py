"""The notebooks run from top to bottom on the digits, and are committed with what they gave on real models."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands.test_train_compressor import SMALL
from tf_robustcomp import train_compressor

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    words = {"plain": ["--latent-dim=3"], "staged": ["--model=successive_refinement", "--warmup-epochs=0"]}
    for name, own in words.items():
        assert train_compressor.main(["train", *SMALL, "--epochs=1", f"--train-dir={folder / name}", *own]) == 0
    return ",".join(str(folder / name) for name in words)


def test_there_are_the_three_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"eval_wass_ball", "eval_rotations", "train_robust_compressor"}


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path, models, monkeypatch):
    small = {"MODELS": models, "DATA": "digits", "IMAGES": "40", "WIDTH": "4", "EPOCHS": "1", "PRUNING_EPOCHS": "4"}
    for name, value in (small | {"KERAS_BACKEND": "tensorflow", "MPLBACKEND": ""}).items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.delitem(os.environ, "MPLBACKEND")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_show_what_they_gave(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 1
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert "/home/" not in path.read_text() and "/work/" not in path.read_text() and "/tmp/" not in path.read_text()
