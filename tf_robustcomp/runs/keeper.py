"""The callback that keeps a run directory while Keras' fit runs."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.runs.directory import Progress, Run
from tf_robustcomp.runs.metrics import MetricsTable
from tf_robustcomp.utils import signals
from tf_robustcomp.utils.errors import Interrupted, RunError
from tf_robustcomp.utils.progress import Meter, write_progress


class Keeper(keras.callbacks.Callback):
    """Counts steps, writes rows of metrics and checkpoints, and answers signals, in the order of `on_train_batch_end`.

    A row of metrics comes before the checkpoint, so that the checkpoint never holds a row that metrics.csv lacks, and
    a signal (SIGINT, SIGTERM, SIGHUP) is answered last, when the step is whole; a second one ends at once.

    Args:
        run: opened.
        progress: where the model stands.
        max_steps: step at which training ends.
        log_steps: steps between rows.
        checkpoint_steps: steps between checkpoints.
        describe: function of the model that returns further columns.
    """

    def __init__(
        self,
        run: Run,
        progress: Progress,
        max_steps: int,
        log_steps: int,
        checkpoint_steps: int,
        describe: Callable[[Any], Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.run, self.step, self.carried = run, progress.step, progress.metrics
        self.max_steps, self.log_steps, self.checkpoint_steps = max_steps, log_steps, checkpoint_steps
        self.describe = describe
        self.received = 0

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Hold signals back and the files open while the block trains."""
        with signals.handled(self._receive):
            self.rows, self.meter = MetricsTable(self.run.metrics_path, self.step), Meter(self.step, self.max_steps)
            try:
                yield
            finally:
                self.meter.close()
                self.rows.close()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step.

        Raises:
            RunError: the loss is not finite; the last checkpoint stays.
            Interrupted: a signal came; a checkpoint was written first.
        """
        self.step += 1
        last = self.step == self.max_steps
        self._join(logs)
        self._check_finite(float(logs["loss"]))
        if self.step % self.log_steps == 0 or last:
            self._add_row(logs)
        self.meter.advance(self.step)
        if self.step % self.checkpoint_steps == 0 and not last:  # at the last step the model itself is written
            self._save()
        if self.received:
            self._save()
            raise Interrupted(self.received)

    def _join(self, logs):
        """Add to a row that an interruption cut in two the metric sums of its first part."""
        if not self.carried:
            return
        for variable, value in zip(self.model.metrics_variables, self.carried, strict=True):
            variable.assign(variable + ops.convert_to_tensor(np.asarray(value, variable.dtype)))
        self.carried = ()
        results = self.model.get_metrics_result()
        logs.update({name: results[name] for name in logs})

    def _check_finite(self, loss):
        if math.isfinite(loss):
            return
        kept = next((path for path in self.run.checkpoint_paths if path.is_file()), None)
        raise RunError(
            f"{self.run.path}: the loss is {loss} at step {self.step}; "
            + (f"{kept.name} holds the last good state. " if kept else "no checkpoint was written yet. ")
            + "Train in another directory with a smaller learning rate"
        )

    def _add_row(self, logs):
        row = {name: float(value) for name, value in logs.items()}
        row.update(self.describe(self.model) if self.describe else {})
        self.rows.add(self.step, row)
        self.meter.show(self.step, row)
        write_progress(self.run.path, self.step, self.max_steps)
        self.model.reset_metrics()

    def _save(self):
        """Save the model, the step, and the metric sums of an unfinished row."""
        self.rows.events.flush()
        sums = [ops.convert_to_numpy(variable).tolist() for variable in self.model.metrics_variables]
        unfinished = any(np.any(value) for value in sums)
        self.run.save_checkpoint(self.model, Progress(self.step, tuple(sums) if unfinished else ()))

    def _receive(self, number, frame):
        if self.received:
            raise Interrupted(number)
        self.received = number
