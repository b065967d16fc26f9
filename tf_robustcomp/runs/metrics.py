"""The rows of metrics of a run: metrics.csv, and the same rows as TensorBoard events."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.summary import Writer

from tf_robustcomp.utils import files, table


class MetricsTable:
    """Adds rows to the metrics of a run.

    Rows after the present step are those of a run that continued past its last checkpoint; they are dropped, and come
    again.  The events are made from the rows that stay, as they cannot be cut.

    Args:
        path: of metrics.csv, which may be missing.
        step: of the checkpoint that training goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        events = path.with_name("tensorboard")
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        shutil.rmtree(events, ignore_errors=True)
        self.events = Writer(str(events))
        self.columns: list[str] | None = list(rows[0]) if rows else None
        with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
            if rows:
                _write(file, [self.columns, *([_text(value) for value in row.values()] for row in rows)])
        self.file = open(path, "a", newline="")  # noqa: SIM115  closed in close()
        for row in rows:
            self._write_events(row)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        row = {"step": step, **values}
        with files.naming(self.path):
            if self.columns is None:
                self.columns = list(row)
                _write(self.file, [self.columns])
            _write(self.file, [[_text(row[name]) for name in self.columns]])
            self.file.flush()
        self._write_events(row)

    def close(self) -> None:
        """Close the files."""
        with files.naming(self.path):
            self.file.close()
        self.events.close()

    def _write_events(self, row):
        for name, value in row.items():
            if name != "step":
                self.events.add_scalar(name, value, row["step"])


def read_metrics(path: Any) -> list[dict[str, Any]]:
    """Return the rows of a metrics.csv as floats (``step`` an int); a half last row is left out.

    Args:
        path: of the file, which may be missing.
    """
    try:
        records = table.read_csv(path)
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []
    rows = []
    for record in records:
        try:
            row: dict[str, Any] = {name: float(value) for name, value in record.items()}
            rows.append({**row, "step": int(record["step"])})
        except (TypeError, ValueError, KeyError):
            break
    return rows


def _write(file, rows):
    csv.writer(file, lineterminator="\n").writerows(rows)


def _text(value):
    return str(value) if isinstance(value, int) else f"{value:.9g}"
