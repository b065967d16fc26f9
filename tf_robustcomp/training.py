"""One training loop for both halves: Keras' fit between checkpoints, rows of metrics, signals and a progress bar."""

import contextlib
import csv
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from tensorboard.summary import Writer
from tqdm import tqdm

from tf_robustcomp import backend, files, runs
from tf_robustcomp.errors import RunError
from tf_robustcomp.flags import Interrupted
from tf_robustcomp.runs import Progress


def train_run(command, settings, load, build, batches_from, max_steps=None, describe=None, complete=None):
    """Train in the settings' run directory, from its checkpoint where there is one.

    Args:
        command: name of the entry point.
        settings: dataclass with ``train_dir``, ``log_steps``, ``checkpoint_steps`` and the fields of
            `backend.DeviceSettings`.
        load: function that gives the training data, a tuple of arrays of one length.
        build: function of the data that gives the compiled model a new run starts with.
        batches_from: function of the data and a step that gives endless batches from that step on.
        max_steps: step at which training ends, or a function of the data.
        describe: see `train`.
        complete: see `train`; of the model and the data.
    """
    with runs.open_run(settings.train_dir, command, settings) as run:
        if run.finished:
            print(f"{run.path}: has finished; delete it to train again")
            return
        data = load()
        run.begin()
        steps = max_steps(data) if callable(max_steps) else max_steps
        with backend.configured(settings):
            model, progress = run.resume(runs.load_model) or (build(data), Progress())
            backend.join_batch_statistics(model, settings.strategy)
            print(f"{run.path}: {len(data[0])} images, step {progress.step} of {steps}", flush=True)
            batches = batches_from(data, progress.step)
            train(
                run,
                model,
                progress,
                batches,
                steps,
                settings.log_steps,
                settings.checkpoint_steps,
                describe,
                complete and (lambda model: complete(model, data)),
            )
    print(f"{run.path}: trained; `eval` with the same flags evaluates it", flush=True)


def train(run, model, progress, batches, max_steps, log_steps, checkpoint_steps, describe=None, complete=None):
    """Train ``model`` from ``progress`` to ``max_steps``, then finish the run.

    Args:
        run: `runs.Run`, opened.
        model: compiled ``keras.Model``; its metrics must be sums or means, so that a row cut in two can be joined.
        progress: `runs.Progress` where the model stands.
        batches: iterable for ``model.fit``, without end, whose first batch is that of the present step.
        max_steps: step at which training ends.
        log_steps: steps between rows of metrics.csv.
        checkpoint_steps: steps between checkpoints.
        describe: function of the model that gives further columns, a dict of floats.
        complete: function of the trained model, called before it is written for good.

    Raises:
        RunError: the loss is not finite; the last checkpoint before it stays.
        flags.Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    if progress.step < max_steps:
        model.optimizer.build(model.trainable_variables)  # before the step, which TensorFlow else traces a second time
        with _Signals() as signals:
            keeper = _Keeper(run, progress, max_steps, log_steps, checkpoint_steps, describe, signals)
            try:
                model.fit(
                    batches, steps_per_epoch=max_steps - progress.step, shuffle=False, verbose=0, callbacks=[keeper]
                )
            finally:
                keeper.close()
    if complete:
        complete(model)
    run.finish(model)


def stepwise(boundaries, rates):
    """Learning rate that changes at each boundary, a step: a Keras schedule, or the one rate where there is none.

    Keras' schedule holds a rate up to and including its boundary; here, as published, it changes at it.
    """
    if not boundaries:
        return rates[0]
    return keras.optimizers.schedules.PiecewiseConstantDecay([boundary - 1 for boundary in boundaries], list(rates))


class _Keeper(keras.callbacks.Callback):
    """Keeps the run directory while fit runs."""

    def __init__(self, run, progress, max_steps, log_steps, checkpoint_steps, describe, signals):
        super().__init__()
        self.run = run
        self.max_steps = max_steps
        self.log_steps = log_steps
        self.checkpoint_steps = checkpoint_steps
        self.describe: Callable[..., dict] = describe or (lambda model: {})
        self.signals = signals

        self.step = progress.step
        self.carried = progress.metrics
        self.table = Table(run, self.step)
        self.meter = Meter(self.step, max_steps)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.carried:  # the first part of a row that an interruption cut in two
            for variable, value in zip(self.model.metrics_variables, self.carried, strict=True):
                variable.assign(variable + ops.convert_to_tensor(np.asarray(value, variable.dtype)))
            self.carried = ()
            results = self.model.get_metrics_result()
            logs = {name: results[name] for name in logs}
        self._check_finite(logs)
        last = self.step == self.max_steps
        if self.step % self.log_steps == 0 or last:
            self._write_row(logs)
        if self.step % self.checkpoint_steps == 0 and not last:
            self._save()
        self.meter.advance(self.step)
        if self.signals.received:
            self._save()
            raise Interrupted(self.signals.received)

    def close(self):
        self.meter.close()
        self.table.close()

    def _check_finite(self, logs):
        if math.isfinite(float(logs["loss"])):
            return
        kept = next((p for p in self.run.checkpoint_paths if p.is_file()), None)
        raise RunError(
            f"{self.run.path}: the loss is {float(logs['loss'])} at step {self.step}; "
            + (f"{kept.name} holds the last good state. " if kept else "no checkpoint was written yet. ")
            + "Train in another directory with a smaller learning rate"
        )

    def _write_row(self, logs):
        row = {name: float(value) for name, value in logs.items()}
        row |= self.describe(self.model)
        self.table.add(self.step, row)
        self.meter.show(self.step, row)
        self.model.reset_metrics()

    def _save(self):
        self.table.flush()
        sums = [ops.convert_to_numpy(v).tolist() for v in self.model.metrics_variables]
        unfinished_row = any(np.any(value) for value in sums)
        self.run.save_checkpoint(self.model, Progress(self.step, tuple(sums) if unfinished_row else ()))


class Table:
    """metrics.csv and the TensorBoard events made from it.

    Rows after ``step`` are those of a run that went on past its last checkpoint; they are dropped, and come again.

    Args:
        run: `runs.Run`.
        step: where training resumes.
    """

    def __init__(self, run, step):
        self.path = run.metrics_path
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        events = run.path / "tensorboard"
        shutil.rmtree(events, ignore_errors=True)
        self.writer = Writer(str(events))
        self.columns = list(rows[0]) if rows else None
        with files.replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            if rows:
                self._write_csv(file, [self.columns, *(list(map(_text, row.values())) for row in rows)])
        self.file = open(self.path, "a", newline="")  # noqa: SIM115  closed in close()
        for row in rows:
            self._write_events(row)

    def add(self, step, values):
        """Append a row of floats."""
        row = {"step": step, **values}
        if self.columns is None:
            self.columns = list(row)
            self._write_csv(self.file, [self.columns])
        with files.naming(self.path):
            self._write_csv(self.file, [[_text(row[name]) for name in self.columns]])
            self.file.flush()
        self._write_events(row)

    def flush(self):
        """Bring everything to the files."""
        self.file.flush()
        self.writer.flush()

    def close(self):
        """Flush and close."""
        self.file.close()
        self.writer.close()

    def _write_csv(self, file, rows):
        csv.writer(file, lineterminator="\n").writerows(rows)

    def _write_events(self, row):
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, row["step"])


def read_metrics(path):
    """Rows of a metrics.csv as dicts of floats (``step`` an int); a half last row is left out.

    Args:
        path: of the file, which may be missing.
    """
    try:
        with open(path, newline="") as file:
            records = list(csv.DictReader(file))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []
    rows = []
    for record in records:
        try:
            rows.append({name: float(value) for name, value in record.items()} | {"step": int(record["step"])})
        except (TypeError, ValueError, KeyError):
            break
    return rows


class Meter:
    """Progress: a bar with the time left on a terminal, plain lines elsewhere.

    Args:
        step: where training begins now.
        total: where it ends.
    """

    def __init__(self, step, total):
        self.first, self.total, self.began = step, total, time.monotonic()
        self.bar = tqdm(initial=step, total=total, unit="step", disable=not sys.stderr.isatty(), smoothing=0.05)

    def advance(self, step):
        """Move the bar."""
        self.bar.update(step - self.bar.n) if not self.bar.disable else None

    def show(self, step, row):
        """Show a row of metrics."""
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        if not self.bar.disable:
            self.bar.set_postfix_str(values)
            return
        rate = (step - self.first) / max(time.monotonic() - self.began, 1e-9)
        left = tqdm.format_interval((self.total - step) / rate)
        print(f"step {step}/{self.total}  {values}  {rate:.3g} steps/s  {left} left", flush=True)

    def close(self):
        """End the bar's line."""
        self.bar.close()


class _Signals(contextlib.AbstractContextManager):
    """Holds SIGINT and SIGTERM back until the step is done; a second one goes through at once."""

    received = 0

    def __enter__(self):
        self.previous = {n: signal.signal(n, self._receive) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.received:
            raise Interrupted(number)
        self.received = number


def _text(value):
    return str(value) if isinstance(value, int) else f"{value:.9g}"
