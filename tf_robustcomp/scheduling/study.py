"""Perform a published study in its folder."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.data.images import SOURCES
from tf_robustcomp.scheduling import scheduler
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import documents, files
from tf_robustcomp.utils.errors import InvalidArgument, RunError

DESCRIPTION = "study.json"
OPTIONS = ("seeds", "threshold")  # of the study of randomisation
PARTS = ("tasks", "runs", "figures", "runs.json", "report.md", "report.html", "sweep.csv")
REMEDIES = {
    "--data": "`--data mnist` downloads it",
    "--dataset": "tools/download_and_convert_cifar10.py makes CIFAR-10's",
}


@contextlib.contextmanager
def performed(name: str, make: Callable, settings: Any) -> Iterator[tuple[Path, Sequence[Task], dict[str, Any]]]:
    """Perform a study's tasks, and hold its folder while the block reports them.

    Args:
        name: "robust" or "randomisation".
        make: function of scale, source of data, seed and options that returns the tasks.
        settings: of the command reproduce.

    Yields:
        ``(folder, tasks, description of the study)``

    Raises:
        InvalidArgument: the data do not exist, the folder is no path, or a flag has no effect on this study.
        RunError: tasks failed, or the folder is in use or holds another study.
    """
    source = _source(name, settings)
    options = {option: getattr(settings, option) for option in OPTIONS if getattr(settings, option)}
    if options and name == "robust":
        raise InvalidArgument(f"--{next(iter(options))} has no effect on robust. Leave it out")
    description = {"study": name, "scale": settings.scale, "seed": settings.seed, **options}
    if settings.export:
        files.check_ours(Path(settings.export), "runs.json", ("report.md", "figures"))
    with held(settings.out, DESCRIPTION) as folder:
        _check_description(folder, description)
        for part in ("figures", "runs"):
            (folder / part).mkdir(exist_ok=True)
        if source not in SOURCES:
            source = os.path.relpath(source, folder)
        tasks = make(settings.scale, source, settings.seed, **options)
        scheduler.perform(tasks, folder, scheduler.pool_for(settings, folder))
        yield folder, tasks, description


@contextlib.contextmanager
def held(path: str | Path, proof: str) -> Iterator[Path]:
    """Make the folder of a study or a sweep, and hold its lock while the block performs it.

    Args:
        path: of the folder.
        proof: name of a file that only such a folder holds.

    Raises:
        InvalidArgument: it is no path.
        RunError: it is in use, its files were made by something else, or a name to write is a symbolic link.
    """
    folder = files.folder(path)
    tasks = (f"tasks/{path.name}" for path in (folder / "tasks").glob("*"))
    files.check_no_links(folder, (".lock", *PARTS, *tasks))
    files.check_ours(folder, proof, PARTS)
    with files.locked(folder / ".lock", f"{folder}: another process performs a study here; wait for it"):
        yield folder


def _source(name, settings):
    flag, source = ("--data", settings.data) if name == "robust" else ("--dataset", settings.dataset)
    if settings.scale == "smoke":
        return "digits"
    if source not in SOURCES and not Path(source).is_file():
        raise InvalidArgument(f"{flag} {source}: no such file ({REMEDIES[flag]})")
    return source


def _check_description(folder, mine):
    """Refuse the folder of another study."""
    path = folder / DESCRIPTION
    try:
        theirs = documents.read(path, dict[str, Any])
    except FileNotFoundError:
        files.write_json(path, mine)
        return
    if theirs != mine:
        raise RunError(f"{path}: this folder holds {theirs}, asked for is {mine}; choose another --out")
