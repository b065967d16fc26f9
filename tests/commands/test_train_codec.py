"""Training of a codec for photographs through its entry point."""

import json

import numpy as np
import pytest
from PIL import Image

from tf_robustcomp import codec, train_codec
from tf_robustcomp.runs.directory import Run

pytestmark = pytest.mark.tensorflow_only

SMALL = ["--latents=16", "--widths=4,6,8", "--blocks=0,1,0", "--crop=64", "--batch-size=4", "--log-steps=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
        coarse.resize((160, 128), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def run(*words):
    return train_codec.main([str(word) for word in words])


def test_a_run_trains_resumes_evaluates_and_codes(folder, tmp_path, capsys):
    out = tmp_path / "run"
    words = [*SMALL, "--model=factorized", f"--data={folder}", f"--train-dir={out}"]
    assert run("train", *words, "--steps=4") == 0
    assert Run(out).finished
    assert run("train", *words, "--steps=4") == 0 and "has finished" in capsys.readouterr().out
    assert run("eval", f"--train-dir={out}") == 0
    entries = json.loads((out / "eval_test.json").read_text())["qualities"]
    assert set(entries) == {"0", "0.25", "0.5", "0.75", "1"}
    assert entries["1"]["psnr_db"] > entries["0"]["psnr_db"]
    picture = folder / "3.png"
    assert codec.main(["encode", str(picture), f"--model={out}", f"--out={tmp_path / 'x.rcbs'}"]) == 0
    assert codec.main(["decode", str(tmp_path / "x.rcbs"), f"--model={out}", f"--out={tmp_path / 'back'}"]) == 0
    assert Image.open(tmp_path / "back" / "3.png").size == (160, 128)


@pytest.mark.slow
def test_robust_fine_tuning_of_the_model_in_the_package(folder, tmp_path):
    words = ["--warm-start=photo", "--adversary=linf", "--epsilon=0.02", "--attack-steps=2", "--attacked=both"]
    small = ["--crop=64", "--batch-size=2", "--steps=2", "--log-steps=1"]
    assert run("train", *words, *small, f"--data={folder}", f"--train-dir={tmp_path / 'run'}") == 0
    assert Run(tmp_path / "run").load_model().latents == 256


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crop=100"], "--crop must be a multiple of 64"),
        (["--widths=3,4"], "--widths must be 3 numbers"),
        (["--data=nowhere"], "nowhere: no such file"),
        (["--warm-start=nowhere"], "nowhere: not a run directory"),
    ],
)
def test_wrong_flags_get_one_line(folder, tmp_path, capsys, words, message):
    given = [*SMALL, f"--data={folder}", f"--train-dir={tmp_path / 'run'}", *words]
    assert run("train", *given) == 2
    assert message in capsys.readouterr().err
