"""Thousands of damaged files: each loads exactly or is refused with the package's own error."""

import json
import resource
import shutil

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.faults.programs import COMPRESSOR
from tf_robustcomp import train_compressor
from tf_robustcomp.cli import flags
from tf_robustcomp.data.images import load_images
from tf_robustcomp.data.tfrecord import read_records, write_records
from tf_robustcomp.evaluation import ShiftCurve
from tf_robustcomp.runs import directory as runs
from tf_robustcomp.runs.metrics import read_metrics

pytestmark = pytest.mark.tensorflow_only


def mutations(data, count, seed=0):
    """So many damaged forms of some bytes: flips, cuts, swaps, insertions, extreme fields, nothing at all."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        wrong = bytearray(data)
        at, other = (int(i) for i in rng.integers(0, max(len(data), 1), 2))
        kind = number % 7
        if kind == 0:
            wrong[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            del wrong[at:]
        elif kind == 2:
            wrong[at : at + 16], wrong[other : other + 16] = wrong[other : other + 16], wrong[at : at + 16]
        elif kind == 3:
            wrong[at : at + 8] = [b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7][rng.integers(3)]
        elif kind == 4:
            wrong[at:at] = rng.bytes(rng.integers(1, 40))
        elif kind == 5:
            start = int(rng.integers(0, min(64, len(data))))  # headers are at the front, or at the end of a ZIP
            wrong[start] ^= 1 << rng.integers(8)
        else:
            end = len(data) - 1 - int(rng.integers(0, min(200, len(data))))
            wrong[end] ^= 1 << rng.integers(8)
        yield bytes(wrong) if number else b""


def refused_or_equal(path, data, count, load, equal):
    """Load every mutation; gives how many were refused."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for wrong in mutations(data, count):
        path.write_bytes(wrong)
        try:
            loaded = load(path)
        except rc.Error as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert equal(loaded), "a damaged file was loaded as something else"
    path.write_bytes(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # in KiB: 1 GiB
    return refused


@pytest.mark.slow
def test_records(tmp_path, amount):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (4, 32, 32, 3), np.uint8), rng.integers(0, 10, 4)
    path = tmp_path / "a.tfrecord"
    write_records(path, images, labels)

    def equal(loaded):
        return np.array_equal(loaded[0], images) and np.array_equal(loaded[1], labels)

    assert refused_or_equal(path, path.read_bytes(), amount(80, 600), read_records, equal) > 0


def test_arrays(tmp_path, amount):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (5, 8, 8), np.uint8) for s in ("train", "test")}
    arrays |= {f"y_{s}": rng.integers(0, 10, 5) for s in ("train", "test")}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays)

    def equal(loaded):
        return all(np.array_equal(getattr(loaded, n).reshape(arrays[n].shape), arrays[n]) for n in arrays)

    assert refused_or_equal(path, path.read_bytes(), amount(140, 700), load_images, equal) > 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert train_compressor.main(["train", *COMPRESSOR, "--latent-dim=3", "--epochs=1", f"--train-dir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_models_of_a_run(trained, tmp_path, amount):
    shutil.copytree(trained, tmp_path / "run")
    run = runs.Run(tmp_path / "run")
    weights = run.load_model().get_weights()

    def equal(model):
        return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))

    data = run.model_path.read_bytes()
    assert refused_or_equal(run.model_path, data, amount(20, 150), lambda _: run.load_model(), equal) > 0


def test_settings_of_a_run(trained, tmp_path, amount):
    shutil.copytree(trained, tmp_path / "run")
    run = runs.Run(tmp_path / "run")
    data = run.config_path.read_bytes()
    own = train_compressor.Settings()
    words = [*COMPRESSOR, "--latent-dim=3", "--epochs=1"]
    settings = flags.parse(train_compressor.Settings, words).settings
    assert own != settings

    # Whatever is in there, the run is either refused or is the one of these settings.
    def load(path):
        run.check_settings("train_compressor", settings)

    assert refused_or_equal(run.config_path, data, amount(140, 400), load, lambda nothing: True) > 0


def test_tables(trained, tmp_path, amount):
    """A damaged metrics.csv gives a beginning of its rows, a damaged table of results is refused or equal."""
    path = tmp_path / "metrics.csv"
    data = b"step,loss\n" + b"".join(b"%d,%.3f\n" % (i, 1 / i) for i in range(1, 30))
    rows = len(data.splitlines()) - 1
    for wrong in mutations(data, amount(140, 400)):
        path.write_bytes(wrong)
        assert len(read_metrics(path)) <= rows + 20
    curve = rc.rotation_curve(lambda images: images * 0.5, np.full((3, 4, 4, 1), 0.5, "float32"), [0, 90])
    curve.to_csv(path)

    def known(loaded):  # a changed digit is another number, but never another kind of thing
        return isinstance(loaded, ShiftCurve) and loaded.columns() == curve.columns()

    assert refused_or_equal(path, path.read_bytes(), amount(70, 200), ShiftCurve.from_csv, known) > 0


def test_flag_files(tmp_path, amount):
    path = tmp_path / "a.cfg"
    data = b"# a comment\n--width=4\n--epochs=2\n--stage-dims=3,7\n--data=digits\n"

    def load(path):
        return flags.parse(train_compressor.Settings, [f"--flagfile={path}"]).settings

    assert refused_or_equal(path, data, amount(140, 500), load, lambda loaded: isinstance(loaded.width, int)) > 0


@pytest.mark.slow
def test_evaluations_that_are_damaged_are_made_again(trained, tmp_path, amount):
    from tf_robustcomp import eval_rotations

    words = [f"--models={trained}", "--data=digits", "--images=4", "--angle-step=180", f"--output={tmp_path / 'r'}"]
    assert eval_rotations.main(words) == 0
    csv, data = (tmp_path / "r.csv").read_text(), (tmp_path / "r.json").read_bytes()
    for wrong in mutations(data, amount(6, 30)):
        (tmp_path / "r.json").write_bytes(wrong)
        assert eval_rotations.main(words) == 0
        assert json.loads((tmp_path / "r.json").read_text())
        if (tmp_path / "r.csv").read_text() != csv:  # a digit of a result that nothing protects
            rc.ShiftCurve.from_csv(tmp_path / "r.csv")


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(trained, tmp_path, capsys):
    import keras

    with runs.open_run(tmp_path / "run", "train_compressor", train_compressor.Settings()) as run:
        run.begin()
        model = runs.load_model(trained / "model.keras")
        for step in (1, 2):
            run.save_checkpoint(model, runs.Progress(step))
        newest = run.checkpoint_paths[0]
        for wrong in mutations(newest.read_bytes(), 8, seed=3):
            newest.write_bytes(wrong)
            loaded, progress = run.resume(runs.load_model)
            assert isinstance(loaded, keras.Model) and progress.step in (1, 2)
        newest.write_bytes(b"nothing")
        assert run.resume(runs.load_model)[1].step == 1
        assert "trying the one before" in capsys.readouterr().out
