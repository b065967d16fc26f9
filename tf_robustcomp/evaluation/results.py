"""Results of an evaluation: rows of plain values, as a table, as CSV, as a figure."""

import csv
import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tf_robustcomp.utils import table
from tf_robustcomp.utils.errors import DataError, InvalidArgument

LEGEND_WIDTH = 95  # characters in a figure's width


@dataclasses.dataclass(frozen=True)
class Row:
    """Start of every row: the model's label, the stage index, and the number of stages."""

    model: str
    stage: int
    stages: int

    @property
    def line(self) -> str:
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
    def columns(cls) -> list[str]:
        """Return the names of the columns."""
        return [f.name for f in dataclasses.fields(cls.row_type)]

    def lines(self) -> dict[str, list[Any]]:
        """Return the rows by the label of their line, in order."""
        lines: dict[str, list] = {}
        for row in self.rows:
            lines.setdefault(row.line, []).append(row)
        return lines

    def line(self, label: str) -> list[Any]:
        """Return the rows of one line.

        Raises:
            InvalidArgument: there is none of that label.
        """
        if label not in self.lines():
            raise InvalidArgument(f"label must be one of {', '.join(self.lines())}. Received: {label}")
        return self.lines()[label]

    def table(self) -> str:
        """Return the rows as aligned text, numbers to four digits."""
        return table.text(self.columns(), [[_shown(value) for value in dataclasses.astuple(row)] for row in self.rows])

    def to_csv(self, path: str | Path) -> None:
        """Write the rows with a header; ``from_csv`` gives back the same floats."""
        table.write_csv(path, map(dataclasses.asdict, self.rows), self.columns())

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Return the results in a file of ``to_csv``.

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
        columns = cls.columns()
        if header != columns[: max(len(header), cls._needed())]:
            raise DataError(f"{path}: line 1 must be {','.join(columns)}. Found: {','.join(header)[:200]}")
        return cls(tuple(cls._parsed(path, number, words) for number, words in enumerate(lines, 2)))

    @classmethod
    def from_records(cls, records: Iterable[dict[str, Any]], attachments: Mapping[str, Any] | None = None) -> Self:
        """Return the results in dicts of ``to_records`` and, where a kind has more than rows, of ``attachments``.

        Raises:
            DataError: a record lacks a column, has another one or a value of another type.
        """
        types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(cls.row_type)}
        try:
            return cls(tuple(cls.row_type(**{k: types[k](v) for k, v in record.items()}) for record in records))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a record of {cls.__name__} ({error})") from None

    def to_records(self) -> list[dict[str, Any]]:
        """Return the rows as dicts for JSON: inf and nan are strings."""
        return [{name: _plain(value) for name, value in dataclasses.asdict(row).items()} for row in self.rows]

    def attachments(self) -> dict[str, Any]:
        """Return what the results hold beside rows, as plain values for JSON; default: nothing."""
        return {}

    def plot(self, axes: Any = None) -> Any:
        """Draw into matplotlib axes (new ones by default), and return them."""
        if axes is None:
            from matplotlib import pyplot as plt

            _, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        self.draw(axes)
        axes.grid(alpha=0.3)
        self.legend(axes)
        return axes

    @staticmethod
    def legend(axes: Any) -> None:
        """Put the legend below the axes, where it hides nothing, in as many columns as the width holds."""
        handles, labels = axes.get_legend_handles_labels()
        if not labels:
            return
        columns = max(1, min(len(labels), 4, LEGEND_WIDTH // (max(map(len, labels)) + 7)))
        figure = axes.figure
        if figure.get_layout_engine() and len(figure.axes) == 1:  # the layout makes room for it
            for old in list(figure.legends):
                old.remove()
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
        else:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, fontsize=9)

    def draw(self, axes: Any) -> None:
        """Draw the lines into axes and name these."""
        raise NotImplementedError

    @classmethod
    def _needed(cls):
        """The number of columns that every file has; the last ones, with defaults, came later."""
        return sum(f.default is dataclasses.MISSING for f in dataclasses.fields(cls.row_type))

    @classmethod
    def _parsed(cls, path, number, words):
        fields = dataclasses.fields(cls.row_type)
        try:
            types: list[Any] = [f.type for f in fields][: max(len(words), cls._needed())]
            values = [kind(word) for kind, word in zip(types, words, strict=True)]
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}") from None
        return cls.row_type(*values)


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value):
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
