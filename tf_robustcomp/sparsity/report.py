"""How sparse is a model?  Counted in the weights themselves, whatever made them so."""

import csv
import dataclasses

import numpy as np
from keras import ops

from tf_robustcomp.sparsity.optimizer import as_optimizer, is_kernel


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One variable: its path, number of parameters, and number of those that are not exactly zero."""

    path: str
    parameters: int
    nonzero: int

    @property
    def sparsity(self):
        """Share of exact zeros, in [0, 1]."""
        return 1.0 - self.nonzero / self.parameters if self.parameters else 0.0


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """Rows, one a variable; prints as a table."""

    rows: tuple

    @property
    def total(self):
        """All rows summed, as a row with path ``total``."""
        return SparsityRow("total", sum(r.parameters for r in self.rows), sum(r.nonzero for r in self.rows))

    def to_csv(self, path):
        """Write ``path,parameters,nonzero,sparsity`` rows, the total last."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "parameters", "nonzero", "sparsity"])
            for row in (*self.rows, self.total):
                writer.writerow([row.path, row.parameters, row.nonzero, f"{row.sparsity:.6f}"])

    def __str__(self):
        width = max(len(row.path) for row in (*self.rows, self.total))
        lines = [f"{'variable':<{width}}  parameters    nonzero  sparsity"]
        for row in (*self.rows, self.total):
            lines.append(f"{row.path:<{width}}  {row.parameters:>10,} {row.nonzero:>10,}  {row.sparsity:8.4f}")
        return "\n".join(lines)


def sparsity_report(model):
    """Sparsity of the variables that are pruned in ``model``, or, where no optimizer prunes, of all its kernels.

    Args:
        model: built ``keras.Model``.

    Returns:
        SparsityReport
    """
    optimizer = as_optimizer(getattr(model, "optimizer", None))
    if optimizer is not None and optimizer.built:
        variables = [p.variable for p in optimizer.pruned]
    else:
        variables = [v for v in model.trainable_variables if is_kernel(v.path, v)]
    rows = []
    for variable in variables:
        values = ops.convert_to_numpy(variable)
        rows.append(SparsityRow(variable.path, int(values.size), int(np.count_nonzero(values))))
    return SparsityReport(tuple(rows))
