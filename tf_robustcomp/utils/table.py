"""Rows as CSV files and as aligned text."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.utils import files

# Names of files are bytes that need not be UTF-8; they come back as they were.
AS_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows with a header, whole or not at all.

    Args:
        path: of the file.
        rows: dicts; a missing value leaves its cell empty.
        columns: default: all names, in the order in which they first occur.
    """
    rows = list(rows)
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with files.replacing(path) as temporary, open(temporary, "w", **AS_TEXT) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header.

    Raises:
        OSError: the file is missing.
        UnicodeDecodeError, csv.Error: it is not a CSV file.
    """
    with open(path, **AS_TEXT) as file:
        return list(csv.DictReader(file))


def text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as text with aligned columns: the first to the left, the others to the right."""
    table = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    lines = []
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
