"""A whole study with one command: train, evaluate, draw, and report ours beside the published figures.

    python -m tf_robustcomp.reproduce robust --scale smoke --out study
    python -m tf_robustcomp.reproduce randomisation --scale laptop --out study --dataset data/cifar10_train.tfrecord

`robust` is arXiv 2110.07007, `randomisation` that of arXiv 1804.05862.  Scales: `smoke`, minutes on the embedded
digits; `laptop`, hours on two cores; `paper`, the published settings to the letter.  What has finished is passed over,
so the same command goes on after an interruption.  OUT holds runs/ (run directories), tasks/ (flags and output of each
run), figures/, and at the end report.html and report.md.
"""

import dataclasses
import fcntl
import json
import os
import sys
from pathlib import Path

from tf_robustcomp import files, flags
from tf_robustcomp.errors import InvalidArgument, RunError
from tf_robustcomp.studies import engine, executors, randomisation, report, robust, robust_report

COMMAND = "reproduce"
STUDIES = ("robust", "randomisation")


@dataclasses.dataclass(frozen=True)
class Settings(executors.ExecutorSettings):
    """Flags of this entry point."""

    scale: str = flags.field("smoke", "how much", choices=("smoke", "laptop", "paper"))
    out: str = flags.field("study", "folder of the study", operational=True)
    data: str = flags.field("mnist", "images of `robust`: mnist or FILE.npz (smoke: digits)")
    dataset: str = flags.field("data/cifar10_train.tfrecord", "training records of `randomisation` (smoke: digits)")
    seed: int = flags.field(0, "seed of the first networks", minimum=0, maximum=2**31)


def command(settings, study):
    """Perform the study and report it."""
    folder = executors.study_folder("--out", settings.out)
    _check_data(settings, study)
    data, dataset = (_as_seen_from(folder, source) for source in (settings.data, settings.dataset))
    tasks = (
        robust.tasks(settings.scale, data, settings.seed)
        if study == "robust"
        else randomisation.tasks(settings.scale, dataset, settings.seed)
    )
    for name in ("", "figures", "runs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder}: another process performs a study here; wait for it or choose another") from None
        _check_folder(folder, study, settings)
        engine.perform(tasks, folder, executors.make(settings, folder))
    flags.import_backend_quietly()
    write = robust_report.text if study == "robust" else randomisation.text
    heading = f"Scale `{settings.scale}`: `python -m tf_robustcomp.reproduce {study} --scale {settings.scale}`."
    print("\n".join(map(str, report.write(folder, write(folder, tasks, heading)))))


def _as_seen_from(folder, source):
    """A file is given as seen from here; the runs work in the study's folder, which may be moved with its data."""
    return os.path.relpath(source, folder) if Path(source).suffix else source


def _check_data(settings, study):
    source = settings.data if study == "robust" else settings.dataset
    if settings.scale != "smoke" and Path(source).suffix and not Path(source).is_file():
        flag = "--data" if study == "robust" else "--dataset"
        raise InvalidArgument(f"{flag} {source}: no such file (tools/download_and_convert_cifar10.py makes CIFAR-10's)")


def _check_folder(folder, study, settings):
    """Refuse a folder of another study."""
    mine = {"study": study, "scale": settings.scale, "seed": settings.seed}
    path = folder / "study.json"
    try:
        theirs = json.loads(path.read_text())
    except FileNotFoundError:
        files.write_json(path, mine)
        return
    except (OSError, ValueError):
        theirs = None
    if theirs != mine:
        raise RunError(f"{path}: this folder holds {theirs}, asked for is {mine}; choose another --out")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=(STUDIES,))


if __name__ == "__main__":
    sys.exit(main())
