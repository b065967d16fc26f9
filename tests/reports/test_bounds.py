"""The committed bounds follow from the committed files and the figures beside them."""

from pathlib import Path

import pytest

import tf_robustcomp as rc
from tf_robustcomp.utils import table

FOLDER = Path(__file__).parents[2] / "results/bounds"
ROWS = [(path.stem, row) for path in sorted(FOLDER.glob("*.csv")) for row in table.read_csv(path)]


def test_there_are_results():
    assert {name for name, _ in ROWS} >= {"cifar10", "mnist", "mnist-prior", "random"}


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value if isinstance(value, str) else value["network"])
def test_the_bound_follows_from_the_bits_and_the_training_error(name, row):
    arguments = float(row["training_error"]), float(row["bits"]), int(row["examples"])
    assert rc.generalization_bound(*arguments) == pytest.approx(float(row["bound"]), abs=1e-6)  # bits have two decimals
    assert (row["verdict"] == "vacuous") == (float(row["bound"]) >= float(row["chance"]))
    assert float(row["test_error"]) < float(row["bound"])
    if name == "random":
        assert row["verdict"] == "vacuous" and float(row["bits"]) >= rc.least_bits(arguments[0], 0.9, arguments[2])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("networks/*.rcnb")), ids=lambda path: path.stem)
def test_every_file_is_no_longer_than_the_bound_was_given(path):
    name, _, seed = path.stem.partition("-s")
    (row,) = [row for study, row in ROWS if study == name and (not seed or row["network"].endswith(f"-s{seed}"))]
    assert rc.code_bits(path) <= float(row["bits"]) and rc.code_bits(path) == 8 * path.stat().st_size - 32
    assert rc.load_code(path).count_params() == (1066 if name == "cifar10" else 586)
