"""The desk of a reader."""

import pytest

from tests.docs.code import cut_training, write_photograph
from tf_robustcomp.utils import registry


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """An empty folder with a photograph; variants that a page registers are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    write_photograph(tmp_path)
    cut_training(monkeypatch)
