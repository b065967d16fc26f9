"""A whole study with one command: train, evaluate, draw, and report ours beside the published figures.

    python -m tf_robustcomp.reproduce robust --scale smoke --out study
    python -m tf_robustcomp.reproduce randomisation --scale laptop --out study --dataset data/cifar10_train.tfrecord

`robust` is arXiv 2110.07007, `randomisation` that of arXiv 1804.05862.  Scales: `smoke`, minutes on the embedded
digits; `laptop`, hours on two cores; `paper`, the published settings to the letter.  What has finished is passed over,
so the same command goes on after an interruption.  OUT holds runs/ (run directories), tasks/ (flags and output of each
run), figures/, and at the end report.html and report.md.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tf_robustcomp import files, flags
from tf_robustcomp.datasets.images import SOURCES
from tf_robustcomp.errors import InvalidArgument, RunError
from tf_robustcomp.studies import engine, executors, places, randomisation, report, robust, robust_report

COMMAND = "reproduce"
DESCRIPTION = "study.json"
STUDIES = ("robust", "randomisation")


@dataclasses.dataclass(frozen=True)
class Settings(executors.ExecutorSettings):
    """Flags of this entry point."""

    scale: str = flags.field("smoke", "how much", choices=("smoke", "laptop", "paper"))
    out: str = flags.field("study", "folder of the study, or an address such as s3://bucket/study", operational=True)
    data: str = flags.field("mnist", "images of `robust`: mnist or FILE.npz (smoke: digits)")
    dataset: str = flags.field("data/cifar10_train.tfrecord", "training records of `randomisation` (smoke: digits)")
    seed: int = flags.field(0, "seed of the first networks", minimum=0, maximum=2**31)


def command(settings, study):
    """Perform the study and report it."""
    source = settings.data if study == "robust" else settings.dataset
    is_file = settings.scale != "smoke" and source not in SOURCES
    if is_file and not Path(source).is_file():
        flag, remedy = (
            ("--data", "`--data mnist` downloads it")
            if study == "robust"
            else ("--dataset", "tools/download_and_convert_cifar10.py makes CIFAR-10's")
        )
        raise InvalidArgument(f"{flag} {source}: no such file ({remedy})")
    place = places.at(settings.out)
    make = robust.tasks if study == "robust" else randomisation.tasks
    with place.held():
        _check_place(place, study, settings)
        for name in ("figures", "runs"):
            (place.folder / name).mkdir(exist_ok=True)
        tasks = make(settings.scale, place.share(source) if is_file else source, settings.seed)
        engine.perform(tasks, place, executors.make(settings, place))
        flags.import_backend_quietly()
        write = robust_report.text if study == "robust" else randomisation.text
        heading = f"Scale `{settings.scale}`: `python -m tf_robustcomp.reproduce {study} --scale {settings.scale}`."
        names = report.write(place.folder, write(place.folder, tasks, heading))
        place.send([*names, "figures/"])
    print("\n".join(f"{place}/{name}" for name in names))


def _check_place(place, study, settings):
    """Refuse the place of another study."""
    mine = {"study": study, "scale": settings.scale, "seed": settings.seed}
    place.fetch([DESCRIPTION])
    path = place.folder / DESCRIPTION
    try:
        theirs = json.loads(path.read_text())
    except FileNotFoundError:
        files.write_json(path, mine)
        place.send([DESCRIPTION])
        return
    except (OSError, ValueError):
        theirs = None
    if theirs != mine:
        raise RunError(f"{place}/{DESCRIPTION}: this place holds {theirs}, asked for is {mine}; choose another --out")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=(STUDIES,))


if __name__ == "__main__":
    sys.exit(main())
