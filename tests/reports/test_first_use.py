"""Kind E: what a newcomer meets on README's way; kind F: the start."""

import csv
import dataclasses
import hashlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.pruning.models import numpy_state
from tests.reports.conftest import ROOT, SMALL, command
from tf_robustcomp import convert_cifar10, eval_rotations, prune_resnet_dns, run, train_compressor, train_resnet_random
from tf_robustcomp.cli import flags, startup
from tf_robustcomp.data.images import load_images
from tf_robustcomp.experiments import conversion
from tf_robustcomp.runs.directory import Run
from tf_robustcomp.scheduling import sweep

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

NETWORK = ["--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--batch-size=32", "--log-steps=2"]


# E4: the converter without a network; a user's own mnist.npz.


def test_e4_no_network_is_said_at_once(tmp_path, refused, monkeypatch):
    def unreachable(address, timeout):
        raise OSError(101, "Network is unreachable")

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(conversion.socket, "create_connection", unreachable)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    code = convert_cifar10.main([f"--out-dir={tmp_path / 'd'}"])
    refused(code, "no network reaches www.cs.toronto.edu", "Network is unreachable", "cifar-10-binary.tar.gz")


def test_e4_the_converter_keeps_files_that_it_did_not_make(tmp_path, refused):
    (tmp_path / "cifar10_test.tfrecord").write_text("mine")
    refused(convert_cifar10.main([f"--out-dir={tmp_path}"]), "cifar10_test.tfrecord is there already", "--force")


def test_e4_keras_does_not_replace_a_file_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    path = tmp_path / "datasets/mnist.npz"
    np.savez(path, x_train=np.zeros(3))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(rc.DataError, match="mnist.npz: not the file that Keras downloads"):
        load_images("mnist")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


# E5: all conflicts are found before any work.


def test_e5_run_finds_the_conflict_of_its_last_directory_first(tmp_path, refused):
    words = [*NETWORK, "--learning-rates=0.05,0.01", "--boundaries=3", "--train-steps=4", f"--train-dir={tmp_path}"]
    assert run.main(["train", "0", "4", *words, "--sparsities=0.5"]) == 0
    other = [*words, "--sparsities=0.3,0.5", "--update-steps=3"]
    refused(run.main(["train", "0", "4", *other]), "out-prune-0-5: trained with other settings", "--update-steps")
    assert not (tmp_path / "out-prune-0-3").exists()


def test_e5_a_column_that_no_table_has_is_refused_before_the_sweep(tmp_path, refused):
    words = ["train", *SMALL, "--sweep=seed=0:2", f"--train-dir={tmp_path / 's'}"]
    refused(train_compressor.main([*words, "--rank-by=quality"]), "--rank-by", "quality")
    assert not (tmp_path / "s").exists()


# E6: settings without effect.


def test_e6_settings_without_effect_are_refused(no_import, tmp_path, refused):
    train = ["train", "--data=digits", f"--train-dir={tmp_path / 'r'}"]
    refused(train_compressor.main([*train, "--gamma=0.1"]), "--gamma has no effect here", "--adversary=wasserstein")
    refused(train_compressor.main([*train, "--stage-dims=5,5"]), "--stage-dims has no effect", "successive_refinement")
    refused(train_compressor.main([*train, "--adversary=l2", "--gamma=1"]), "--gamma has no effect")
    refused(train_compressor.main([*train, "--epsilon=1", "--adversary=wasserstein"]), "--epsilon has no effect")
    refused(train_compressor.main([*train, "--warmup-epochs=2"]), "--warmup-epochs has no effect")
    refused(train_compressor.main([*train, "--rate-warmup-steps=2"]), "--rate-warmup-steps has no effect")
    cosine = ["--learning-rate-schedule=cosine", "--decay-epochs=3"]
    refused(train_compressor.main([*train, *cosine]), "--decay-epochs has no effect")
    prune = ["train", *NETWORK, "--rule=magnitude", f"--train-dir={tmp_path / 'p'}"]
    refused(prune_resnet_dns.main([*prune, "--threshold=exact"]), "--threshold has no effect here", "--rule=dns")


def test_e6_a_sweep_over_variants_takes_the_settings_of_all(tmp_path):
    words = [*SMALL, "--gamma=2", "--attack-steps=3", "--sweep=adversary=none,wasserstein", f"--train-dir={tmp_path}"]
    parsed = flags.parse(train_compressor.Settings, words)
    seen = []
    sweep_tasks(parsed, seen, tmp_path)
    assert [("gamma" in task.flags, task.name) for task in seen] == [
        (False, "adversary=none"),
        (True, "adversary=wasserstein"),
    ]


def sweep_tasks(parsed, seen, folder):
    """The tasks that a sweep would perform."""

    def perform(tasks, *arguments):
        seen.extend(tasks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweep.scheduler, "perform", perform)
        sweep.perform(
            "train_compressor",
            train_compressor.CompressorSettings,
            dataclasses.replace(parsed, words=("train",)),
            train_compressor.check,
        )


# E9: checks come before the import of Keras, and names of flag files are found.


@pytest.fixture
def no_import(monkeypatch):
    """A command that gets as far as the import fails."""

    def load(name):
        raise AssertionError(f"{name} was to be imported")

    monkeypatch.setattr(startup, "load", load)


def test_e9_what_is_missing_or_differs_is_said_before_the_import(no_import, trained, tmp_path, refused):
    data, own = str(tmp_path / "none.tfrecord"), f"--train-dir={tmp_path / 'r'}"
    refused(train_resnet_random.main(["train", f"--dataset={data}", own]), data, "download_and_convert_cifar10")
    refused(train_compressor.main(["train", f"--data={tmp_path / 'no.npz'}", own]), "no.npz: no such file")
    refused(train_compressor.main(["train", *SMALL, own, f"--warm-start={tmp_path}"]), "not a run directory")
    refused(prune_resnet_dns.main(["train", *NETWORK, own, f"--warm-start={tmp_path}"]), "holds no trained network")
    for main in (train_resnet_random.main, train_compressor.main, prune_resnet_dns.main):
        refused(main(["eval", own]), "not a run directory")
    refused(train_compressor.main(["train", *SMALL, "--width=8", f"--train-dir={trained}"]), "--width is 4 there, 8")
    refused(eval_rotations.main([f"--models={tmp_path}"]), "not a run directory")
    refused(eval_rotations.main([f"--models={trained}", "--data=cats.npz"]), "cats.npz: no such file")
    sweep = ["train", *SMALL, "--sweep=data=digits,none.npz", f"--train-dir={tmp_path / 's'}"]
    refused(train_compressor.main(sweep), "none.npz: no such file")
    assert not (tmp_path / "s").exists() and not (tmp_path / "r").exists()


def test_e9_flag_files_of_the_package_are_found_by_name(no_import, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    for words in (["--flagfile=compress_ae_wass_ball"], ["--flagfile", "compress_ae_wass_ball.cfg"]):
        refused(train_compressor.main(["train", *words, "--data=none.npz"]), "none.npz: no such file")
    refused(train_compressor.main(["train", "--flagfile=unknown"]), "unknown")


def test_e9_every_command_tells_its_version(capsys):
    assert train_compressor.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"tf_robustcomp {rc.__version__}"


# E10: a finished run goes on to a larger length, and ends as if it had never stopped.


def test_e10_a_finished_run_is_trained_on(tmp_path, capsys, refused):
    short, long = (tmp_path / name for name in ("short", "long"))
    for folder, epochs in ((short, 1), (short, 2), (long, 2)):
        assert train_compressor.main(["train", *SMALL, f"--epochs={epochs}", f"--train-dir={folder}"]) == 0
        if folder == short and epochs == 1:
            assert train_compressor.main(["eval", f"--train-dir={folder}", "--eval-images=4"]) == 0
    assert f"{short}: goes on from --epochs 1 to 2" in capsys.readouterr().out
    assert not (short / "eval_test.json").exists()  # of the shorter training
    ours, theirs = (numpy_state(Run(folder).load_model()) for folder in (short, long))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    rows = [list(csv.reader((folder / "metrics.csv").open())) for folder in (short, long)]
    assert rows[0] == rows[1]
    assert Run(short).config["settings"] == Run(long).config["settings"] | {"train_dir": str(short)}
    refused(train_compressor.main(["train", *SMALL, "--epochs=1", f"--train-dir={short}"]), "--epochs is 2")


def test_e10_a_schedule_that_depends_on_the_length_is_refused(tmp_path, refused):
    words = ["train", *SMALL, "--learning-rate-schedule=cosine", f"--train-dir={tmp_path}"]
    assert train_compressor.main(words) == 0
    refused(train_compressor.main([*words, "--epochs=2"]), "--epochs is 1.0 there, 2.0 here")


# F: the start.


def test_f_backends_are_named_in_one_line(tmp_path):
    for backend, said in (("bogus", "KERAS_BACKEND must be one of"), ("jax", "commands need TensorFlow")):
        done = command("train_compressor", "train", *SMALL, env={"KERAS_BACKEND": backend}, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("switches", [("-W", "error"), ("-OO",), ("-X", "dev")])
def test_f_switches_of_python_do_not_break_help(switches):
    done = command("train_compressor", "--help", python=switches)
    assert done.returncode == 0 and "--gamma" in done.stdout and not done.stderr, done.stderr


def test_f_paths_that_are_no_utf8_are_named(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    words = [sys.executable, "-m", "tf_robustcomp.train_compressor", "eval", b"--train-dir=" + folder]
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"not a run directory" in done.stderr
    os.mkdir(folder)
    words[-2:] = [b"train", *map(os.fsencode, SMALL), b"--train-dir=" + folder + b"/run"]
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 2 and b"a folder's path must be UTF-8" in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1 and not os.listdir(folder)


def test_help_answers_without_keras():
    began = time.monotonic()
    program = "import sys, tf_robustcomp.codec as c; c.main(['--help']); assert 'keras' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30


# E8: no start-up notices, no errors of the graph's optimiser ----------------------------------------------------------

ATTACKED = """
import tf_robustcomp as rc
from tf_robustcomp.data.images import load_images, resized
images = resized(load_images("digits").x_train[:64], 32)
model = rc.Compressor(latent_dim=3, width=8)
model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0, steps=3))
model.fit(images, verbose=0)
"""


def test_e8_the_python_api_prints_nothing():
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    words = [sys.executable, "-c", ATTACKED]
    result = subprocess.run(words, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_e8_a_closed_standard_error_ends_no_import():
    program = "import tf_robustcomp as rc; rc.WassersteinBall(gamma=1.0)"
    words = ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program]
    assert subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
