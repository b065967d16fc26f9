"""The data half's command through its real entry point, on the embedded digits."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.commands.test_randomisation_commands import entry_point, kill_after_rows
from tests.pruning.models import numpy_state
from tests.sampling import sampled
from tf_robustcomp import plot_reconstructions, train_compressor
from tf_robustcomp.cli import flags
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.runs import directory as runs

pytestmark = pytest.mark.tensorflow_only

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "flags_configs").glob("*.cfg")
    if path.name.startswith(("compress_ae", "structured"))
)
SMALL = ["--data=digits", "--width=4", "--side=16", "--max-images=64", "--batch-size=16", "--log-steps=2"]


def train(folder, *words):
    return train_compressor.main(["train", *SMALL, "--epochs=1", f"--train-dir={folder}", *words])


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standard")
    assert train(folder, "--latent-dim=3") == 0
    return folder


def test_there_is_a_flag_file_for_every_experiment_of_the_paper():
    assert {path.stem for path in CONFIGS} == {
        *("compress_ae_mnist_standard", "compress_ae_data_augmentation", "compress_ae_data_augmentation_rotation"),
        *("compress_ae_wass_ball", "compress_ae_rotations", "compress_ae_rotations_random", "structured"),
        *("structured_groupshift_rotation", "structured_residual", "structured_angle_pred"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_flag_file_trains(path, tmp_path, standard):
    text = path.read_text()
    changes = ["--eval-images=4"]
    changes += ["--attack-steps=2"] if "--adversary=wasserstein" in text else []
    changes += ["--warmup-epochs=0.2"] if "--model=successive_refinement" in text else []
    changes += [f"--warm-start={standard}"] if path.stem == "structured_residual" else []
    words = [f"--flagfile={path}", *SMALL, *changes, "--epochs=0.75", f"--train-dir={tmp_path}"]
    assert train_compressor.main(["train", *words]) == 0
    if path.stem in ("structured", "structured_angle_pred"):
        assert train_compressor.main(["eval", *words]) == 0
        results = json.loads((tmp_path / "eval_test.json").read_text())
        last = results["stage_2" if path.stem == "structured" else "stage_1"]
        assert last["rate_bits"] == pytest.approx(10 * np.log2(12))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["2", "3"]
    attacked = "--adversary" in text
    assert {"loss", "distortion", "rate"} <= set(rows[0])
    assert ("adversarial_distortion" in rows[0]) == attacked


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_flag_files_hold_the_published_settings(path):
    settings = flags.parse(train_compressor.Settings, [f"--flagfile={path}"]).settings
    structured = path.stem.startswith("structured") and path.stem != "structured_angle_pred"
    assert (settings.levels, settings.width, settings.side, settings.data) == (12, 64, 32, "mnist")
    assert (settings.learning_rate, settings.decay_epochs) == (2e-4, (20.0, 40.0))
    assert settings.epochs == (60 if structured else 50)
    assert settings.batch_size == (128 if settings.adversary == "rotation_search" else 64)
    assert (sum(settings.stage_dims) if structured else settings.latent_dim) == 10


@pytest.mark.slow
def test_evaluation_agrees_with_the_model_on_the_test_images(standard):
    assert train_compressor.main(["eval", f"--train-dir={standard}", "--eval-images=8"]) == 0
    images = resized(load_images("digits").x_test, 16)
    model = runs.Run(standard).load_model()
    expected = np.mean(np.sum((model.predict(images, verbose=0) - images) ** 2, axis=(1, 2, 3)))
    results = json.loads((standard / "eval_test.json").read_text())["stage_1"]
    assert results["clean"] == pytest.approx(expected, rel=1e-4)
    for attack in results["worst_case"].values():
        assert attack["distortion"] - attack["rho"] >= 0


@pytest.mark.slow
def test_a_killed_min_max_training_ends_in_the_same_bits(standard, tmp_path):
    words = [*SMALL, "--latent-dim=3", "--adversary=wasserstein", "--rho=5", "--attack-steps=2", "--epochs=40"]
    words += [f"--warm-start={standard}", "--adversary-seed=3"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train_compressor.main(["train", *words, f"--train-dir={straight}", "--checkpoint-steps=100"]) == 0
    command = entry_point("train_compressor", "train", *words, f"--train-dir={killed}", "--checkpoint-steps=9")
    rows = np.random.default_rng().integers(3, 30)
    assert kill_after_rows(command, killed / "metrics.csv", rows, signal.SIGKILL) == -signal.SIGKILL
    assert kill_after_rows(command, killed / "metrics.csv", 45, signal.SIGINT) == 128 + signal.SIGINT
    assert os.listdir(killed)
    assert train_compressor.main(["train", *words, f"--train-dir={killed}", "--checkpoint-steps=100"]) == 0
    assert (straight / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()
    one, two = runs.Run(straight).load_model(), runs.Run(killed).load_model()
    for a, b in zip(numpy_state(one), numpy_state(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("words", "model", "part"),
    sampled(
        [
            (["--latent-dim=3"], rc.Compressor, lambda model: model),
            (
                ["--model=successive_refinement", "--stage-dims=1,2"],
                rc.SuccessiveRefinement,
                lambda model: model.encoder,
            ),
            (["--model=residual", "--stage-dims=3,2"], rc.ResidualCompressor, lambda model: model.first),
            (["--model=rotation_aligned", "--latent-dim=5"], rc.RotationAligned, lambda model: model.upright),
        ],
        1,
    ),
)
@pytest.mark.slow
def test_a_warm_start_fills_the_part_that_has_its_form(standard, tmp_path, words, model, part):
    # A learning rate too small to move anything leaves what was started from.
    assert train(tmp_path, *words, f"--warm-start={standard}", "--learning-rate=1e-12") == 0
    trained, started = runs.Run(standard).load_model(), runs.Run(tmp_path).load_model()
    source = trained.encoder if model is rc.SuccessiveRefinement else trained
    assert type(started) is model
    kernels = [[v.numpy() for v in network.weights if v.path.endswith("kernel")] for network in (source, part(started))]
    assert len(kernels[0]) >= 5
    for a, b in zip(*kernels, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(
    "extra",
    sampled(
        [["--mixed-precision"], ["--jit-compile"], ["--strategy=mirrored"], ["--learning-rate-schedule=cosine"]], 0, 3
    ),
)
@pytest.mark.slow
def test_every_switch_goes_through_the_entry_point(tmp_path, extra):
    assert train(tmp_path, "--adversary=wasserstein", "--attack-steps=2", *extra) == 0


@pytest.mark.parametrize(
    "words", sampled([["l2", "--attack-steps=2"], ["linf", "--attack-steps=2"], ["rotation_random"]], 2)
)
@pytest.mark.slow
def test_every_adversary_goes_through_the_entry_point(tmp_path, words):
    assert train(tmp_path, f"--adversary={words[0]}", *words[1:]) == 0


@pytest.mark.slow
def test_reconstructions_are_drawn_or_refused_in_one_line(standard, tmp_path, capsys):
    output = tmp_path / "figure.png"
    words = [f"--models={standard}", "--data=digits", "--count=2", f"--output={output}"]
    assert plot_reconstructions.main(words) == 0
    assert output.stat().st_size > 5_000
    for words, named in ([], "--models must name"), ([f"--models={tmp_path}"], "not a run directory"):
        assert plot_reconstructions.main(words) == 2
        assert named in capsys.readouterr().err


def write_npz(path, **changes):
    images = np.zeros((4, 8, 8), "float32")
    arrays = {"x_train": images, "y_train": np.arange(4), "x_test": images, "y_test": np.arange(4)}
    np.savez(path, **(arrays | changes))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--latent-dim=0"], "--latent-dim must be >= 1"),
        (["--levels=1"], "--levels must be >= 2"),
        (["--gamma=0"], "--gamma must be > 0"),
        (["--gamma=nan"], "--gamma must be > 0"),
        (["--rho=-1"], "--rho must be > 0"),
        (["--side=20"], "--side must be a multiple of 16"),
        (["--adversary=evil"], "adversary"),
        (["--model=magic"], "model"),
        (["--augmentation=noise"], "needs --rho"),
        (["--model=residual"], "needs --warm-start"),
        (["--model=residual", "--stage-dims=1"], "--stage-dims must be 2"),
        (["--model=rotation_aligned", "--latent-dim=2"], "--latent-dim must be >= 3"),
        (["--flagfile=unknown.cfg"], "unknown.cfg"),
        (["--flagfile=bad.cfg"], "speed"),
        (["--data=none.npz"], "none.npz: no such file"),
        (["--data=cats"], "cats: no such file"),
        (["--data=high.npz"], "x_train must hold integers 0 to 255, or floats in [0, 1]"),
        (["--data=nan.npz"], "x_train must hold integers 0 to 255, or floats in [0, 1]"),
        (["--data=empty.npz"], "n > 0"),
        (["--warm-start=nowhere"], "not a run directory"),
    ],
)
def test_bad_input_is_one_line(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.cfg").write_text("--speed=3\n")
    write_npz("high.npz", x_train=np.full((4, 8, 8), 2.0))
    write_npz("nan.npz", x_train=np.full((4, 8, 8), np.nan))
    write_npz("empty.npz", x_train=np.zeros((0, 8, 8)), y_train=np.zeros(0, int))
    assert train_compressor.main(["train", *SMALL, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and "\n" not in error


def test_a_warm_start_that_does_not_fit_is_refused(standard, tmp_path, capsys):
    assert train(tmp_path, "--latent-dim=4", f"--warm-start={standard}") == 2
    assert "a Compressor of 3 latents and width 4 does not fit" in capsys.readouterr().err


def test_a_loss_that_explodes_stops_with_its_step(standard, tmp_path, capsys):
    words = ["--latent-dim=3", "--learning-rate=1e30", "--epochs=10", "--checkpoint-steps=1"]
    code = train(tmp_path, *words)
    if code:  # a saturated sigmoid may keep even this finite
        assert code == 2
        assert "the loss is" in capsys.readouterr().err
        assert runs.Run(tmp_path).resume(runs.load_model)
