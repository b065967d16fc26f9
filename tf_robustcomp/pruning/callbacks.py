"""Dynamic Network Surgery for a model that is already compiled, as a Keras callback."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.replicas import build_optimizer
from tf_robustcomp.pruning.dns import DNS
from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.pruning.report import sparsity_report
from tf_robustcomp.utils.errors import InvalidArgument


class DynamicNetworkSurgery(keras.callbacks.Callback):
    """Prunes while ``model.fit`` runs, by wrapping ``model.optimizer`` in `DNS` before training begins.

    The place in the list of callbacks is free: ``BackupAndRestore`` finds the optimizer wrapped wherever it stands, and
    ``ModelCheckpoint`` and ``model.save`` write the model as it is pruned.

    Every epoch's logs get ``sparsity`` (fraction of zeros over all pruned variables), so it reaches History, CSVLogger
    and TensorBoard when it stands before them in the list of callbacks.  The optimizer stays wrapped after training: a
    saved model resumes where it stopped, and another ``fit`` with the same callback continues.

    Args:
        schedule: see `DNS`.
        **options: further arguments of `DNS`.

    Raises:
        InvalidArgument: the model is not compiled with an optimizer, or another rule prunes it already.

    Example:
        >>> model.fit(images, labels, epochs=10, callbacks=[rc.DynamicNetworkSurgery(schedule)])
    """

    def __init__(self, schedule: Any, **options: Any) -> None:
        super().__init__()
        self.schedule = schedule
        self.options = options

    def set_model(self, model: Any) -> None:
        """Wrap the compiled optimizer on the first call, keeping its state; all others begin after this."""
        super().set_model(model)
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and as_optimizer(optimizer) is None and model.built:
            self._wrap(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the model can be pruned; wrap its optimizer if it was not built before."""
        model = self.model
        if getattr(model, "optimizer", None) is None:
            raise InvalidArgument("model must be compiled with an optimizer before it is pruned. Received: none")
        existing = as_optimizer(model.optimizer)
        if existing is None:
            self._wrap(model)
        elif not isinstance(existing, DNS):
            raise InvalidArgument(f"optimizer must not prune already. Received: {type(existing).__name__}")

    def _wrap(self, model):
        scaler = model.optimizer if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) else None
        wrapped = DNS(scaler.inner_optimizer if scaler else model.optimizer, self.schedule, **self.options)
        build_optimizer(model, wrapped)
        if scaler:
            scaler.inner_optimizer = wrapped
        keras_private.replace_optimizer(model, scaler or wrapped)
        model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the sparsity reached into the logs."""
        if logs is not None:
            logs["sparsity"] = sparsity_report(self.model, sizes=False).total.sparsity


class PruningMonitor(keras.callbacks.Callback):
    """Writes to TensorBoard, for every pruned variable, how pruning proceeds; for any rule of this package.

    Scalars at the end of each epoch: ``sparsity/<path>``, ``threshold/<path>``, and ``cut/<path>``, ``spliced/<path>``:
    weights cut, and brought back, since the epoch before.

    Args:
        log_dir: folder of the event files, such as that of ``keras.callbacks.TensorBoard``.

    Raises:
        InvalidArgument: at the beginning of training, if no optimizer of this package prunes the model.

    Example:
        >>> model.compile(rc.MagnitudePruning("adam", schedule), loss)
        >>> model.fit(images, labels, epochs=10, callbacks=[rc.PruningMonitor("logs")])
    """

    def __init__(self, log_dir: Any) -> None:
        super().__init__()
        self.log_dir = str(log_dir)

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the file."""
        from tensorboard.summary import Writer

        optimizer = as_optimizer(getattr(self.model, "optimizer", None))
        if optimizer is None:
            raise InvalidArgument(
                "PruningMonitor needs a model that a pruning optimizer trains (list DynamicNetworkSurgery before it)"
            )
        self.writer = Writer(self.log_dir)
        self.masks = {}
        if optimizer.built:
            self.masks = {p.variable.path: ops.convert_to_numpy(p.mask) for p in optimizer.pruned}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the scalars."""
        optimizer = as_optimizer(self.model.optimizer)
        step = int(ops.convert_to_numpy(optimizer.iterations))
        for p in optimizer.pruned:
            path, mask = p.variable.path, ops.convert_to_numpy(p.mask)
            before = self.masks.get(path, np.ones_like(mask))
            values = {
                "sparsity": 1.0 - mask.mean(),
                "threshold": float(ops.convert_to_numpy(p.threshold)),
                "cut": np.sum(before & ~mask),
                "spliced": np.sum(mask & ~before),
            }
            for name, value in values.items():
                self.writer.add_scalar(f"{name}/{path}", float(value), step)
            self.masks[path] = mask
        self.writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the file."""
        self.writer.close()
