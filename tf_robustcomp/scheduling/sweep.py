"""One command, many runs: `--sweep gamma=0.36,1,1.5 --sweep seed=0:5` trains and evaluates every combination."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_robustcomp.cli import flags
from tf_robustcomp.data.images import SOURCES
from tf_robustcomp.runs.directory import Run
from tf_robustcomp.scheduling import scheduler
from tf_robustcomp.scheduling.study import held
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import documents, table
from tf_robustcomp.utils.errors import DataError, InvalidArgument, RunError
from tf_robustcomp.utils.settings import as_word, kind_of, spelled

TABLE = "sweep.csv"


def perform(entry: str, kind: type, parsed: flags.Parsed, check: Callable[[str, flags.Parsed], None]) -> None:
    """Train and evaluate, or evaluate again, every combination; write and print the table.

    Args:
        entry: name of the command.
        kind: dataclass of a single run's settings.
        check: refuses, before anything is made, a run that cannot be done; of the action and the run's command line.
        parsed: the command line, with the fields of `SweepSettings`; its one word is "train" or "eval".

    Raises:
        InvalidArgument: a sweep that cannot be read, of no such setting, or with values that the setting refuses.
        RunError: runs failed; the table holds the others.
    """
    settings, kind = parsed.settings, flags.with_variants(kind)
    (action,) = parsed.words
    arrays = dict(_array(kind, text) for text in settings.sweep)
    if len(arrays) < len(settings.sweep):
        raise InvalidArgument(f"--sweep must name each setting once. Received: {', '.join(settings.sweep)}")
    combinations = [dict(zip(arrays, values, strict=True)) for values in itertools.product(*arrays.values())]
    shared = {name: getattr(settings, name) for name in sorted(parsed.only(kind).given - {"train_dir"})}
    _check_rank(settings.rank_by, kind)
    for chosen in combinations:  # bad values are refused before anything is made
        given = {**shared, **chosen, "train_dir": str(Path(settings.train_dir or "sweep", _name(chosen)))}
        own = _parsed(kind, given)
        if action == "train":
            check(action, own)
    with held(settings.train_dir or "sweep", "tasks") as folder:
        tasks = [_task(entry, chosen, kind, folder, shared, action) for chosen in combinations]
        for task in tasks:
            if action == "eval" or _row(folder / task.name, kind) is None:  # missing or damaged: due again
                (folder / task.path(".json")).unlink(missing_ok=True)
        try:
            scheduler.perform(tasks, folder, scheduler.pool_for(settings, folder))
        finally:
            _tabulate(folder, [folder / task.name for task in tasks], kind, arrays, settings.rank_by)


def ranked(rows: list[dict], column: str | None) -> list[dict]:
    """Return rows sorted by a column, those without it last.

    Args:
        rows: dicts.
        column: name, with ``-`` before it for the greatest first; None keeps the order.

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


def _parsed(kind, given):
    """Command line of one run; what has no effect on it is left out, as it may have on others."""
    words = {name: f"{spelled(name)}={as_word(value)}" for name, value in given.items() if value is not None}
    found = flags.parse(kind, list(words.values()), refuse_idle=False)
    without = flags.idle(found.settings)
    return flags.parse(kind, [text for name, text in words.items() if name not in without])


def _check_rank(column, kind):
    """A column is a setting or a figure of an evaluation, whose names begin with its split."""
    name = (column or "").lstrip("-")
    settings = [f.name for f in dataclasses.fields(kind)]
    if name and name not in settings and not name.startswith(("train.", "test.")):
        raise InvalidArgument(
            f"--rank-by must be a setting, or a figure such as test.stage_1.clean (see {TABLE}). Received: {column}"
        )


def _array(kind, text):
    """Name and values, as words, of one ``--sweep``."""
    name, equals, words = text.partition("=")
    name = name.replace("-", "_")
    known = {f.name: f for f in dataclasses.fields(kind) if f.name != "train_dir"}
    if not equals or not words or name not in known:
        raise InvalidArgument(
            f"--sweep must be SETTING=VALUES, SETTING one of {', '.join(map(spelled, known))}. Received: {text}"
        )
    values: list[str] = []
    for item in words.split(","):
        start, colon, stop = item.partition(":")
        if colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop):
            values += map(str, range(int(start), int(stop)))
        else:
            values.append(item.replace("+", ",") if kind_of(known[name]) is tuple else item)
    if len(set(values)) < len(values):
        raise InvalidArgument(f"--sweep must have each value once. Received: {text}")
    return name, values


def _name(chosen):
    words = ((key.replace("_", "-"), value.replace(",", "+").replace("/", "_")) for key, value in chosen.items())
    return ",".join(map("=".join, words))


def _task(entry, chosen, kind, folder, shared, action):
    name, given = _name(chosen), shared | chosen
    kept = _parsed(kind, given).given
    effective = {key: value for key, value in given.items() if key in kept}
    return Task(
        name,
        entry,
        {**_seen_from(folder, kind, effective), "train-dir": name},
        calls=(("train",), ("eval",)) if action == "train" else (("eval",),),
        outputs=(f"{name}/model.keras",),
    )


def _seen_from(folder, kind, settings):
    """Settings whose paths lead from the study's folder to the files that they name from here."""
    paths = {f.name for f in dataclasses.fields(kind) if f.metadata["path"]}

    def seen(name, value):
        if isinstance(value, tuple):
            return tuple(seen(name, item) for item in value)
        is_file = name in paths and value and value not in SOURCES and Path(value).exists()
        return os.path.relpath(value, folder) if is_file else value

    return {name: seen(name, value) for name, value in settings.items()}


def _tabulate(folder, paths, kind, swept, rank_by):
    """Write sweep.csv; print the swept settings and the column of the ranking."""
    rows = [row for path in paths if (row := _row(path, kind))]
    if not rows:
        return
    table.write_csv(folder / TABLE, rows)  # first, as the ranking may be refused
    rows = ranked(rows, rank_by)
    table.write_csv(folder / TABLE, rows)
    shown = [*swept, *([rank_by.lstrip("-")] if rank_by else [])]
    for row in rows:
        print("  ".join(f"{name} {row.get(name, '')}" for name in shown))
    print(f"{folder}/{TABLE}", flush=True)


def _row(path, kind):
    """Settings and figures of a run, flat; None where it has not been evaluated, or the evaluation is damaged."""
    run = Run(path)
    evaluations = sorted(path.glob("eval_*.json"))
    try:
        row = {name: _cell(value) for name, value in run.settings_as(kind).items()}
        for evaluation in evaluations:
            figures = documents.read(evaluation, dict[str, Any])
            row.update(_flat(figures, evaluation.stem.removeprefix("eval_")))
    except (RunError, DataError):
        return None
    return row if evaluations else None


def _flat(values, prefix):
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        flat.update(_flat(value, key) if isinstance(value, dict) else {key: value})
    return flat


def _cell(value):
    return "+".join(map(str, value)) if isinstance(value, list) else value
