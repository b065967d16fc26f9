"""Report how large and how fast a model is, beside another one: what pruning and shrinking have brought."""

import dataclasses
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import runtimes
from tf_robustcomp.pruning.channels import ChannelGraph
from tf_robustcomp.pruning.layer_inputs import check_built, check_data
from tf_robustcomp.pruning.macs import count_macs
from tf_robustcomp.pruning.report import sparsity_report
from tf_robustcomp.pruning.sparse_file import save_sparse
from tf_robustcomp.utils import table
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument

NOTABLE_SPARSITY = 0.1  # initial zeros and a few cut weights are no reason for advice
WARM_UP = 2  # rounds that are not timed


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One figure of a model, and of the one before.

    Attributes:
        name: what it is.
        unit: "", "bytes" or "ms".
        value: of the model; None where there is none.
        before: of the other model, likewise.
        ratio: of the value to that before; of times, the median of the ratios of single rounds.
        reason: why there is no value, or what is not in it.
    """

    name: str
    unit: str
    value: float | None = None
    before: float | None = None
    ratio: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """Figures of a model, which print as a table; ``report["MACs"]`` is one row.

    Attributes:
        rows: tuple of `ReportRow`.
        compared: whether there was a model before.
        timing: how times were taken, in words; "" where none were.
        advice: one sentence where zeros alone do not help, or "".
    """

    rows: tuple[ReportRow, ...]
    compared: bool
    timing: str
    advice: str

    def __getitem__(self, name: str) -> ReportRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_csv(self, path: str | Path) -> None:
        """Write the rows."""
        table.write_csv(
            path, [dataclasses.asdict(row) for row in self.rows], [f.name for f in dataclasses.fields(ReportRow)]
        )

    def __str__(self):
        lines = table.text(("", *self._columns()), map(self._cells, self.rows)).splitlines()
        for index, row in enumerate(self.rows, 1):
            lines[index] = f"{lines[index].rstrip()}  {row.reason}" if row.reason else lines[index]
        return "\n".join([*lines, *filter(None, (self.timing, self.advice))])

    def _columns(self):
        return ("before", "after", "ratio") if self.compared else ("model",)

    def _cells(self, row):
        cells = [_shown(row.value, row.unit)]
        if self.compared:
            cells = [_shown(row.before, row.unit), *cells, "" if row.ratio is None else f"{row.ratio:.3f}"]
        return [f"{row.name}, {row.unit}" if row.unit else row.name, *cells]


def model_report(model: Any, data: Any = None, before: Any = None, latency: int = 20, threads: int = 1) -> ModelReport:
    """Return parameters, nonzeros, multiply-accumulates, sizes of files and times of a model, beside another one's.

    Rows: "parameters", "nonzero", "MACs" (see `count_macs`), "keras file" (as ``model.save`` writes it, with the
    optimizer's state, if there is one), "sparse file" (`save_sparse`), "LiteRT file", "ONNX file", "Keras latency",
    "LiteRT latency", "ONNX Runtime latency".  A row whose package is not installed, or whose format cannot hold the
    model, says so.  Files are written to a temporary folder.

    Times are those of one example.  The two models take turns, so that both see the same load of the machine.

    Args:
        model: built ``keras.Model`` of any kind.
        data: array or arrays of inputs, of which one example is used; None: made up from the model's input shapes.
        before: built model with the same inputs, such as that before `shrink`.
        latency: rounds that are timed, each model once a round; 0 leaves times out.
        threads: of LiteRT and ONNX Runtime, >= 1; Keras has those that its backend was started with.

    Raises:
        InvalidArgument: a model is not built, takes other inputs than ``before``, or has inputs of unknown shape and
            there are no data.

    Example:
        >>> print(rc.model_report(rc.shrink(model), before=model))
    """
    check_built(model)
    check_at_least("latency", latency, 0)
    check_at_least("threads", threads, 1)
    models = [model]
    if before is not None:
        check_built(before)
        _check_same_inputs(model, before)
        models.append(before)
    example = _example(model, data)
    counts = [count_macs(one, example) for one in models]
    left_out = counts[0].left_out
    rows = [
        _row("parameters", "", [one.count_params() for one in models]),
        _row("nonzero", "", [sum(map(_nonzero, one.weights)) for one in models]),
        _row("MACs", "", [one.total for one in counts], f"without {', '.join(left_out)}" if left_out else ""),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows += _files(models, example, Path(folder), latency, threads)
    timing = (
        f"Latency: one example, medians of {latency} rounds{', the models in turn' if before is not None else ''}; "
        f"LiteRT and ONNX Runtime on {threads} thread{'s' * (threads > 1)}, Keras on those of its backend."
    )
    totals = [one.total for one in counts]
    return ModelReport(tuple(rows), before is not None, timing if latency else "", _advice(model, totals))


def _files(models, example, folder, rounds, threads):
    """Rows of sizes, then those of times."""
    sizes = [
        _row_or_reason("keras file", "bytes", lambda: [_saved(one, folder / "model.keras") for one in models]),
        _row_or_reason("sparse file", "bytes", lambda: [_sparse(one, folder / "model.rcsm") for one in models]),
    ]
    latencies = [_timed("Keras latency", lambda: [runtimes.keras_function(one, example) for one in models], rounds)]
    for runtime in (runtimes.LITERT, runtimes.ONNX):
        paths = [folder / f"model{index}{runtime.suffix}" for index in range(len(models))]
        export = functools.partial(_exported, runtime, models, paths, example)
        size = _row_or_reason(f"{runtime.name.split()[0]} file", "bytes", export, runtime.writers)
        sizes.append(size)
        if size.value is None:
            latencies.append(ReportRow(f"{runtime.name} latency", "ms", reason="no file"))
        else:
            load = functools.partial(_loaded, runtime, paths, example, threads)
            latencies.append(_timed(f"{runtime.name} latency", load, rounds, runtime.runners))
    return [*sizes, *latencies] if rounds else sizes


def _saved(model, path):
    model.save(path)
    return Path(path).stat().st_size


def _sparse(model, path):
    save_sparse(model, path)
    return path.stat().st_size


def _exported(runtime, models, files, example):
    for model, file in zip(models, files, strict=True):
        runtimes.export(model, runtime, file, example)
    return [file.stat().st_size for file in files]


def _loaded(runtime, paths, example, threads):
    return [runtime.load(path, example, threads) for path in paths]


def _timed(name, load, rounds, packages=()):
    """The row of the times of functions that are loaded, one for each model."""
    if not rounds:
        return ReportRow(name, "ms")
    taken: list[list[float]] = []

    def medians():
        taken.extend(times(load(), rounds))
        return [1e3 * statistics.median(seconds) for seconds in taken]

    row = _row_or_reason(name, "ms", medians, packages)
    if len(taken) < 2:
        return row
    # What disturbs a round disturbs both models.
    return dataclasses.replace(row, ratio=statistics.median(a / b for a, b in zip(*taken, strict=True)))


def times(actions: list[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Return the seconds of each action in every round, within which they take turns: once forth, once back.

    Args:
        actions: functions without arguments.
        rounds: that count; a few before do not.
    """
    taken: list[list[float]] = [[] for _ in actions]
    for number in range(WARM_UP + rounds):
        order = list(zip(actions, taken, strict=True))
        for action, seconds in order if number % 2 else reversed(order):
            began = time.perf_counter()
            action()
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - began)
    return taken


def _row_or_reason(name, unit, measure, packages=()):
    """A row of the values that a function gives, one for each model, or of the reason why it cannot."""
    if lacking := runtimes.missing(packages):
        return ReportRow(name, unit, reason=f"not installed: pip install {' '.join(lacking)}")
    try:
        return _row(name, unit, measure())
    except Exception as error:  # whatever a converter says of a model that its format cannot hold
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        return ReportRow(name, unit, reason=f"not possible: {reason}")


def _row(name, unit, values, reason=""):
    """A row of one value, or of two, the second of which is that before."""
    value, before = values[0], values[1] if len(values) > 1 else None
    return ReportRow(name, unit, value, before, value / before if before else None, reason)


def _nonzero(variable):
    return int(np.count_nonzero(ops.convert_to_numpy(variable)))


def _check_same_inputs(model, before):
    shapes = [[tuple(tensor.shape) for tensor in getattr(one, "inputs", None) or ()] for one in (model, before)]
    if all(shapes) and shapes[0] != shapes[1]:
        raise InvalidArgument(f"before must have the model's input shapes {shapes[0]}. Received: {shapes[1]}")


def _example(model, data):
    """Inputs of the model's dtypes with a batch axis as long as the model asks for, or of length 1."""
    inputs = getattr(model, "inputs", None) or []
    count = next((tensor.shape[0] for tensor in inputs if tensor.shape[0]), 1)
    if data is not None:
        arrays = keras.tree.map_structure(lambda array: array[:count], check_data(model, data))
        return keras.tree.map_structure(lambda x: x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x, arrays)
    if not inputs or any(None in tensor.shape[1:] or tensor.dtype == "string" for tensor in inputs):
        shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in inputs]
        raise InvalidArgument(f"data must be given where the model leaves inputs open. Received: None, for {shapes}")
    generator = np.random.default_rng(0)

    def made_up(tensor):
        shape = (count, *tensor.shape[1:])
        return (generator.uniform(size=shape) if "float" in tensor.dtype else np.zeros(shape)).astype(tensor.dtype)

    return keras.tree.map_structure(made_up, inputs[0] if isinstance(model, keras.Sequential) else model.input)


def _advice(model, macs):
    """A sentence where many weights are zero, which no layer makes use of."""
    sparsity = sparsity_report(model, sizes=False).total.sparsity
    if sparsity < NOTABLE_SPARSITY:
        return ""
    zeros = f"{100 * sparsity:.0f} % of the weights"
    if macs[0] == macs[-1]:
        text = f"{zeros} are zero, but every layer still has its full size: files shrink, speed does not."
    else:
        text = f"{zeros} that are left are zero: files shrink by that, speed does not."
    try:
        graph = ChannelGraph(model)
    except InvalidArgument:  # rc.shrink would refuse it, too
        return text
    kept, unneeded = graph.is_kept(), graph.unneeded()
    empty = [bool(unneeded[root]) for root in {root for _, root in graph.births()} if not kept[root]]
    if any(empty):  # a few may be so by chance
        return f"{text} Take the channels out with rc.shrink ({100 * sum(empty) / len(empty):.0f} % are empty)."
    return f"{text} No channel is empty; rc.shrink takes out those that pattern=rc.Channels(coupled=True) cuts."


def _shown(value, unit):
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.3g}" if unit == "ms" else f"{value:,}"
