"""Recipes that train and prune in turns: iterative magnitude pruning with rewinding, as in lottery tickets."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.replicas import build_optimizer
from tf_robustcomp.pruning import layer_inputs, schedules
from tf_robustcomp.pruning.kernels import check_sparsity, chosen_variables, read, rising_sparsities
from tf_robustcomp.pruning.one_shot import prune
from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.pruning.pruning_rounds import (
    REWIND,
    IterativePruningReport,
    PruningRound,
    RoundsFolder,
    RoundState,
    arrays_name,
)
from tf_robustcomp.pruning.rules import MagnitudePruning
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument

REWINDS = ("weights", "learning_rate", None)
NEVER = 2**31 - 1  # a step that no training reaches: masks are never computed again


def iterative_pruning(
    model: Any,
    data: Any,
    sparsity: float,
    rounds: int,
    epochs: int,
    rewind: str | None = "weights",
    rewind_epoch: int = 0,
    include: Any = None,
    distribution: Any = "global",
    pattern: Any = None,
    folder: str | Path | None = None,
    seed: int | None = None,
    **fit: Any,
) -> IterativePruningReport:
    """Train a model, and then in each round prune it by magnitude, rewind it and train it again, in place.

    Round 0 trains the dense model for ``epochs`` epochs.  Round r cuts up to the sparsity ``1 - (1 - s)^(r/n)``, so
    that each cuts the same fraction of what is left, and trains for ``epochs - rewind_epoch`` epochs; a weight that is
    cut stays exactly zero.  What a round begins with is:

    - ``rewind="weights"``: the weights, and the optimizer, as they were at the end of epoch ``rewind_epoch`` of round
      0 (lottery tickets, Frankle, Carbin 2019, arXiv 1803.03635, with epoch 0; Frankle et al. 2020, arXiv 1912.05671).
    - ``rewind="learning_rate"``: the trained weights, with the learning rate and the step of that epoch (Renda,
      Frankle, Carbin 2020, arXiv 2003.02389).
    - ``rewind=None``: the trained weights and the learning rate as it ended: fine-tuning.

    Epochs are numbered on from the one to which a round rewinds, so that callbacks that set the learning rate see it.

    Args:
        model: built and compiled, its optimizer one of Keras, which begins from its initial state.
        data: (inputs, targets), or a dataset, as ``fit`` takes them.
        sparsity: in [0, 1), after the last round.  For p at each round: ``1 - (1 - p)**rounds``.
        rounds: int >= 1, number of rounds that prune.
        epochs: int >= 1, of round 0.
        rewind: "weights", "learning_rate" or None.
        rewind_epoch: int in [0, epochs).
        include, distribution, pattern: see `prune`.
        folder: where each finished round is kept; a second call goes on after the last one.  None keeps nothing.
        seed: of every round, from which ``keras.utils.set_random_seed`` is set; with one, and data that come in the
            same order, a call that goes on ends in the same bits as one never stopped.  None sets none.
        **fit: further arguments of ``fit``, such as ``batch_size``, ``validation_data`` and ``callbacks``.

    Returns:
        IterativePruningReport; the model is left with an optimizer that keeps its zeros when it is trained further.

    Raises:
        InvalidArgument: an argument breaks its rule.
        RunError: the folder holds rounds of other settings, is in use, or something else made it.
        DataError: a file in it is damaged.  After any error the model is as it was before the call.

    Example:
        >>> report = rc.iterative_pruning(model, (images, labels), 0.9, rounds=3, epochs=5, folder="ticket")
        >>> print(report)
    """
    settings = _checked(model, sparsity, rounds, epochs, rewind, rewind_epoch, include, fit)
    recipe = _Recipe(model, data, fit, **settings, include=include, distribution=distribution, pattern=pattern)
    recipe.seed = seed
    before = [read(variable) for variable in model.variables]
    optimizer = model.optimizer
    try:
        with RoundsFolder.opened(folder, len(recipe.sparsities), recipe.description) as kept:
            return recipe.run(kept)
    except BaseException:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        _replace(model, optimizer)
        raise


def _checked(model, sparsity, rounds, epochs, rewind, rewind_epoch, include, fit):
    layer_inputs.check_built(model)
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise InvalidArgument("model must be compiled with an optimizer and a loss. Received: one that is not")
    if as_optimizer(model.optimizer) is not None:
        raise InvalidArgument("model must be compiled with an optimizer of Keras. Received: a pruning optimizer")
    check_sparsity(sparsity)
    rounds, epochs = check_at_least("rounds", rounds, 1), check_at_least("epochs", epochs, 1)
    if rewind not in REWINDS:
        raise InvalidArgument(f"rewind must be 'weights', 'learning_rate' or None. Received: rewind={rewind!r}")
    rewind_epoch = check_at_least("rewind_epoch", rewind_epoch, 0)
    if rewind_epoch >= epochs:
        raise InvalidArgument(f"rewind_epoch must be below epochs={epochs}. Received: rewind_epoch={rewind_epoch}")
    own = sorted({"x", "y", "epochs", "initial_epoch"} & set(fit))
    if own:
        raise InvalidArgument(f"{own[0]} must be left to the recipe. Received: {own[0]}={fit[own[0]]!r}")
    chosen_variables(model, include)
    return {
        "sparsity": float(sparsity),
        "rounds": rounds,
        "epochs": epochs,
        "rewind": rewind,
        "rewind_epoch": rewind_epoch,
    }


class _Recipe:
    """The order of the rounds, and what each does to the model."""

    seed: int | None = None
    number = 0  # of the present round

    def __init__(
        self, model, data, fit, sparsity, rounds, epochs, rewind, rewind_epoch, include, distribution, pattern
    ):
        self.model, self.fit = model, fit
        self.data = {"x": data[0], "y": data[1]} if isinstance(data, tuple | list) else {"x": data}
        self.rewind, self.epochs, self.rewind_epoch = rewind, epochs, rewind_epoch
        self.sparsities = [0.0, *rising_sparsities(sparsity, rounds)]
        self.cut = {"include": include, "distribution": distribution, "pattern": pattern}
        self.chosen = chosen_variables(model, include)
        self.optimizer = keras.saving.serialize_keras_object(model.optimizer)

    @property
    def description(self):
        """Settings that must be the same where a call goes on, as JSON."""
        cut = {name: value if isinstance(value, str | None) else repr(value) for name, value in self.cut.items()}
        if callable(self.cut["include"]):
            cut["include"] = getattr(self.cut["include"], "__qualname__", "a function")
        values = {
            "sparsities": self.sparsities,
            "epochs": self.epochs,
            "rewind": self.rewind,
            "rewind_epoch": self.rewind_epoch,
            "seed": self.seed,
            "optimizer": _without_names(self.optimizer),
            "shapes": [list(variable.shape) for variable in self.model.variables],
            **cut,
        }
        return json.loads(json.dumps(values, default=repr))

    def run(self, kept):
        """Train and prune all rounds that are not finished; return the report."""
        done = kept.rounds()
        start, end = (kept.load(REWIND), kept.load(arrays_name(len(done) - 1))) if done else (None, None)
        if end is not None:
            self._equip(end)
        for number in range(len(done), len(self.sparsities)):
            self.number = number
            self._set_seed()
            if number == 0:
                start, history = self._train_dense()
                kept.save(REWIND, start)
            else:
                history = self._train_sparse(number, start, end)
            end = self._state()
            done.append(PruningRound(number, _sparsity(end.masks), history))
            kept.save(arrays_name(number), end)
            kept.add(done[-1])
        return IterativePruningReport(tuple(done))

    def _set_seed(self, logs=None):
        if self.seed is not None:
            keras.utils.set_random_seed(zlib.crc32(f"{self.seed} {self.number}".encode()))

    def _train_dense(self):
        """Train from the present weights; return the state to which rounds rewind, and the history."""
        self._equip(
            RoundState([read(v) for v in self.model.variables], [], [np.ones(v.shape, bool) for v in self.chosen])
        )
        if self.rewind_epoch == 0:
            return self._state(), self._fit(0, self.epochs)
        keeper = _KeepState(self.rewind_epoch, self._state)
        history = self._fit(0, self.epochs, keeper)
        if keeper.state is None:
            raise InvalidArgument(
                f"callbacks must not end the training before epoch {self.rewind_epoch}. Received: end"
            )
        return keeper.state, history

    def _train_sparse(self, number, start, end):
        """Prune the weights that the round before left, rewind, train; return the history."""
        _replace(self.model, keras.saving.deserialize_keras_object(self.optimizer))  # prune refuses pruning optimizers
        prune(self.model, self.sparsities[number], "magnitude", **self.cut)
        masks = [(read(v) != 0) & mask for v, mask in zip(self.chosen, end.masks, strict=True)]
        if self.rewind == "weights":
            self._equip(dataclasses.replace(start, masks=masks))
        else:
            self._equip(dataclasses.replace(end, masks=masks))
        if self.rewind == "learning_rate":
            inner = self.model.optimizer.inner_optimizer
            for variable, value in zip(inner.variables, start.optimizer, strict=True):
                if variable.name in ("iteration", "learning_rate"):
                    variable.assign(value)
        length = self.epochs - self.rewind_epoch
        first = self.rewind_epoch if self.rewind else self.epochs + (number - 1) * length
        return self._fit(first, first + length)

    def _fit(self, first, last, *callbacks):
        # The first fit of a process may draw an order of the data to build the metrics; it must not move the others.
        seeded = keras.callbacks.LambdaCallback(on_train_begin=self._set_seed)
        options = self.fit | {"callbacks": [seeded, *(self.fit.get("callbacks") or ()), *callbacks]}
        history = self.model.fit(**self.data, **options, initial_epoch=first, epochs=last).history
        return {name: [float(value) for value in values] for name, values in history.items()}

    def _equip(self, state):
        """Put a state into the model, with a new optimizer that keeps what its masks cut at zero."""
        inner = keras.saving.deserialize_keras_object(self.optimizer)
        schedule = schedules.ConstantSparsity(0.0, NEVER)
        optimizer = MagnitudePruning(inner, schedule, self.cut["include"], initial_masks="from_zeros")
        for variable, mask in zip(self.chosen, state.masks, strict=True):
            variable.assign(mask.astype("float32"))  # its zeros, and no others, are those that the optimizer finds
        build_optimizer(self.model, optimizer)
        for variable, value in zip(self.model.variables, state.variables, strict=True):
            variable.assign(value)
        for variable, mask in zip(self.chosen, state.masks, strict=True):
            variable.assign(np.where(mask, read(variable), 0))
        if state.optimizer:
            for variable, value in zip(inner.variables, state.optimizer, strict=True):
                variable.assign(value)
        _replace(self.model, optimizer)

    def _state(self):
        """The present state."""
        optimizer = as_optimizer(self.model.optimizer)
        masks = {id(p.variable): read(p.mask).astype(bool) for p in optimizer.pruned}
        return RoundState(
            [_plain(variable) for variable in self.model.variables],
            [_plain(variable) for variable in optimizer.inner_optimizer.variables],
            [masks[id(v)] if id(v) in masks else read(v) != 0 for v in self.chosen],  # frozen ones have no slots
        )


class _KeepState(keras.callbacks.Callback):
    """Keeps the state at the end of an epoch."""

    def __init__(self, epoch, state):
        super().__init__()
        self.epoch, self._get, self.state = epoch, state, None

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch and self.model is not None:  # under JAX, asking for the model updates its variables
            self.state = self._get()


def _replace(model, optimizer):
    keras_private.replace_optimizer(model, optimizer)
    model.make_train_function(force=True)


def _plain(variable):
    """The values of a variable, of a type that files of NumPy know."""
    values = read(variable)
    return values.astype("float32") if values.dtype.kind == "V" or values.dtype.name == "bfloat16" else values


def _sparsity(masks):
    return float(1.0 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks))


def _without_names(config):
    """A configuration without names, which count the objects of a process."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return config
