"""Callbacks that keep a run directory while Keras' fit runs, in the order in which `in_order` returns them."""

import contextlib
import csv
import math
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from tensorboard.summary import Writer

from tf_robustcomp.runs.directory import Progress, Run
from tf_robustcomp.utils import files, signals, table
from tf_robustcomp.utils.errors import Interrupted, RunError
from tf_robustcomp.utils.progress import Meter, write_progress


def in_order(
    run: Run,
    progress: Progress,
    max_steps: int,
    log_steps: int,
    checkpoint_steps: int,
    describe: Callable[[Any], Mapping[str, float]],
) -> list[keras.callbacks.Callback]:
    """Return the callbacks of a training.

    A row of metrics comes before the checkpoint, so that the checkpoint never holds a row that metrics.csv lacks, and
    a signal is answered last, when the step is whole.
    """
    counter = StepCounter(progress)
    rows = MetricsTable(run, counter, max_steps, log_steps, describe)
    checkpoint = SaveCheckpoint(run, counter, max_steps, checkpoint_steps, rows)
    return [counter, CheckFinite(run, counter), rows, checkpoint, StopOnSignal(checkpoint)]


class StepCounter(keras.callbacks.Callback):
    """Counts steps, and joins a row of metrics that an interruption cut in two."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.step = progress.step
        self.carried = progress.metrics

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step; after a resume, add the metric sums of the row's first part."""
        self.step += 1
        if not self.carried:
            return
        for variable, value in zip(self.model.metrics_variables, self.carried, strict=True):
            variable.assign(variable + ops.convert_to_tensor(np.asarray(value, variable.dtype)))
        self.carried = ()
        results = self.model.get_metrics_result()
        logs.update({name: results[name] for name in logs})


class CheckFinite(keras.callbacks.Callback):
    """Ends a training whose loss is not finite, and leaves its last checkpoint."""

    def __init__(self, run: Run, counter: StepCounter) -> None:
        super().__init__()
        self.run, self.counter = run, counter

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Raise RunError where the loss is not finite."""
        loss = float(logs["loss"])
        if math.isfinite(loss):
            return
        kept = next((path for path in self.run.checkpoint_paths if path.is_file()), None)
        raise RunError(
            f"{self.run.path}: the loss is {loss} at step {self.counter.step}; "
            + (f"{kept.name} holds the last good state. " if kept else "no checkpoint was written yet. ")
            + "Train in another directory with a smaller learning rate"
        )


class MetricsTable(keras.callbacks.Callback):
    """Writes a row of metrics every ``log_steps`` steps: metrics.csv, TensorBoard events, progress.

    Rows after the present step are those of a run that continued past its last checkpoint; they are dropped, and come
    again.
    """

    def __init__(
        self, run: Run, counter: StepCounter, max_steps: int, log_steps: int, describe: Callable[[Any], Mapping]
    ) -> None:
        super().__init__()
        self.run, self.counter = run, counter
        self.max_steps, self.log_steps, self.describe = max_steps, log_steps, describe
        self.meter = Meter(counter.step, max_steps)
        self.columns: list[str] | None = None
        self.file: Any = None
        self.events: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the files; from here on a signal is answered with a checkpoint, so that rows and checkpoint agree."""
        self._open(self.counter.step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a row where one is due, and move the progress bar."""
        step = self.counter.step
        if step % self.log_steps == 0 or step == self.max_steps:
            row = {name: float(value) for name, value in logs.items()}
            row.update(self.describe(self.model))
            self.add(step, row)
            self.meter.show(step, row)
            write_progress(self.run.path, step, self.max_steps)
            self.model.reset_metrics()
        self.meter.advance(step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        row = {"step": step, **values}
        with files.naming(self.run.metrics_path):
            if self.columns is None:
                self.columns = list(row)
                self._write(self.file, [self.columns])
            self._write(self.file, [[_text(row[name]) for name in self.columns]])
            self.file.flush()
        self._write_events(row)

    def flush(self) -> None:
        """Write all buffered rows and events."""
        with files.naming(self.run.metrics_path):
            self.file.flush()
        self.events.flush()

    def close(self) -> None:
        """Close the files and the progress bar."""
        self.meter.close()
        if self.file is None:  # training did not begin
            return
        with files.naming(self.run.metrics_path):
            self.file.close()
        self.events.close()

    def _open(self, step):
        """Keep the rows up to a step; the events are made from them, as they cannot be cut."""
        path, events = self.run.metrics_path, self.run.path / "tensorboard"
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        shutil.rmtree(events, ignore_errors=True)
        self.events = Writer(str(events))
        self.columns = list(rows[0]) if rows else None
        with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
            if rows:
                self._write(file, [self.columns, *([_text(value) for value in row.values()] for row in rows)])
        self.file = open(path, "a", newline="")  # noqa: SIM115  closed in close()
        for row in rows:
            self._write_events(row)

    def _write(self, file, rows):
        csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_events(self, row):
        for name, value in row.items():
            if name != "step":
                self.events.add_scalar(name, value, row["step"])


class SaveCheckpoint(keras.callbacks.Callback):
    """Saves a checkpoint every ``checkpoint_steps`` steps, but not at the last one, which writes the model."""

    def __init__(
        self, run: Run, counter: StepCounter, max_steps: int, checkpoint_steps: int, rows: MetricsTable
    ) -> None:
        super().__init__()
        self.run, self.counter, self.rows = run, counter, rows
        self.max_steps, self.checkpoint_steps = max_steps, checkpoint_steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save where a checkpoint is due."""
        if self.counter.step % self.checkpoint_steps == 0 and self.counter.step != self.max_steps:
            self.save()

    def save(self) -> None:
        """Save the model, the step, and the metric sums of an unfinished row."""
        self.rows.flush()
        sums = [ops.convert_to_numpy(variable).tolist() for variable in self.model.metrics_variables]
        unfinished = any(np.any(value) for value in sums)
        self.run.save_checkpoint(self.model, Progress(self.counter.step, tuple(sums) if unfinished else ()))


class StopOnSignal(keras.callbacks.Callback):
    """Holds SIGINT, SIGTERM and SIGHUP back until the step is done, then saves and ends; a second one ends at once."""

    def __init__(self, checkpoint: SaveCheckpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.received = 0

    def held(self) -> contextlib.AbstractContextManager:
        """Return the context in which signals are held back."""
        return signals.handled(self._receive)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save and raise Interrupted where a signal has come."""
        if self.received:
            self.checkpoint.save()
            raise Interrupted(self.received)

    def _receive(self, number, frame):
        if self.received:
            raise Interrupted(number)
        self.received = number


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


def _text(value):
    return str(value) if isinstance(value, int) else f"{value:.9g}"
