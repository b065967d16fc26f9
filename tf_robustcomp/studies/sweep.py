"""One command, many runs: `--sweep gamma=0.36,1,1.5 --sweep seed=0:5` trains and evaluates every combination."""

import csv
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from tf_robustcomp import files, flags, runs
from tf_robustcomp.datasets.images import SOURCES
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.studies import engine, executors, places
from tf_robustcomp.studies.task import Task

PATHS = ("data", "dataset", "test_dataset", "warm_start")
TABLE = "sweep.csv"


@dataclasses.dataclass(frozen=True)
class SweepSettings(executors.ExecutorSettings):
    """Flags of an entry point that can be swept."""

    sweep: tuple[str, ...] = flags.field(
        (),
        "SETTING=VALUES, may be repeated: a run for each combination, in --train-dir, with the table of all in "
        "sweep.csv; values are separated by commas, START:STOP are whole numbers below STOP, the items of a list are "
        "joined by + (stage-dims=3+7,7+3)",
        repeated=True,
    )
    rank_by: str | None = flags.field(None, "column by which a sweep's table is sorted; -COLUMN: greatest first")


def perform(entry, kind, settings, action, given):
    """Train (and evaluate), or evaluate again, every combination; write and print the table.

    Args:
        entry: name of the entry point.
        kind: dataclass of a single run's settings.
        settings: of the command, with the fields of `SweepSettings`.
        action: "train" or "eval".
        given: names of the flags given.

    Raises:
        InvalidArgument: a sweep that cannot be read, of no such setting, or with values that the setting refuses.
        RunError: runs failed; the table holds the others.
    """
    arrays = dict(_array(kind, text) for text in settings.sweep)
    if len(arrays) < len(settings.sweep):
        raise InvalidArgument(f"--sweep must name each setting once. Received: {', '.join(settings.sweep)}")
    combinations = [dict(zip(arrays, values, strict=True)) for values in itertools.product(*arrays.values())]
    for chosen in combinations:  # bad values are refused before anything is made
        flags.parse(kind, [f"{flags.spelled(key)}={value}" for key, value in chosen.items()])
    place = places.at(settings.train_dir or "sweep")
    own = given & {f.name for f in dataclasses.fields(kind)} - {"train_dir"}
    with place.held():
        shared = _seen_from(place, {name: getattr(settings, name) for name in sorted(own)})
        tasks = [_task(entry, _name(chosen), shared | _seen_from(place, chosen), action) for chosen in combinations]
        if action == "eval":
            for task in tasks:
                place.remove(task.path(".json"))
        executor = executors.make(settings, place)
        try:
            engine.perform(tasks, place, executor)
        finally:
            _tabulate(place, [place.folder / task.name for task in tasks], kind, arrays, settings.rank_by)


def ranked(rows, column):
    """Rows sorted by a column, those without it last.

    Args:
        rows: dicts.
        column: name, with ``-`` before it for the greatest first; None: as they are.

    Raises:
        InvalidArgument: no row has it.
    """
    if column is None:
        return rows
    name, sign = column.lstrip("-"), -1 if column.startswith("-") else 1
    if not any(isinstance(row.get(name), int | float) for row in rows):
        known = sorted({key for row in rows for key, value in row.items() if isinstance(value, int | float)})
        raise InvalidArgument(f"--rank-by must be one of {', '.join(known)}. Received: {column}")
    return sorted(rows, key=lambda row: sign * row[name] if isinstance(row.get(name), int | float) else float("inf"))


def _array(kind, text):
    """Name and values, as words, of one ``--sweep``."""
    name, equals, words = text.partition("=")
    name = name.replace("-", "_")
    known = {f.name: f for f in dataclasses.fields(kind) if f.name != "train_dir"}
    if not equals or not words or name not in known:
        raise InvalidArgument(
            f"--sweep must be SETTING=VALUES, SETTING one of {', '.join(map(flags.spelled, known))}. Received: {text}"
        )
    values: list[str] = []
    for word in words.split(","):
        start, colon, stop = word.partition(":")
        if colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop):
            values += map(str, range(int(start), int(stop)))
        else:
            values.append(word.replace("+", ",") if flags.is_list(known[name]) else word)
    if len(set(values)) < len(values):
        raise InvalidArgument(f"--sweep must have each value once. Received: {text}")
    return name, values


def _seen_from(place, settings):
    """Settings, of which files that are given as seen from here are as seen from the study's place."""

    def seen(name, value):
        is_file = name in PATHS and value and value not in SOURCES and Path(value).exists()
        return place.share(value) if is_file else value

    return {name: seen(name, value) for name, value in settings.items()}


def _name(chosen):
    words = ((key.replace("_", "-"), value.replace(",", "+").replace("/", "_")) for key, value in chosen.items())
    return ",".join(map("=".join, words))


def _task(entry, name, settings, action):
    return Task(
        name,
        entry,
        {**settings, "train-dir": name},
        calls=(("train",), ("eval",)) if action == "train" else (("eval",),),
        outputs=(f"{name}/model.keras",),
    )


def _tabulate(place, paths, kind, swept, rank_by):
    """Write sweep.csv; print what was swept and what it was ranked by."""
    rows = [row for path in paths if (row := _row(path, kind))]
    if not rows:
        return
    try:
        _write(place.folder / TABLE, rows)  # first, as the ranking may be refused
        rows = ranked(rows, rank_by)
        _write(place.folder / TABLE, rows)
    finally:
        place.send([TABLE])
    shown = [*swept, *([rank_by.lstrip("-")] if rank_by else [])]
    for row in rows:
        print("  ".join(f"{name} {row.get(name, '')}" for name in shown))
    print(f"{place}/{TABLE}", flush=True)


def _row(path, kind):
    """Settings and figures of a run, flat; None where it has not been evaluated."""
    run = runs.Run(path)
    evaluations = sorted(path.glob("eval_*.json"))
    if not evaluations:
        return None
    row = {name: _cell(value) for name, value in run.settings_as(kind).items()}
    for evaluation in evaluations:
        row |= _flat(json.loads(evaluation.read_text()), evaluation.stem.removeprefix("eval_"))
    return row


def _flat(values, prefix):
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        flat |= _flat(value, key) if isinstance(value, dict) else {key: value}
    return flat


def _cell(value):
    return "+".join(map(str, value)) if isinstance(value, list) else value


def _write(path, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
