"""Report how sparse and how small a model is, counted in its weights."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.coding import sparse_tensors as coding
from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.pruning.quantised import kernels_of
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils import table

COLUMNS = ("path", "parameters", "nonzero", "sparsity", "dense_bytes", "gzip_bytes", "sparse_bytes")


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One variable: its path, number of parameters, number of those that are not exactly zero, and sizes in bytes.

    Attributes:
        path: of the variable.
        parameters: number of them.
        nonzero: number that is not exactly zero.
        dense_bytes: as an array.
        gzip_bytes: as a deflated array; None where sizes were not asked for.
        sparse_bytes: in a file of `save_sparse`; None where sizes were not asked for.
    """

    path: str
    parameters: int
    nonzero: int
    dense_bytes: int = 0
    gzip_bytes: int | None = None
    sparse_bytes: int | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of exact zeros, in [0, 1]."""
        return 1.0 - self.nonzero / self.parameters if self.parameters else 0.0


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """Rows, one for each variable; prints as a table."""

    rows: tuple

    @property
    def total(self) -> SparsityRow:
        """All rows summed, as a row with path ``total``."""

        def summed(name):
            values = [getattr(row, name) for row in self.rows]
            return None if None in values else sum(values)

        return SparsityRow("total", *(summed(f.name) for f in dataclasses.fields(SparsityRow)[1:]))

    def to_csv(self, path: str | Path) -> None:
        """Write a row for each variable, the total last."""
        rows = [dataclasses.asdict(row) | {"sparsity": f"{row.sparsity:.6f}"} for row in (*self.rows, self.total)]
        table.write_csv(path, rows, COLUMNS)

    def __str__(self):
        width = max(len(row.path) for row in (*self.rows, self.total))
        names = ("dense", "gzip", "sparse file")
        lines = [f"{'variable':<{width}}  parameters    nonzero  sparsity" + "".join(f"{n:>13}" for n in names)]
        for row in (*self.rows, self.total):
            sizes = (row.dense_bytes, row.gzip_bytes, row.sparse_bytes)
            lines.append(
                f"{row.path:<{width}}  {row.parameters:>10,} {row.nonzero:>10,}  {row.sparsity:8.4f}"
                + "".join("            -" if size is None else f"{size:>13,}" for size in sizes)
            )
        return "\n".join(lines)


def sparsity_report(model: Any, sizes: bool = True) -> SparsityReport:
    """Return the sparsity of the pruned variables of ``model`` or, where no optimizer prunes, of all its kernels.

    A model that was quantised after its optimizer was built has other variables than this prunes: all kernels are
    reported.  Of a quantised kernel the weights are counted that stand for zero, two in a byte where there are 4 bits.

    Args:
        model: built ``keras.Model``.
        sizes: whether to compress each variable, which takes about a second for ten million weights.

    Returns:
        SparsityReport

    Raises:
        InvalidArgument: names a layer that waits for its calibration (modes "gptq" and "awq").

    Example:
        >>> rc.prune(model, 0.9)
        >>> report = rc.sparsity_report(model)
        >>> print(report, report.total.sparsity)
        >>> report.to_csv("sparsity.csv")
    """
    quantised = kernels_of(model)
    optimizer = as_optimizer(getattr(model, "optimizer", None))
    if optimizer is not None and optimizer.built and optimizer.pruned and not quantised:
        variables = [p.variable for p in optimizer.pruned]
    else:
        variables = [v for v in model.weights if is_kernel(v.path, v)]  # frozen ones, too
    return SparsityReport(tuple(_row(v, quantised.get(id(v)), sizes) for v in variables))


def _row(variable, kernel, sizes):
    values = ops.convert_to_numpy(variable)
    if kernel is None:
        parameters, nonzero = values.size, np.count_nonzero(values)
    else:
        parameters, nonzero = kernel.size, kernel.nonzero()
    return SparsityRow(
        variable.path,
        int(parameters),
        int(nonzero),
        int(values.nbytes),
        len(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)) if sizes else None,
        len(_code(values, kernel)) if sizes else None,
    )


def _code(values, kernel):
    if kernel is not None:
        return coding.encode_integers(kernel.codes())
    return coding.encode(np.asarray(values, np.float32))
