"""Arrays of settings on the command line: every combination, one table."""

import csv
import itertools
import json

import pytest

from tests.commands.test_train_compressor import SMALL
from tf_robustcomp import train_compressor, train_resnet_random
from tf_robustcomp.cli.settings.compressors import CompressorSettings
from tf_robustcomp.scheduling import sweep
from tf_robustcomp.utils.errors import InvalidArgument

pytestmark = pytest.mark.tensorflow_only


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("gamma=0.36,1,1.5", ["0.36", "1", "1.5"]),
        ("seed=0:3", ["0", "1", "2"]),
        ("seed=7,0:2", ["7", "0", "1"]),
        ("stage-dims=3+7,7+3", ["3,7", "7,3"]),
        ("attack-method=paper,adaptive", ["paper", "adaptive"]),
    ],
)
def test_arrays_are_read_as_described(text, values):
    assert sweep._array(CompressorSettings, text)[1] == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep=colour=1"], "--sweep must be SETTING=VALUES"),
        (["--sweep=gamma"], "--sweep must be SETTING=VALUES"),
        (["--sweep=train-dir=a,b"], "--sweep must be SETTING=VALUES"),
        (["--sweep=gamma=1,1"], "each value once"),
        (["--sweep=gamma=1", "--sweep=gamma=2"], "each setting once"),
        (["--sweep=width=0,4"], "--width must be >= 1"),
        (["--sweep=width=four"], "width"),
    ],
)
def test_a_sweep_that_cannot_be_read_is_refused_before_anything_is_made(words, message, tmp_path, capsys):
    assert train_compressor.main(["train", *SMALL, *words, f"--train-dir={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_called_as_a_source_of_images_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "warm"):
        (tmp_path / name).write_text("")
    performed = []
    monkeypatch.setattr(sweep.scheduler, "perform", lambda tasks, *_: performed.extend(tasks))
    monkeypatch.setattr(train_compressor, "check", lambda action, parsed: None)
    words = ["train", *SMALL, "--data=digits", "--warm-start=warm", "--sweep=seed=0:2", "--train-dir=out"]
    assert train_compressor.main(words) == 0
    assert [task.flags["data"] for task in performed] == ["digits"] * 2
    assert [task.flags["warm_start"] for task in performed] == ["../warm"] * 2


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    words = [*SMALL, "--epochs=1", "--eval-images=5", "--sweep=latent-dim=2,3", "--sweep", "seed=0:2"]
    words += [f"--train-dir={folder}", "--rank-by=-test.stage_1.clean"]
    assert train_compressor.main(["train", *words]) == 0
    return folder, words


def rows(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_a_row_with_its_settings_and_figures(swept):
    folder, _ = swept
    table = rows(folder)
    assert {(row["latent_dim"], row["seed"]) for row in table} == set(itertools.product("23", "01"))
    for row in table:
        run = folder / f"latent-dim={row['latent_dim']},seed={row['seed']}"
        evaluated = json.loads((run / "eval_test.json").read_text())
        assert float(row["test.stage_1.clean"]) == evaluated["stage_1"]["clean"]
        assert row["width"] == "4"


def test_the_table_is_ranked(swept):
    clean = [float(row["test.stage_1.clean"]) for row in rows(swept[0])]
    assert clean == sorted(clean, reverse=True)


def test_the_same_command_passes_over_what_has_finished(swept, capsys):
    _, words = swept
    assert train_compressor.main(["train", *words]) == 0
    assert "4 of 4 tasks have finished already" in capsys.readouterr().out


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(InvalidArgument, match="one of clean, seed. Received: noisy"):
        sweep.ranked([{"seed": 1, "clean": 2.0, "data": "digits"}], "noisy")
    assert sweep.ranked([{"a": 2}, {}, {"a": 1}], "a") == [{"a": 1}, {"a": 2}, {}]


def test_classifiers_are_swept_too_from_a_flag_file(tmp_path):
    (tmp_path / "flags.cfg").write_text("--sweep=proportion-random=0,1\n--sweep=seed=5\n--model-size=8\n")
    words = ["--dataset=digits", "--max-steps=2", "--learning-rates=0.1", "--boundaries=", "--batch-size=16"]
    words += [f"--flagfile={tmp_path / 'flags.cfg'}", f"--train-dir={tmp_path / 'out'}"]
    assert train_resnet_random.main(["train", *words]) == 0
    assert {(row["proportion_random"], row["seed"]) for row in rows(tmp_path / "out")} == {("0.0", "5"), ("1.0", "5")}


def test_an_address_is_one_clear_line(capsys):
    words = ["train", *SMALL, "--sweep=seed=0:2", "--train-dir=s3://bucket/study"]
    assert train_compressor.main(words) == 2
    assert "a folder must be a path" in capsys.readouterr().err


def test_a_second_driver_is_refused(tmp_path, capsys):
    from tf_robustcomp.utils import files

    with files.locked(tmp_path / ".lock", ""):
        assert train_compressor.main(["train", *SMALL, "--sweep=seed=0:2", f"--train-dir={tmp_path}"]) == 2
    assert "another process performs a study here" in capsys.readouterr().err
