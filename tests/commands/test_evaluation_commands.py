"""The evaluating commands through their real entry points, on the embedded digits."""

import json
import shutil

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.commands.test_train_compressor import SMALL
from tests.sampling import sampled
from tf_robustcomp import codec, eval_rotations, eval_wass_ball, evaluation, train_compressor
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.runs import directory as runs

pytestmark = pytest.mark.tensorflow_only

ATTACK = ["--gammas=2,1", "--attack-steps=4", "--check-images=2", "--images=6", "--data=digits"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for name, words in {
        "plain": ["--latent-dim=3"],
        "staged": ["--model=successive_refinement", "--stage-dims=1,2", "--warmup-epochs=0"],
        "large": ["--latent-dim=3", "--side=32"],
    }.items():
        assert train_compressor.main(["train", *SMALL, "--epochs=0.5", f"--train-dir={folder / name}", *words]) == 0
    return folder


@pytest.mark.parametrize("attack", sampled(["ensemble", "converged", "paper"], 0))
@pytest.mark.slow
def test_worst_cases_of_several_runs_end_in_one_set_of_files(trained, tmp_path, attack, capsys):
    words = [f"--models={trained / 'plain'},{trained / 'staged'}", *ATTACK, f"--attack={attack}"]
    assert eval_wass_ball.main([*words, f"--output={tmp_path / 'sub' / 'w'}"]) == 0
    written = {path.name for path in (tmp_path / "sub").iterdir()}
    assert written == {"w.json", *(f"w{part}.{suffix}" for part in ("", "-rates") for suffix in ("csv", "png", "pdf"))}
    curve = rc.WorstCaseCurve.from_csv(tmp_path / "sub" / "w.csv")
    assert list(curve.lines()) == ["plain", "staged, stage 1", "staged, stage 2"]
    assert {row.attack for row in curve.rows} == {"none", attack}
    model = runs.Run(trained / "plain").load_model()
    images = resized(load_images("digits").x_test[:6], 16)
    expected = rc.worst_case_curve({"plain": model}, images, [2, 1], attack, steps=4, check=2)
    assert curve.line("plain")[2].distortion == pytest.approx(expected.rows[2].distortion, rel=1e-5)
    assert curve.table() in capsys.readouterr().out
    first = (tmp_path / "sub" / "w.png").read_bytes()
    assert eval_wass_ball.main([*words, f"--output={tmp_path / 'sub' / 'w'}"]) == 0
    assert (tmp_path / "sub" / "w.png").read_bytes() == first  # the points of every image are kept, too


@pytest.mark.slow
def test_an_encoder_that_scans_a_list_has_a_proved_ceiling_above_the_curve(trained, tmp_path, capsys):
    run = shutil.copytree(trained / "staged", tmp_path / "staged")
    assert codec.main(["fit-list", f"--model={run}", "--data=digits"]) == 0
    words = [f"--models={run}", "--encoder=list", *ATTACK, f"--output={tmp_path / 'w'}"]
    assert eval_wass_ball.main(words) == 0
    curve, band = (
        rc.WorstCaseCurve.from_csv(tmp_path / "w.csv"),
        rc.CertifiedCurve.from_csv(tmp_path / "w-certified.csv"),
    )
    assert list(band.lines()) == list(curve.lines()) == ["staged, stage 1", "staged, stage 2"]
    for label, rows in band.lines().items():
        assert rows[0].radius == 0 and rows[-1].radius == max(row.rho for row in curve.rows)
        for row in rows:
            assert curve.at(row.radius, label) - 1e-6 <= row.floor <= row.ceiling
    assert band.table() in capsys.readouterr().out


@pytest.mark.slow
def test_rotations_end_in_one_set_of_files(trained, tmp_path):
    words = [f"--models={trained / 'plain'},{trained / 'staged'}", "--labels=one,two", "--data=digits"]
    assert eval_rotations.main([*words, "--angle-step=90", f"--output={tmp_path / 'r'}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.csv", "r.png", "r.pdf"}
    curve = rc.ShiftCurve.from_csv(tmp_path / "r.csv")
    assert [row.strength for row in curve.line("one")] == [-180, -90, 0, 90, 180]
    assert {row.images for row in curve.rows} == {300}
    assert curve.line("one")[0].distortion == curve.line("one")[-1].distortion  # the same turn


def test_images_are_those_that_the_models_were_trained_on(trained, tmp_path, capsys):
    words = [f"--output={tmp_path / 'r'}", "--angle-step=180"]
    assert eval_rotations.main([f"--models={trained / 'plain'}", *words]) == 0
    curve = rc.ShiftCurve.from_csv(tmp_path / "r.csv")
    assert {row.images for row in curve.rows} == {len(load_images("digits").x_test)}
    other = tmp_path / "other"
    shutil.copytree(trained / "plain", other)
    config = json.loads((other / "config.json").read_text())
    config["settings"]["data"] = "mnist"
    (other / "config.json").write_text(json.dumps(config))
    assert eval_rotations.main([f"--models={trained / 'plain'},{other}", *words]) == 2
    assert "--data must be given where --models were trained on several: digits, mnist" in capsys.readouterr().err


@pytest.mark.slow
def test_only_what_changed_is_computed_again(trained, tmp_path, monkeypatch, capsys):
    measured = []
    true = evaluation.rotation_curve

    def counting(models, images, angles, progress, encoder):
        measured.extend(models)
        return true(models, images, angles)

    monkeypatch.setattr(evaluation, "rotation_curve", counting)
    plain, other = tmp_path / "plain", tmp_path / "other"
    shutil.copytree(trained / "plain", plain)
    shutil.copytree(trained / "plain", other)

    def run(*words):
        measured.clear()
        assert eval_rotations.main([*words, "--data=digits", f"--output={tmp_path / 'r'}"]) == 0
        return list(measured)

    assert run(f"--models={plain}", "--angle-step=90") == ["plain"]
    files = {path: path.read_bytes() for path in tmp_path.glob("r.*")}
    assert run(f"--models={plain}", "--angle-step=90") == []
    assert {path: path.read_bytes() for path in tmp_path.glob("r.*")} == files
    runs.Run(plain).load_model().save(plain / "model.keras")  # another file, the same model
    assert run(f"--models={plain},{other}", "--angle-step=90") == ["other"]
    assert run(f"--models={plain},{other}", "--angle-step=120") == ["plain", "other"]
    assert run(f"--models={plain},{other}", "--angle-step=120", "--images=9") == ["plain", "other"]
    model = runs.Run(other).load_model()
    model.decoder.weights[0].assign(np.zeros_like(model.decoder.weights[0]))
    model.save(other / "model.keras")
    assert run(f"--models={plain},{other}", "--angle-step=120", "--images=9") == ["other"]
    (tmp_path / "r.json").write_text(json.dumps({"plain": {"key": 3}, "other": []}))
    assert run(f"--models={plain},{other}", "--angle-step=120", "--images=9") == ["plain", "other"]


def test_an_interrupted_evaluation_keeps_the_models_it_has_done(trained, tmp_path, monkeypatch):
    true = evaluation.rotation_curve

    def failing(models, images, angles, progress, encoder):
        if "staged" in models:
            raise rc.DataError("the disk is on fire")
        return true(models, images, angles)

    words = [f"--models={trained / 'plain'},{trained / 'staged'}", "--data=digits", "--angle-step=180"]
    words.append(f"--output={tmp_path / 'r'}")
    monkeypatch.setattr(evaluation, "rotation_curve", failing)
    assert eval_rotations.main(words) == 2
    assert list(json.loads((tmp_path / "r.json").read_text())) == ["plain"]


@pytest.mark.parametrize("module", [eval_wass_ball, eval_rotations])
def test_bad_runs_are_one_line(module, trained, tmp_path, capsys):
    for words, named in (
        ([], "--models must name"),
        ([f"--models={tmp_path}"], "not a run directory"),
        ([f"--models={trained / 'plain'},{trained / 'plain'}"], "--labels must differ"),
        ([f"--models={trained / 'plain'}", "--labels=a,b"], "--labels must be as many"),
        ([f"--models={trained / 'plain'},{trained / 'large'}"], "--models must take images of one shape"),
        ([f"--models={trained / 'plain'}", "--data=none.npz"], "none.npz: no such file"),
        ([f"--models={trained / 'plain'}", "--images=-1"], "--images must be >= 0"),
    ):
        assert module.main(["--data=digits", f"--output={tmp_path / 'o'}", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert named in error and "\n" not in error, error


@pytest.mark.parametrize(
    ("module", "words", "named"),
    [
        (eval_wass_ball, ["--gammas=1,3,2"], "--gammas must be sorted"),
        (eval_wass_ball, ["--gammas=1,0"], "--gammas must be numbers > 0"),
        (eval_wass_ball, ["--gammas=1,x"], "--gammas must be numbers separated by commas"),
        (eval_wass_ball, ["--attack=weak"], "attack"),
        (eval_rotations, ["--angle-step=0"], "--angle-step must be in [0.1, 180]"),
        (eval_rotations, ["--angle-step=nan"], "--angle-step must be in [0.1, 180]"),
    ],
)
def test_bad_settings_are_one_line(module, words, named, trained, tmp_path, capsys):
    code = module.main([f"--models={trained / 'plain'}", "--data=digits", f"--output={tmp_path / 'o'}", *words])
    error = capsys.readouterr().err.strip()
    assert code == 2 and named in error and "\n" not in error
