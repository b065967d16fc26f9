"""What an evaluation returns: rows of plain values, as a table, as CSV, as a figure."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

from tf_robustcomp import files
from tf_robustcomp.errors import DataError, InvalidArgument

LEGEND_WIDTH = 95  # characters in a figure's width


@dataclasses.dataclass(frozen=True)
class Row:
    """What every row begins with: the model's label, and the stage of its code, of how many."""

    model: str
    stage: int
    stages: int

    @property
    def line(self):
        """Label of the line that the row belongs to."""
        return self.model if self.stages == 1 else f"{self.model}, stage {self.stage}"


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """Rows of one kind, in order; immutable, equal where the rows are equal.

    A kind of results is a subclass of `Row` in ``row_type`` and a hook ``draw(axes)``.  Results of one kind are joined
    with ``+``.
    """

    rows: tuple
    row_type: ClassVar[type] = Row

    def __post_init__(self):
        object.__setattr__(self, "rows", tuple(self.rows))

    def __eq__(self, other):
        """Same kind, same rows; nan equals nan."""
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def _key(self):
        return tuple(tuple(map(_plain, dataclasses.astuple(row))) for row in self.rows)

    def __add__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return type(self)(self.rows + other.rows)

    def __len__(self):
        return len(self.rows)

    def __str__(self):
        return self.table()

    @classmethod
    def columns(cls):
        """Names of the columns."""
        return [f.name for f in dataclasses.fields(cls.row_type)]

    def lines(self):
        """The rows by the line that they belong to: dict of label -> list of rows, in order."""
        lines: dict[str, list] = {}
        for row in self.rows:
            lines.setdefault(row.line, []).append(row)
        return lines

    def line(self, label):
        """The rows of one line.

        Raises:
            InvalidArgument: there is none of that label.
        """
        if label not in self.lines():
            raise InvalidArgument(f"label must be one of {', '.join(self.lines())}. Received: {label}")
        return self.lines()[label]

    def table(self):
        """The rows as aligned text under their columns' names, numbers to four digits."""
        cells = [self.columns(), *([_shown(value) for value in dataclasses.astuple(row)] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in cells)

    def to_csv(self, path):
        """Write the rows under a header; every float is written so that ``from_csv`` gives back the same."""
        with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns())
            writer.writerows(map(dataclasses.astuple, self.rows))

    @classmethod
    def from_csv(cls, path):
        """Read what ``to_csv`` wrote.

        Raises:
            DataError: names the file and the line.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        try:
            with open(path, newline="") as file:
                header, *lines = list(csv.reader(file)) or [[]]
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as CSV ({error})") from None
        if header != cls.columns():
            raise DataError(f"{path}: line 1 must be {','.join(cls.columns())}. Found: {','.join(header)[:200]}")
        return cls(tuple(cls._parsed(path, number, words) for number, words in enumerate(lines, 2)))

    @classmethod
    def from_records(cls, records):
        """Rows from dicts of column -> value, as ``to_records`` gives them.

        Raises:
            DataError: a record lacks a column, has another one or a value of another type.
        """
        types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls.row_type)}
        try:
            return cls(tuple(cls.row_type(**{k: types[k](v) for k, v in record.items()}) for record in records))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a record of {cls.__name__} ({error})") from None

    def to_records(self):
        """Rows as dicts of what JSON knows: inf and nan are strings."""
        return [{name: _plain(value) for name, value in dataclasses.asdict(row).items()} for row in self.rows]

    def plot(self, axes=None):
        """Draw into matplotlib axes (new ones by default), and return them."""
        if axes is None:
            from matplotlib import pyplot as plt

            _, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        self.draw(axes)
        axes.grid(alpha=0.3)
        labels = axes.get_legend_handles_labels()[1]
        if labels:  # below, where it hides nothing, in as many columns as the width holds
            columns = max(1, min(len(labels), 4, LEGEND_WIDTH // (max(map(len, labels)) + 7)))
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, fontsize=9)
        return axes

    def draw(self, axes):
        """Draw the lines into axes and name these."""
        raise NotImplementedError

    @classmethod
    def _parsed(cls, path, number, words):
        fields = dataclasses.fields(cls.row_type)
        try:
            types: list[Any] = [f.type for f in fields]
            values = [kind(word) for kind, word in zip(types, words, strict=True)]
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}") from None
        return cls.row_type(*values)


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value):
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
