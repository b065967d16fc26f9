"""Style and write the figures of evaluations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.utils.drawing import line, pyplot, save

LONG_TABLE = 80  # rows


def style(row: Any, models: Sequence[str]) -> dict[str, Any]:
    """Return colour and marker of a row's model, and the dashes of its stage.

    Args:
        row: `results.Row`.
        models: labels in order.
    """
    return line(models.index(row.model), row.stages - row.stage)


def models_in(rows: Sequence[Any]) -> list[str]:
    """Return the labels of the models in order."""
    return list(dict.fromkeys(row.model for row in rows))


def write(
    results: Any,
    prefix: str | Path,
    title: str | None = None,
    shown: bool = True,
    drawn: bool = True,
    also: Callable[[Any], None] | None = None,
) -> None:
    """Write ``prefix.csv``, ``prefix.png`` and ``prefix.pdf``; print the table, unless it is long, and the paths.

    Args:
        results: `results.Results`.
        prefix: path without suffix.
        title: of the figure.
        shown: whether to print.
        drawn: whether to write the figures.
        also: function that draws more into the axes.
    """
    pyplot()
    paths = [Path(f"{prefix}{suffix}") for suffix in (".csv", ".png", ".pdf")]
    results.to_csv(paths[0])
    if drawn:
        axes = results.plot()
        if also:
            also(axes)
            results.legend(axes)
        axes.set_title(title, fontsize=10)
        save(axes.figure, *paths[1:])
    else:
        del paths[1:]
    if shown and len(results) <= LONG_TABLE:
        print(results.table())
    if shown:
        print("\n".join(map(str, paths)), flush=True)
