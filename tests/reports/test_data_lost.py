"""Kind A: data is destroyed or lost."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.reports.conftest import ROOT, SMALL, command
from tf_robustcomp import (
    codec,
    compare_codecs,
    eval_rotations,
    eval_wass_ball,
    plot_reconstructions,
    plot_summary,
    reproduce,
    train_compressor,
    train_resnet_random,
)
from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.compressors import CompressorSettings
from tf_robustcomp.data import pictures
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import files

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


# A1 (mozilla/mozjpeg 248): nothing that the user may want to keep is written over.


def test_a1_encode_writes_over_no_input_and_no_other_output(trained, photo, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, model = photo.read_bytes(), f"--model={trained}"
    refused(codec.main(["encode", model, "--out=photo.rcbs", "--quality-report=photo.csv", "photo.png"]), "photo.png")
    refused(codec.main(["encode", model, "--out=photo.png", "photo.png", "--force"]), "photo.png is an input")
    (tmp_path / "link.png").symlink_to(photo)
    refused(codec.main(["encode", model, "--out=link.png", "photo.png", "--force"]), "link.png is an input")
    refused(codec.main(["encode", model, "--out=o.csv", "--quality-report=o.csv", "photo.png"]), "written twice")
    refused(codec.main(["encode", model, f"--out={trained}/config.json", "photo.png", "--force"]), "is an input")
    (tmp_path / "letter.txt").write_text("dear")
    refused(codec.main(["encode", model, "--out=letter.txt", "photo.png"]), "letter.txt is there already", "--force")
    assert photo.read_bytes() == before and (tmp_path / "letter.txt").read_text() == "dear"
    assert codec.main(["encode", model, "--out=photo.rcbs", "--quality-report=q.csv", "photo.png"]) == 0
    assert codec.main(["encode", model, "--out=photo.rcbs", "--quality-report=q.csv", "photo.png"]) == 0  # its own
    assert codec.main(["encode", model, "--out=letter.txt", "--force", "photo.png"]) == 0


def test_a1_decode_keeps_the_original_picture(trained, photo, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, model = photo.read_bytes(), f"--model={trained}"
    np.save("stack.npy", np.zeros((2, 16, 16), np.uint8))
    assert codec.main(["encode", model, "--out=orig.rcbs", "photo.png", "stack.npy"]) == 0
    refused(codec.main(["decode", model, "--out=.", "orig.rcbs"]), "photo.png is there already", "--force")
    assert photo.read_bytes() == before
    assert codec.main(["decode", model, "--out=back", "orig.rcbs"]) == 0
    refused(codec.main(["decode", model, "--out=back", "orig.rcbs"]), "stack.npy is there already")
    assert codec.main(["decode", model, "--out=back", "--force", "orig.rcbs"]) == 0


@pytest.mark.parametrize(
    ("main", "output", "suffix"),
    [
        (eval_wass_ball.main, "worst", "-rates.png"),
        (eval_rotations.main, "angles", ".json"),
        (compare_codecs.main, "sizes", "-promise.csv"),
        (plot_reconstructions.main, "drawn.png", ""),
    ],
)
def test_a1_evaluations_write_over_no_file_that_they_did_not_make(main, output, suffix, trained, tmp_path, refused):
    path = tmp_path / f"{output}{suffix}"
    path.write_text("mine")
    refused(main([f"--models={trained}", f"--output={tmp_path / output}", "--images=2"]), path, "--force")
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a1_a_figure_of_ones_own_is_drawn_again(trained, tmp_path):
    words = [f"--models={trained}", f"--output={tmp_path / 'd.png'}", "--count=1"]
    assert plot_reconstructions.main(words) == 0 and plot_reconstructions.main(words) == 0


def test_a1_summary_study_and_run_leave_what_others_made(tmp_path, refused):
    (tmp_path / "summary.csv").write_text("a,b\n")
    refused(plot_summary.main([str(tmp_path), f"--output={tmp_path / 'summary'}"]), "summary.csv", "--force")
    (tmp_path / "report.md").write_text("my report")
    refused(reproduce.main(["robust", f"--out={tmp_path}"]), "report.md", "choose another folder")
    refused(reproduce.main(["robust", f"--out={tmp_path / 'o'}", f"--export={tmp_path}"]), "report.md")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.csv").write_text("1,2\n")
    refused(train_compressor.main(["train", *SMALL, f"--train-dir={tmp_path / 'mine'}"]), "metrics.csv", "config.json")
    refused(train_compressor.main(["train", *SMALL, f"--train-dir={tmp_path}", "--sweep=seed=0:2"]), "report.md")
    assert (tmp_path / "mine/metrics.csv").read_text() == "1,2\n"


# A2: names of files.

NAMES = [
    "Screenshot 10.30\u202fPM.png",
    "no\u00a0break.png",
    "soft\u00adhyphen.png",
    "tab\t.png",
    "line\n.png",
    "\u0061\u0301.png",
    "%s {}.png",
    "-out.png",
    "x" * 251 + ".png",
    os.fsdecode(b"latin\xe9.png"),
]


def test_a2_every_name_that_the_file_system_takes_comes_back(trained, tmp_path, capsys):
    source, back = tmp_path / "in", tmp_path / "back"
    source.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(source / name, "png")
    report = f"--quality-report={tmp_path / 'q.csv'}"
    assert codec.main(["encode", f"--model={trained}", f"--out={tmp_path / 'a.rcbs'}", report, str(source)]) == 0
    assert codec.main(["decode", f"--model={trained}", f"--out={back}", str(tmp_path / "a.rcbs")]) == 0
    assert codec.main(["info", str(tmp_path / "a.rcbs")]) == 0
    assert "\\t" in capsys.readouterr().out
    assert sorted(os.listdir(back)) == sorted(NAMES)


def test_a2_names_of_temporary_files_never_appear(tmp_path):
    path = tmp_path / "gone" / "a.txt"
    with pytest.raises(OSError) as error:
        files.write_text(path, "x")
    assert error.value.filename == str(path)


def test_a2_pictures_of_one_name_keep_their_folders(trained, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("L", (16, 16), 100).save(tmp_path / folder / "photo.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "b/photo.jpg")
    sources = [str(tmp_path / name) for name in ("a/photo.png", "b/photo.png", "b/photo.jpg")]
    assert list(pictures.find(sources)) == ["a/photo.png", "b/photo.png", "b/photo.jpg.png"]
    assert codec.main(["encode", f"--model={trained}", f"--out={tmp_path / 'o.rcbs'}", *sources]) == 0
    assert codec.main(["decode", f"--model={trained}", f"--out={tmp_path / 'back'}", str(tmp_path / "o.rcbs")]) == 0
    assert sorted(str(p.relative_to(tmp_path / "back")) for p in (tmp_path / "back").rglob("*.png")) == [
        "a/photo.png",
        "b/photo.jpg.png",
        "b/photo.png",
    ]


# A3: a task without its results is due again.


@pytest.mark.parametrize("damage", [None, "{", "[1, 2]", "[" * 50_000])
def test_a3_a_sweep_evaluates_again_what_is_missing_or_damaged(damage, tmp_path, capsys, monkeypatch):
    ran = []

    def perform(tasks, folder, pool):
        for task in tasks:
            if not task.done(folder, "k"):
                ran.append(task.name)
                (folder / task.name).mkdir(exist_ok=True)
                own = flags.parse(CompressorSettings, [*SMALL, f"--{task.name}"]).settings
                run = {"command": "train_compressor", "settings": dataclasses.asdict(own)}
                files.write_json(folder / task.name / "config.json", run)
                files.write_json(folder / task.name / "eval_test.json", {"clean": 1.0})
                (folder / task.name / "model.keras").touch()
                (folder / "tasks").mkdir(exist_ok=True)
                files.write_json(folder / task.path(".json"), {"key": "k", "seconds": 1.0})

    monkeypatch.setattr("tf_robustcomp.scheduling.scheduler.perform", perform)
    words = ["train", *SMALL, "--sweep=seed=0:2", f"--train-dir={tmp_path / 's'}"]
    assert train_compressor.main(words) == 0 and ran == ["seed=0", "seed=1"]
    evaluation = tmp_path / "s/seed=1/eval_test.json"
    evaluation.unlink() if damage is None else evaluation.write_text(damage)
    assert train_compressor.main(words) == 0 and ran == ["seed=0", "seed=1", "seed=1"]
    assert len((tmp_path / "s/sweep.csv").read_text().splitlines()) == 3


# A4: lost output, and every signal that asks to stop.


def test_a4_a_reader_that_goes_away_does_not_end_the_training(tmp_path):
    words = [sys.executable, "-m", "tf_robustcomp.train_compressor", "train", *SMALL, f"--train-dir={tmp_path / 'r'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(300) == 0 and process.stderr.read() == b""
    assert (tmp_path / "r/model.keras").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a4_a_full_disk_behind_the_output_is_named_after_the_work():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tf_robustcomp.codec", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr == "codec: error: standard output: No space left on device\n"


def test_a4_help_into_head_is_quiet():
    program = f"{sys.executable} -m tf_robustcomp.train_compressor --help | head -1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("Train") and not done.stderr


def test_a4_a_closed_terminal_saves(tmp_path):
    words = [*SMALL, "--epochs=500", f"--train-dir={tmp_path / 'r'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tf_robustcomp.train_compressor", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where the tests run under nohup
    )
    while "step 2/" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP and "stopped by SIGHUP" in error
    assert (tmp_path / "r/checkpoint.keras").is_file()


# A5: whoever writes into a run directory holds its lock.


def test_a5_fit_waits_for_no_other_writer_and_removes_nothing_of_one_that_lives(trained, tmp_path, refused):
    run = shutil.copytree(trained, tmp_path / "run")
    with files.locked(run / ".lock", "busy"):
        refused(codec.main(["fit", f"--model={run}", "--data=digits"]), "another process trains here")
    with files.replacing(run / "eval_test.json") as temporary:
        temporary.write_text("{}")
        files.remove_leftovers(run)
        assert temporary.exists()
    left = run / temporary.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    left.write_text("")
    files.remove_leftovers(run)
    assert not left.exists()
    assert codec.main(["fit", f"--model={run}", "--data=digits"]) == 0


# A6: the data behind a run are the same data.


def _digits(path, seed):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (64, 8, 8, 1), np.uint8), rng.integers(0, 10, 64)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])


def test_a6_a_replaced_data_file_is_refused_on_resume_and_in_eval(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _digits("d.npz", 0)
    words = ["--dataset=d.npz", "--model-size=8", "--batch-size=16", "--max-steps=4", "--train-dir=net"]
    assert train_resnet_random.main(["train", *words]) == 0
    assert train_resnet_random.main(["eval", "--train-dir=net"]) == 0
    codes = ["--data=d.npz", *SMALL[1:], "--train-dir=codec"]
    assert train_compressor.main(["train", *codes]) == 0
    _digits("d.npz", 1)
    refused(train_resnet_random.main(["eval", "--train-dir=net"]), "net: its train data have changed")
    refused(train_compressor.main(["eval", "--train-dir=codec", "--eval-images=4"]), "codec: its test data have")
    (tmp_path / "net/model.keras").rename(tmp_path / "net/checkpoint.keras")
    refused(train_resnet_random.main(["train", *words]), "net: its train data have changed")


# A7: too little memory.


@pytest.mark.skipif(sys.platform == "win32", reason="needs ulimit")
def test_a7_a_limit_below_what_tensorflow_needs_is_one_line(tmp_path):
    words = f"ulimit -v 1500000; exec {sys.executable} -m tf_robustcomp.train_compressor train --data=digits"
    began = time.monotonic()
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 2 and "ulimit -v" in done.stderr and done.stderr.count("\n") == 1
    assert time.monotonic() - began < 30 and not list(tmp_path.iterdir())


def test_records_of_tasks_need_their_outputs(tmp_path):
    task = Task("one", "train_compressor", {}, outputs=("one/model.keras",))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/one.json").write_text(json.dumps({"key": "k"}))
    assert not task.done(tmp_path, "k")
    assert command("codec", "--version").stdout.startswith("tf_robustcomp 0.")
