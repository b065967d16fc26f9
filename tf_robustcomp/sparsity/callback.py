"""Dynamic Network Surgery for a model that is already compiled, as a Keras callback."""

import contextlib

import keras
import numpy as np
from keras import ops

from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity.optimizer import as_optimizer
from tf_robustcomp.sparsity.report import sparsity_report
from tf_robustcomp.sparsity.rules import DNS


class DynamicNetworkSurgery(keras.callbacks.Callback):
    """Prunes while ``model.fit`` runs, by wrapping ``model.optimizer`` in `DNS` when training begins.

    Every epoch's logs get ``sparsity`` (share of zeros over all pruned variables), so it reaches History, CSVLogger and
    TensorBoard when it stands before them in the list of callbacks.  The optimizer stays wrapped after training: a
    saved model goes on where it stopped, and another ``fit`` with the same callback continues.

    Args:
        schedule: see `DNS`.
        **options: further arguments of `DNS`.

    Raises:
        InvalidArgument: the model is not compiled with an optimizer, or another rule prunes it already.
    """

    def __init__(self, schedule, **options):
        super().__init__()
        self.schedule = schedule
        self.options = options

    def on_train_begin(self, logs=None):
        """Wrap the optimizer, once, whatever it has learned so far."""
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
        strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's models have one
        with strategy.scope() if strategy else contextlib.nullcontext():
            wrapped.build(model.trainable_variables)
        if scaler:
            scaler.inner_optimizer = wrapped
        else:
            model.optimizer = wrapped
        model.make_train_function(force=True)

    def on_epoch_end(self, epoch, logs=None):
        """Put the sparsity reached into the logs."""
        if logs is not None:
            logs["sparsity"] = sparsity_report(self.model, sizes=False).total.sparsity


class PruningMonitor(keras.callbacks.Callback):
    """Writes to TensorBoard, for every pruned variable, what its pruning does; for any rule of this package.

    Scalars at the end of each epoch: ``sparsity/<path>``, ``threshold/<path>``, and ``cut/<path>``, ``spliced/<path>``:
    weights that went, and that came back, since the epoch before.

    Args:
        log_dir: folder of the event files, such as that of ``keras.callbacks.TensorBoard``.

    Raises:
        InvalidArgument: at the beginning of training, if no optimizer of this package prunes the model.
    """

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = str(log_dir)

    def on_train_begin(self, logs=None):
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

    def on_epoch_end(self, epoch, logs=None):
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

    def on_train_end(self, logs=None):
        """Close the file."""
        self.writer.close()
