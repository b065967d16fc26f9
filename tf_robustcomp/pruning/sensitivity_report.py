"""Show which kernels bear pruning: table, CSV, figure, and the sparsities that follow from them."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.pruning.distributions import ByPath
from tf_robustcomp.utils import drawing, table
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import InvalidArgument

NAMED = 16  # lines of a figure that a legend can name


@dataclasses.dataclass(frozen=True)
class SensitivityRow:
    """Metrics of the model with one kernel pruned.

    Attributes:
        path: of the kernel.
        sparsity: to which it was pruned, in (0, 1).
        parameters: number of its weights.
        values: metric -> value.
    """

    path: str
    sparsity: float
    parameters: int
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class SensitivityReport:
    """Rows, one for each kernel and sparsity; prints as a table.

    Attributes:
        rows: of `SensitivityRow`, kernels in the model's order, sparsities rising.
        unpruned: metric -> value of the model as it is; losses come last.
        greater_is_better: metric -> whether it is, None where Keras does not know.
        examples: number of those that the model was evaluated on.
        method: by which the kernels were pruned.
    """

    rows: tuple[SensitivityRow, ...]
    unpruned: dict[str, float]
    greater_is_better: dict[str, bool | None]
    examples: int
    method: str

    @property
    def kernels(self) -> dict[str, list[SensitivityRow]]:
        """The rows of each path."""
        found: dict[str, list[SensitivityRow]] = {}
        for row in self.rows:
            found.setdefault(row.path, []).append(row)
        return found

    def allocation(self, drop: float, metric: str | None = None, greater_is_better: bool | None = None) -> ByPath:
        """Return for each kernel the largest of the sparsities at which the metric loses at most ``drop``.

        Each kernel was pruned alone: pruned together, they lose more.  A kernel that loses more at every sparsity
        stays dense.

        Args:
            drop: >= 0, in units of the metric.
            metric: default the first of ``unpruned``.
            greater_is_better: whether it is, for a metric of which Keras does not know it.

        Returns:
            ByPath, with a regular expression for each whole path.

        Raises:
            InvalidArgument: an argument breaks its rule.

        Example:
            >>> report = rc.sensitivity(model, (images, labels))
            >>> rc.prune(model, 0.5, distribution=report.allocation(drop=0.01))
        """
        if isinstance(drop, bool) or not isinstance(drop, int | float | np.number) or not 0 <= drop < math.inf:
            raise InvalidArgument(f"drop must be a finite number >= 0. Received: {drop!r}")
        metric = self._metric(metric)
        if not math.isfinite(self.unpruned[metric]):
            raise InvalidArgument(f"metric must be finite before pruning. Received: {metric}={self.unpruned[metric]}")
        rising = self.greater_is_better[metric] if greater_is_better is None else greater_is_better
        if rising is None:
            raise InvalidArgument(
                f"greater_is_better must be given for a metric of which Keras does not know it. Received: {metric!r}"
            )
        chosen = {}
        for path, rows in self.kernels.items():
            borne = [row.sparsity for row in rows if self._lost(row, metric, rising) <= drop]
            chosen[f"^{re.escape(path)}$"] = max(borne, default=0.0)
        return ByPath(chosen)

    def to_csv(self, path: str | Path) -> None:
        """Write a row for the model as it is, at sparsity 0, and one for each kernel and sparsity."""
        rows = [{"path": row.path, "sparsity": row.sparsity, "parameters": row.parameters} for row in self.rows]
        measured = [own | row.values for own, row in zip(rows, self.rows, strict=True)]
        columns = ("path", "sparsity", "parameters", *self.unpruned)
        table.write_csv(path, [{"path": "unpruned", "sparsity": 0.0, **self.unpruned}, *measured], columns)

    def table(self, metric: str | None = None) -> str:
        """Return a metric as aligned text, kernels as rows and sparsities as columns.

        Args:
            metric: default the first of ``unpruned``.

        Raises:
            InvalidArgument: there is no such metric.
        """
        metric = self._metric(metric)
        sparsities = sorted({row.sparsity for row in self.rows})
        lines = [
            [path, f"{rows[0].parameters:,}", *(f"{row.values[metric]:#.4g}" for row in rows)]
            for path, rows in self.kernels.items()
        ]
        text = table.text(["kernel", "parameters", *(f"{sparsity:g}" for sparsity in sparsities)], lines)
        return f"{self._title(metric)}, unpruned {self.unpruned[metric]:#.4g}\n{text}"

    def __str__(self):
        return self.table()

    def draw(self, path: str | Path, metric: str | None = None) -> None:
        """Write a figure of a metric over the sparsity, a line for each kernel.

        Of many kernels those that lose most are named, the others are grey.

        Args:
            path: of a file whose suffix matplotlib knows.
            metric: default the first of ``unpruned``.

        Raises:
            InvalidArgument: there is no such metric.
        """
        metric = self._metric(metric)
        rising = self.greater_is_better[metric]
        kernels = self.kernels
        loss = {name: sum(self._lost(row, metric, rising) for row in rows) for name, rows in kernels.items()}
        named = set(sorted(loss, key=lambda name: loss[name], reverse=True)[:NAMED])
        figure, axis = drawing.pyplot().subplots(figsize=(9, 4.8), layout="constrained")
        axis.axhline(self.unpruned[metric], color="0.35", linewidth=1, label="unpruned")
        others = [name for name in kernels if name not in named]
        for name in others:
            label = f"{len(others)} others, which lose less" if name == others[0] else None
            axis.plot(*self._line(kernels[name], metric), color="0.8", linewidth=0.8, label=label)
        for number, name in enumerate(name for name in kernels if name in named):
            style = drawing.line(number, number // len(drawing.COLOURS))
            axis.plot(*self._line(kernels[name], metric), **style, markersize=4, label=name)
        sparsities = sorted({row.sparsity for row in self.rows})
        if len(sparsities) <= 12:
            axis.set_xticks(sparsities, [f"{sparsity:g}" for sparsity in sparsities])
        axis.set(xlabel="sparsity of the one kernel that is pruned", ylabel=metric)
        axis.set_title(self._title(metric), fontsize=10)
        axis.grid(color="0.92")
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
        drawing.save(figure, Path(path))

    def _title(self, metric):
        return f"{metric} with one kernel pruned by {self.method}, n = {self.examples:,}"

    def _line(self, rows, metric):
        return [row.sparsity for row in rows], [row.values[metric] for row in rows]

    def _metric(self, metric: Any) -> str:
        return next(iter(self.unpruned)) if metric is None else check_choice("metric", metric, list(self.unpruned))

    def _lost(self, row, metric, rising):
        """How much worse a row is, infinity where it is NaN; without a direction of the metric, how much it differs."""
        before, after = self.unpruned[metric], row.values[metric]
        lost = abs(after - before) if rising is None else (before - after if rising else after - before)
        # Metrics are float32: 0.97 - 0.96 is not 0.01, and a loss of `drop` must not fail by one rounding.
        lost -= float(np.finfo(np.float32).eps) * max(abs(before), abs(after))
        return math.inf if math.isnan(lost) else lost
