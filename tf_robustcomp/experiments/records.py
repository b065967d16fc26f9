"""One file that holds all runs of a study: commands, settings, versions and measured values."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import documents, files, table
from tf_robustcomp.utils.errors import DataError

NAME = "runs.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """A task of a study that has finished.

    Attributes:
        name: of the task.
        commands: as typed in the study's folder.
        flags: text of its flag file.
        seconds: that it took.
        config: settings and versions of its run directory; empty for an evaluation of several runs.
        evaluations: contents of its eval_<split>.json, by split.
        metrics: the last row of its metrics.csv.
    """

    name: str
    commands: Sequence[str]
    flags: str
    seconds: float
    config: dict[str, Any]
    evaluations: dict[str, Any]
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """Contents of runs.json: what the study is, and its runs."""

    study: dict[str, Any]
    runs: list[Record]


def collect(folder: Path, tasks: Sequence[Task]) -> list[Record]:
    """Return the records of a study's tasks, from its folder."""
    return [_record(folder, task) for task in tasks]


def write(folder: Path, records: Sequence[Record], study: dict[str, Any]) -> None:
    """Write the records, and what the study is, as runs.json."""
    files.write_json(folder / NAME, {"study": study, "runs": [dataclasses.asdict(record) for record in records]})


def read(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """Return ``(study, records)`` of a runs.json.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        found = documents.read(folder / NAME, Study)
    except FileNotFoundError:
        raise DataError(f"{folder / NAME}: no such file; the command without --report makes it") from None
    return found.study, found.runs


def _record(folder, task):
    record = task.record(folder)
    run = folder / str(task.flags.get("train-dir", "."))
    has_run = "train-dir" in task.flags
    evaluations = sorted(run.glob("eval_*.json")) if has_run else []
    return Record(
        name=task.name,
        commands=task.commands(),
        flags=task.flag_file(),
        seconds=record.seconds if record else 0.0,
        config=documents.read(run / "config.json", dict[str, Any]) if has_run else {},
        evaluations={path.stem.removeprefix("eval_"): documents.read(path, dict[str, Any]) for path in evaluations},
        metrics=_last_row(run / "metrics.csv") if has_run else {},
    )


def _last_row(path):
    rows = table.read_csv(path)
    return {name: float(value) for name, value in rows[-1].items()} if rows else {}
