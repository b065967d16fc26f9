"""Whole studies through the real entry point."""

import base64
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import programs
from tf_robustcomp import prune_resnet_dns, reproduce, run, train_compressor, train_resnet_random
from tf_robustcomp.cli import flags
from tf_robustcomp.experiments.studies import randomisation, robust
from tf_robustcomp.utils.settings import operational_names

pytestmark = pytest.mark.tensorflow_only

CONFIGS = Path(__file__).parents[2] / "flags_configs"
PAPER = {  # task: flag file, and what the file says that the paper has besides
    "standard": ("compress_ae_mnist_standard", []),
    "noise-20.1": ("compress_ae_data_augmentation", []),
    "noise-50": ("compress_ae_data_augmentation", ["--rho=50"]),
    "rotation": ("compress_ae_data_augmentation_rotation", []),
    "wass_ball-0.36": ("compress_ae_wass_ball", []),
    "wass_ball-1": ("compress_ae_wass_ball", ["--gamma=1"]),
    "worst_angle": ("compress_ae_rotations", []),
    "worst_of_8_angles": ("compress_ae_rotations_random", []),
    "structured-3-7-0.36": ("structured", []),
    "structured-9-1-1": ("structured", ["--gamma=1", "--stage-dims=9,1"]),
    "structured_rotation": ("structured_groupshift_rotation", []),
    "residual": ("structured_residual", ["--warm-start=runs/d3-standard"]),
    "angle_prediction": ("structured_angle_pred", []),
    "d7-standard": ("compress_ae_mnist_standard", ["--latent-dim=7"]),
}


def settings_of(kind, task, path):
    path.write_text(task.flag_file())
    return flags.parse(kind, [f"--flagfile={path}"]).settings


def same(one, two, but=()):
    """Settings agree in all that a run computes."""
    names = {f for f in vars(one)} - operational_names(one) - set(but)
    return {name for name in names if getattr(one, name) != getattr(two, name)} == set()


@pytest.mark.parametrize("name", PAPER)
def test_paper_scale_is_the_flag_files_to_the_letter(name, tmp_path):
    task = {task.name: task for task in robust.tasks("paper", "mnist")}[name]
    file, more = PAPER[name]
    theirs = flags.parse(train_compressor.Settings, [f"--flagfile={CONFIGS / file}.cfg", *more]).settings
    assert same(settings_of(train_compressor.Settings, task, tmp_path / "flags"), theirs)


def test_paper_scale_has_every_pair_and_both_prices():
    names = {task.name for task in robust.tasks("paper", "mnist")}
    assert {f"structured-{d}-{10 - d}-{gamma}" for d in range(3, 10) for gamma in (1, 0.36)} <= names


@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        (train_resnet_random, "train_resnet_random", "out-0-seed-0"),
        (prune_resnet_dns, "prune_resnet_dns", "out-prune-0-9-seed-0"),
    ],
)
def test_paper_scale_of_the_randomisation_likewise(kind, file, name, tmp_path):
    dataset = "data/cifar10_train.tfrecord"
    task = {task.name: task for task in randomisation.tasks("paper", dataset)}[name]
    theirs = flags.parse(kind.Settings, [f"--flagfile={CONFIGS / file}.cfg"]).settings
    assert same(settings_of(kind.Settings, task, tmp_path / "flags"), theirs, but={"warm_start"})
    swept = flags.parse(run.Settings, [f"--flagfile={CONFIGS / 'run.cfg'}"]).settings
    assert swept.sparsities == randomisation.SPARSITIES


@pytest.mark.parametrize("study", reproduce.STUDIES)
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_flag_of_every_task_is_known(study, scale, tmp_path):
    import importlib

    module = robust if study == "robust" else randomisation
    for task in module.tasks(scale, "mnist"):
        settings_of(importlib.import_module(f"tf_robustcomp.{task.entry}").Settings, task, tmp_path / "flags")


@pytest.mark.parametrize("study", reproduce.STUDIES)
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_no_task_writes_what_another_leaves(study, scale):
    tasks = (robust if study == "robust" else randomisation).tasks(scale, "mnist")
    folders = [task.flags["train-dir"] for task in tasks if "train-dir" in task.flags]
    outputs = [task.flags["output"] for task in tasks if "output" in task.flags]
    assert len(set(folders)) == len(folders) and len(set(outputs)) == len(outputs)
    for task in tasks:
        own = task.flags.get("train-dir") or task.flags["output"]
        assert all(name.startswith(own) for name in (*task.outputs, *task.passed_on))


def test_the_randomisation_study_takes_a_threshold_and_a_number_of_seeds(tmp_path, capsys):
    tasks = randomisation.tasks("laptop", "cifar", seeds=1, threshold="quantile")
    assert {task.flags["seed"] for task in tasks if "seed" in task.flags} == {0}
    assert {task.flags["threshold"] for task in tasks if "threshold" in task.flags} == {"quantile"}
    assert len(tasks) == 5 * (1 + 5) + 1
    assert reproduce.main(["robust", "--threshold=exact", f"--out={tmp_path / 'study'}"]) == 2
    assert "--threshold has no effect on robust" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both studies at smoke scale."""
    folder = tmp_path_factory.mktemp("studies")
    for study in reproduce.STUDIES:
        code, stdout, stderr = programs.run(
            programs.words("reproduce", study, "--scale=smoke", f"--out={folder / study}")
        )
        assert code == 0, stdout[-3000:] + stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("study", reproduce.STUDIES)
def test_smoke_scale_runs_and_reports(study, finished, capsys):
    folder = finished / study
    module = robust if study == "robust" else randomisation
    tasks = module.tasks("smoke", "mnist")
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for task in tasks:
        assert all(command in text for command in task.commands())
        assert all((folder / path).is_file() for path in task.outputs)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == text.count("![") > 0
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"

    assert reproduce.main([study, "--scale=smoke", f"--out={folder}"]) == 0  # again: nothing to do but the report
    assert f"{len(tasks)} of {len(tasks)} tasks have finished already" in capsys.readouterr().out
    assert (folder / "report.md").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("study", reproduce.STUDIES)
def test_an_exported_study_is_small_and_gives_the_same_report(study, finished, tmp_path):
    out = f"--out={finished / study}"
    assert reproduce.main([study, "--scale=smoke", out, f"--export={tmp_path}"]) == 0
    before = (tmp_path / "report.md").read_text()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) <= 12
    assert reproduce.main([study, f"--report={tmp_path}"]) == 0
    assert (tmp_path / "report.md").read_text() == before


@pytest.mark.slow
def test_the_report_says_what_the_runs_found(finished):
    folder = finished / "randomisation"
    found = json.loads((folder / "runs/seed-0/out-prune-100-9/eval_train.json").read_text())
    row = next(line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| 100 % |"))
    assert row.split("|")[-2].strip() == f"{found['random_labels']['accuracy']:.4f}"


@pytest.mark.slow
def test_a_folder_of_another_study_is_refused(finished, capsys):
    assert reproduce.main(["robust", "--scale=laptop", f"--out={finished / 'robust'}"]) == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "study, flag, name",
    [("robust", "--data", "none.npz"), ("robust", "--data", "none"), ("randomisation", "--dataset", "cifar10")],
)
def test_missing_data_is_named_before_anything_is_made(tmp_path, capsys, study, flag, name):
    assert reproduce.main([study, "--scale=laptop", f"{flag}={name}", f"--out={tmp_path / 'out'}"]) == 2
    assert f"{flag} {name}: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def start(folder):
    words = programs.words("reproduce", "randomisation", "--scale=smoke", f"--out={folder}")
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=programs.environment()
    )


def wait_for(path, process):
    deadline = time.monotonic() + 240
    while not path.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_study_goes_on_and_ends_alike(number, finished, tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path / "runs/seed-0/out-100/metrics.csv", process)
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or "run the same command again" in output

    code, stdout, stderr = programs.run(
        programs.words("reproduce", "randomisation", "--scale=smoke", f"--out={tmp_path}")
    )
    assert code == 0, stdout[-2000:] + stderr[-2000:]
    for path in sorted((finished / "randomisation/runs").rglob("*.json")):
        other = tmp_path / path.relative_to(finished / "randomisation")
        assert other.read_bytes() == path.read_bytes(), path
    assert (tmp_path / "figures/summary.csv").read_bytes() == (
        finished / "randomisation/figures/summary.csv"
    ).read_bytes()


def test_a_failing_run_is_reported_with_the_last_lines_of_its_log(tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    out = tmp_path / "out"
    assert reproduce.main(["robust", "--scale=laptop", f"--data={tmp_path / 'bad.npz'}", f"--out={out}"]) == 2
    captured = capsys.readouterr()
    assert "tasks failed: standard, angle_prediction; not begun" in captured.err
    assert "bad.npz" in captured.out and "Traceback" not in captured.out


def test_the_executor_ray_without_ray_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert reproduce.main(["robust", "--executor=ray", f"--out={tmp_path / 'out'}"]) == 2
    assert "pip install '.[ray]'" in capsys.readouterr().err
