"""Pruning as an optimizer: any Keras optimizer, wrapped, leaves exactly sparse weights in any Keras model."""

import functools
import re
import types
from typing import NamedTuple

import keras
from keras import ops

from tf_robustcomp.backend import update_on_every_replica
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity import schedules


class PrunedVariable(NamedTuple):
    """A model's variable and what the optimizer keeps beside it; all but the threshold are of the variable's shape."""

    variable: keras.Variable
    dense: keras.Variable  # read where the mask is False only: elsewhere the model's own weight counts
    mask: keras.Variable  # bool, True where the weight is in use
    threshold: keras.Variable  # float32 scalar, in units of |weight|


class Moment(NamedTuple):
    """What a rule may ask about the present step: scalar tensors."""

    step: object  # int32, updates made before this one
    active: object  # bool, is this step between the schedule's begin and its last update?
    update_now: object  # bool, does the schedule ask for new thresholds?
    sparsity: object  # float32 in [0, 1), the target
    draw: object  # float32 in [0, 1), this variable's random number


def is_kernel(path, variable):
    """Default choice of what to prune: tensors of rank >= 2 that are neither biases nor normalisation parameters."""
    name = path.split("/")[-1]
    return len(variable.shape) >= 2 and not any(word in name for word in ("bias", "gamma", "beta"))


class PruningOptimizer(keras.optimizers.Optimizer):
    """Base of the pruning optimizers: it owns the order of a step, a rule is one hook (`surgery`).

    One step, for every pruned variable: put the dense weights back, let the inner optimizer step, keep the dense
    weights, let the rule update the mask, leave ``dense * mask`` in the model::

        gradient at the masked weights --> inner optimizer --> dense weights --> rule --> mask --> model

    so the mask acts before the forward pass (through the weights) and not on the gradient.  The model needs no wrapper
    layers, and its weights are exactly sparse after every step and in every file that it is saved to.

    Args:
        optimizer: the Keras optimizer (instance, name or config) that does the training.  Its options work as ever:
            EMA, clipping, gradient accumulation, weight decay (which a cut weight's dense value feels too).
        schedule: ``PolynomialDecay``, ``ConstantSparsity`` or tfmot's objects of these names: when thresholds are
            recomputed, and the sparsity of every pruned variable at that time.
        include: which variables: a function ``(path, variable) -> bool``, or a regular expression that is searched in
            the path; default `is_kernel`.
        train_unpruned: False freezes every variable that is not pruned (moving statistics still move).

    Raises:
        InvalidArgument: an argument breaks its rule, or nothing is left to prune.
    """

    def __init__(self, optimizer, schedule, include=None, train_unpruned=True, name=None):
        inner = keras.optimizers.get(optimizer)
        if isinstance(inner, PruningOptimizer):
            raise InvalidArgument(f"optimizer must not prune already. Received: optimizer={type(inner).__name__}")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner
        self.schedule = schedules.get(schedule)
        self.include = include
        self.train_unpruned = train_unpruned

    def surgery(self, weights, mask, threshold, moment):
        """The rule: mask and threshold of one variable after a step.

        Args:
            weights: its dense weights.
            mask: bool of the same shape, as it was in this step.
            threshold: float32 scalar, the last one.
            moment: `Moment`.

        Returns:
            ``(mask, threshold)`` as they shall be.
        """
        raise NotImplementedError

    def draws(self, step, count):
        """Float32 (count,) random numbers in [0, 1) of this step, one a variable; zeros for rules without chance."""
        del step
        return ops.zeros((count,))

    # The order of a step ----------------------------------------------------------------------------------------------

    def build(self, variables):
        """Create the slots of every variable that `include` chooses, and build the inner optimizer."""
        if self.built:
            return
        chosen = [variable for variable in variables if self._is_included(variable)]
        if not chosen:
            paths = ", ".join(getattr(variable, "path", variable.name) for variable in variables[:4])
            raise InvalidArgument(
                f"include must choose at least one variable. Received: include={self.include!r}, which matches none of "
                f"the {len(variables)} trainable variables ({paths}, ...)"
            )
        trained = list(variables) if self.train_unpruned else chosen
        self.inner_optimizer.build(trained)
        # In a namespace, for Keras takes the variables in an attribute's lists and tuples for the optimizer's own.
        pruned = tuple(self._slots_of(variable) for variable in chosen)
        self._lists = types.SimpleNamespace(trained=trained, pruned=pruned)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """One step of the inner optimizer on the dense weights, then of the rule on the masks."""
        if not self.built:
            self.build(list(trainable_variables))
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        if not self.train_unpruned:
            trained = {self._var_key(variable) for variable in self._lists.trained}
            pairs = [pair for pair in zip(grads, variables, strict=True) if self._var_key(pair[1]) in trained]
            grads, variables = zip(*pairs, strict=True)
        step = ops.cast(self.inner_optimizer.iterations, "int32") + 0  # a copy: the counter is about to move
        update_on_every_replica([(_restore, (p.variable, p.dense, p.mask)) for p in self.pruned])
        self.inner_optimizer.apply(list(grads), list(variables))
        self._prune(step)
        self._iterations.assign_add(1)

    def _prune(self, step):
        update_now, sparsity = self.schedule(step)
        draws = self.draws(step, len(self.pruned))
        active = self.schedule.is_active(step)
        moments = [Moment(step, active, update_now, sparsity, draws[i]) for i in range(len(self.pruned))]
        update_on_every_replica(
            [(functools.partial(self._operate, moment), p) for moment, p in zip(moments, self.pruned, strict=True)]
        )

    def _operate(self, moment, variable, dense, mask, threshold):
        weights = ops.convert_to_tensor(variable)
        new_mask, new_threshold = self.surgery(
            weights, ops.convert_to_tensor(mask), ops.convert_to_tensor(threshold), moment
        )
        dense.assign(weights)
        mask.assign(new_mask)
        threshold.assign(new_threshold)
        variable.assign(ops.where(new_mask, weights, ops.zeros_like(weights)))

    def _is_included(self, variable):
        if isinstance(self.include, str):
            return re.search(self.include, variable.path) is not None
        return (self.include or is_kernel)(variable.path, variable)

    def _slots_of(self, variable):
        name = variable.path.replace("/", "_")
        return PrunedVariable(
            variable=variable,
            dense=self.add_variable_from_reference(variable, name="dense"),
            mask=self.add_variable(variable.shape, initializer="ones", dtype="bool", name=f"{name}_mask"),
            threshold=self.add_variable((), initializer="zeros", dtype="float32", name=f"{name}_threshold"),
        )

    @property
    def pruned(self):
        """Tuple of `PrunedVariable`, once built."""
        return self._lists.pruned

    # What the wrapper passes through ----------------------------------------------------------------------------------

    @property
    def variables(self):
        """Own slots, then the inner optimizer's."""
        return self._variables + self.inner_optimizer.variables

    @property
    def learning_rate(self):
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """Updates that the inner optimizer has made."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        """As the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        """The inner optimizer's last word (EMA), masked again."""
        if not getattr(self.inner_optimizer, "use_ema", False):
            return
        self.inner_optimizer.finalize_variable_values(var_list)
        for p in self.pruned:
            weights = ops.convert_to_tensor(p.variable)
            p.variable.assign(ops.where(ops.convert_to_tensor(p.mask), weights, ops.zeros_like(weights)))

    def save_own_variables(self, store):
        """Own slots only: Keras saves the inner optimizer, an attribute, by itself."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        """Inverse of `save_own_variables`."""
        if len(store.keys()) != len(self._variables):
            raise InvalidArgument(
                f"saved optimizer must have the {len(self._variables)} slots of this one. Received: {len(store.keys())}"
            )
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])

    def get_config(self):
        """Plain values; the inverse is `from_config`."""
        return {
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "include": self.include if isinstance(self.include, str | None) else _serialize(self.include),
            "train_unpruned": self.train_unpruned,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Inverse of `get_config`."""
        values = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        return cls(**values)


def _restore(variable, dense, mask):
    variable.assign(ops.where(*map(ops.convert_to_tensor, (mask, variable, dense))))


def _serialize(function):
    return keras.saving.serialize_keras_object(function)


def as_optimizer(optimizer):
    """The pruning optimizer inside ``optimizer`` (which may be a LossScaleOptimizer around it), or None."""
    if isinstance(optimizer, PruningOptimizer):
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    return None if inner is None else as_optimizer(inner)
