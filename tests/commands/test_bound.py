import csv
import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp import bound
from tf_robustcomp.cli.settings.bounds import BoundSettings
from tf_robustcomp.experiments import bounds
from tf_robustcomp.networks import compact_network

pytestmark = pytest.mark.tensorflow_only
SMALL = ["--data=digits", "--max-images=300", "--width=3", "--repeats=2", "--stages=1", "--epochs=0.5"]


def rows(folder):
    return list(csv.DictReader(Path(folder, "bounds.csv").read_text().splitlines()))


@pytest.mark.slow
def test_a_grid_is_paid_for_and_each_file_is_what_was_bounded(tmp_path, capsys):
    flags = [*SMALL, "--bit-weights=1,4", "--seeds=0,1", f"--train-dir={tmp_path}"]
    assert bound.main(flags) == 0
    found = rows(tmp_path)
    assert [row["network"] for row in found] == ["w1-s0", "w1-s1", "w4-s0", "w4-s1"]
    for row in found:
        file = tmp_path / row["network"] / "network.rcnb"
        assert float(row["bits"]) == rc.code_bits(file) + 7  # log2 of 4 points and 32 networks
        expected = rc.generalization_bound(float(row["training_error"]), float(row["bits"]), 300)
        assert float(row["bound"]) == pytest.approx(expected)
        assert row["verdict"] == "vacuous"
    assert (tmp_path / "bounds.png").is_file()
    first = capsys.readouterr().out
    assert "prior fixed before the data" in first and "values" in first and "choices 7.0 more" in first
    (hint,) = [line for line in first.splitlines() if line.startswith("vacuous: ")]
    assert "more examples" in hint and "--epochs" in hint
    assert bound.main(flags) == 0  # all runs have finished: the same table again
    assert "has finished" in capsys.readouterr().out and rows(tmp_path) == found


@pytest.mark.slow
def test_a_subspace_from_a_data_dependent_prior(tmp_path, capsys):
    flags = [*SMALL, "--method=subspace", "--dim=20", "--prior-share=0.5", "--prior-epochs=1", "--bit-weights=1,2"]
    assert bound.main([*flags, f"--train-dir={tmp_path}"]) == 0
    assert "prior from the first images: data-dependent" in capsys.readouterr().out
    assert [row["examples"] for row in rows(tmp_path)] == ["150", "150"]


@pytest.mark.slow
def test_training_starts_from_a_coded_network(tmp_path, capsys):
    assert bound.main([*SMALL, f"--train-dir={tmp_path / 'first'}"]) == 0
    file = tmp_path / "first/w3-s0/network.rcnb"
    settings = dataclasses.replace(BoundSettings(), width=3, repeats=2, stages=1, start=str(file))
    model = bounds._coded(None)(settings, 300, 10, (8, 8, 1), 10)
    for weight, expected in zip(model.get_weights(), rc.load_code(file).get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    capsys.readouterr()
    flags = [*SMALL, f"--start={file}", f"--train-dir={tmp_path / 'second'}"]
    assert bound.main([*flags, "--width=4"]) == 2  # a network of other sizes
    error = capsys.readouterr().err
    assert str(file) in error and error.count("\n") == 1
    assert bound.main(flags) == 0  # the refusal left nothing behind


def test_flags_that_are_refused_leave_the_folder_free_for_others(tmp_path, capsys):
    assert (
        bound.main([*SMALL, "--width=40", "--bit-weights=3", f"--train-dir={tmp_path}"]) == 2
    )  # of at most 25 filters
    assert "width must be at most 25" in capsys.readouterr().err
    assert bound.main([*SMALL, f"--train-dir={tmp_path}"]) == 0


@pytest.mark.slow
def test_a_prior_that_nothing_was_changed_of_is_called_a_held_out_test(tmp_path, capsys):
    # Of weights that moved far in 36 steps, one more step is less than a step size.
    flags = [*SMALL, "--prior-share=0.5", "--prior-epochs=18", "--bit-weights=1000", f"--train-dir={tmp_path}"]
    assert bound.main(flags) == 0
    assert "holds no change: a test on the held-out images" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "bits", "says"), [(0.95, 100, "no code is short enough"), (0.5, 2000, "below")])
def test_a_vacuous_bound_says_what_would_make_it_hold(error, bits, says, capsys):
    settings = BoundSettings()
    row = {"training_error": error, "chance": 0.9, "bits": bits, "examples": 1000, "verdict": "vacuous"}
    bounds._hint(settings, row)
    line = capsys.readouterr().out
    assert line.startswith("vacuous: ") and says in line and line.count("\n") == 1
    if says == "below":
        most, images = (int(word.replace(",", "")) for word in re.findall(r"[\d,]*\d", line))
        assert rc.generalization_bound(error, most - 1, 1000) < 0.9 < rc.generalization_bound(error, most + 1, 1000)
        assert rc.generalization_bound(error, bits, images + 1) < 0.9 < rc.generalization_bound(error, bits, images - 1)


@pytest.mark.parametrize("kind", [".keras", ".rcsm", ".rcnb"])
def test_networks_that_are_there_are_bounded_by_their_files(tmp_path, capsys, kind):
    sizes = {"width": 3, "repeats": 2, "stages": 1}
    model, path = compact_network((8, 8, 1), 10, **sizes), tmp_path / f"a{kind}"
    model.compile(rc.Quantize("adam", 100), "mse")
    model.optimizer.build(model.trainable_variables)
    if kind == ".rcnb":
        rc.save_code(model, path, sizes)
    elif kind == ".rcsm":
        rc.save_sparse(model, path)
    else:
        model.save(path)
    assert bound.main(["--data=digits", f"--model={path}"]) == 0
    assert "vacuous" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delta=0"], "delta"),
        (["--delta=1"], "delta"),
        (["--levels=4"], "--levels must be odd"),
        (["--seeds=1,1"], "--seeds must be numbers, each once"),
        (["--data=nowhere.npz"], "nowhere.npz"),
        (["--data=digits", "--model=nothing.rcnb"], "nothing.rcnb"),
        (["--data=digits", "--model=nothing.rcsm"], "nothing.rcsm"),
        (["--data=digits", "--model=nothing"], "nothing"),
        (["--data=digits", "--prior-share=0.0001"], "--prior-share"),
        (["--data=digits", "--start=nothing.rcnb"], "nothing.rcnb"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert bound.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_file_that_is_no_code_is_refused(tmp_path, capsys):
    (tmp_path / "a.rcnb").write_bytes(b"\x05hello there")
    assert bound.main(["--data=digits", f"--model={tmp_path / 'a.rcnb'}"]) == 2
    assert "not the code of a network" in capsys.readouterr().err


def test_a_network_of_other_images_is_refused(tmp_path, capsys):
    path = tmp_path / "a.keras"
    keras.Sequential([keras.Input((5, 5, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(path)
    assert bound.main(["--data=digits", f"--model={path}"]) == 2
    assert "(5, 5, 1)" in capsys.readouterr().err
