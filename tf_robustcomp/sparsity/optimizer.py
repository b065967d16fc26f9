"""Pruning as an optimizer: any Keras optimizer, wrapped, leaves exactly sparse weights in any Keras model."""

import functools
import math
import re
import types

import keras
from keras import ops

from tf_robustcomp.backend import (
    apply_gradients,
    compiled,
    is_concrete,
    read,
    summed_over_replicas,
    update_on_every_replica,
)
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.sparsity import distributions, inner, patterns, schedules
from tf_robustcomp.sparsity.pruned_variable import Moment, PrunedVariable, is_kernel


class PruningOptimizer(keras.optimizers.Optimizer):
    """Base of the pruning optimizers: it owns the order of a step, a rule is one hook.

    One step, for every pruned variable: put the dense weights back, let the inner optimizer step, keep the dense
    weights, let the rule update the mask, leave ``dense * mask`` in the model::

        gradient at the masked weights --> inner optimizer --> dense weights --> rule --> mask --> model

    so the mask acts before the forward pass (through the weights) and not on the gradient.  Rules that revive nothing
    need no dense copy: what they cut is zero there too.  The model needs no wrapper layers, and its weights are exactly
    sparse after every step and in every file that it is saved to.

    Four things are chosen apart: **when** (the schedule), **how much** of each variable (the distribution), **where**
    (``include``) and in what units (the pattern), and **which** weights go (the rule).  A rule is a subclass with the
    hook ``scores``: the weights of least score go at every update of the schedule.

    Args:
        optimizer: the Keras optimizer (instance, name or config) that does the training.  Its options work as ever:
            EMA, clipping, gradient accumulation, weight decay (which a cut weight's dense value feels too, but which
            never brings it back to life: only the rule does).
        schedule: ``PolynomialDecay``, ``ConstantSparsity`` or tfmot's objects of these names: when masks are
            recomputed, and the sparsity at that time.
        include: which variables: a function ``(path, variable) -> bool``, or a regular expression that is searched in
            the path; default `is_kernel`.
        distribution: "uniform", "erk", "global", a mapping of path pattern -> final sparsity, or a
            `distributions.Distribution`.
        pattern: `patterns.Pattern`; None is unstructured.
        train_unpruned: False freezes every variable that is not pruned (moving statistics still move).
        cut_slots: what becomes of the inner optimizer's slots (momentum, second moments) of cut weights: "keep" lets
            them go on, "zero" puts them back to what they began with (0, or an initial accumulator) after every step.

    Raises:
        InvalidArgument: an argument breaks its rule, or nothing is left to prune.

    Example:
        >>> class LeastRecent(PruningOptimizer):  # a rule of one's own: weights with the smallest gradient go
        ...     uses_gradient = True
        ...
        ...     def scores(self, weights, mask, moment):
        ...         return ops.abs(moment.gradient)
    """

    revives = True  # whether the dense value of a cut weight lives on; else a weight that comes back begins at 0
    keeps_state = False  # whether `observe` is asked at every step
    scores_compare = True  # whether scores of two variables are on one scale, as "global" needs
    uses_gradient = False  # whether `Moment.gradient` is there

    def __init__(
        self,
        optimizer,
        schedule,
        include=None,
        distribution="uniform",
        pattern=None,
        train_unpruned=True,
        cut_slots="keep",
        name=None,
    ):
        optimizer = keras.optimizers.get(optimizer)
        if as_optimizer(optimizer) is not None:
            raise InvalidArgument(f"optimizer must not prune already. Received: optimizer={type(optimizer).__name__}")
        if cut_slots not in ("keep", "zero"):
            raise InvalidArgument(f"cut_slots must be 'keep' or 'zero'. Received: cut_slots={cut_slots!r}")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer
        self.schedule = schedules.get(schedule)
        self.include = include
        self.distribution = distributions.get(distribution)
        self.pattern = patterns.get(pattern)
        self.train_unpruned = train_unpruned
        self.cut_slots = cut_slots
        if self.distribution.needs_scores and not self.scores_compare:
            raise InvalidArgument(
                f"distribution 'global' needs scores that compare between variables, which those of "
                f"{type(self).__name__} do not"
            )
        if self.distribution.needs_scores and isinstance(self.pattern, patterns.NM):
            raise InvalidArgument(
                "distribution 'global' and pattern NM exclude each other: NM fixes each group's share"
            )

    # What a rule states -----------------------------------------------------------------------------------------------

    def scores(self, weights, mask, moment):
        """Worth of each weight of one variable, float32 of its shape; the least go.

        Args:
            weights: its dense weights, float32.
            mask: bool of the same shape, as it was in this step.
            moment: `Moment`.
        """
        raise NotImplementedError

    def observe(self, weights, mask, moment):
        """New state of one variable after a step, float32 of its shape, for rules with ``keeps_state``."""
        return moment.state

    def surgery(self, weights, mask, threshold, moment):
        """Mask and threshold of one variable after a step.

        The default cuts by `scores` at every update of the schedule; the threshold it reports is the largest magnitude
        that is cut.

        Args:
            weights: its dense weights, float32.
            mask: bool of the same shape, as it was in this step.
            threshold: float32 scalar, the last one.
            moment: `Moment`.

        Returns:
            ``(mask, threshold)`` as they shall be.
        """

        def cut():
            kept = self.pattern.select(self.scores(weights, mask, moment), moment.sparsity)
            return kept, ops.max(ops.where(kept, ops.zeros_like(weights), ops.abs(weights)))

        return ops.cond(moment.update_now, cut, lambda: (mask, threshold))

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
        ratios = self.distribution.ratios(
            self.schedule.final, [v.path for v in chosen], [tuple(v.shape) for v in chosen]
        )
        for variable, ratio in zip(chosen, ratios, strict=True):
            self.pattern.check(variable.path, variable.shape)
            self.pattern.check_sparsity(variable.path, ratio * self.schedule.final)
        trained = list(variables) if self.train_unpruned else chosen
        self.inner_optimizer.build(trained)
        # In a namespace, for Keras takes the variables in an attribute's lists and tuples for the optimizer's own.
        self._lists = types.SimpleNamespace(
            trained=trained,
            pruned=tuple(self._slots_of(variable) for variable in chosen),
            ratios=ratios,
            slots=inner.slots_of(self.inner_optimizer, chosen) if self.cut_slots == "zero" else [],
            surgery=compiled(self.surgery),  # a network has many kernels and few shapes: one trace for each shape
        )
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
        gradients = self._gradients(grads, variables) if self.uses_gradient else [None] * len(self.pruned)
        step = ops.cast(self.inner_optimizer.iterations, "int32") + 0  # a copy: the counter is about to move
        if self.revives:  # otherwise what is cut is zero, and so it is in the model
            update_on_every_replica([(_restore, (p.variable, p.dense, p.mask)) for p in self.pruned])
        apply_gradients(self.inner_optimizer, list(grads), list(variables))
        made = True
        if inner.may_wait(self.inner_optimizer):  # then the masks wait too
            made = ops.cast(self.inner_optimizer.iterations, "int32") > step
        self._prune(step, made, gradients)
        self._iterations.assign_add(1)

    def _gradients(self, grads, variables):
        """What the inner optimizer will apply: unscaled, averaged over accumulated steps; None where there is none."""
        given = {self._var_key(variable): grad for grad, variable in zip(grads, variables, strict=True)}
        present = {i: _dense(given[key]) for i, key in enumerate(self._keys()) if given.get(key) is not None}
        present = dict(zip(present, summed_over_replicas(list(present.values())), strict=True))
        return [
            inner.applied(self.inner_optimizer, p.variable, present[i]) if i in present else None
            for i, p in enumerate(self.pruned)
        ]

    def _keys(self):
        return [self._var_key(p.variable) for p in self.pruned]

    def _prune(self, step, made, gradients):
        update_now, sparsity = self.schedule(step)
        update_now = ops.logical_and(update_now, made)
        active = ops.logical_and(self.schedule.is_active(step), made)
        draws = self.draws(step, len(self.pruned))
        moments = [
            Moment(
                *(step, active, update_now, sparsity * self._lists.ratios[i], draws[i]),
                number=ops.convert_to_tensor(i, "int32"),
                gradient=gradients[i],
                made=made,
            )
            for i in range(len(self.pruned))
        ]
        if self.distribution.needs_scores:
            moments = self._with_global_sparsities(moments, sparsity)
        operations = zip(moments, (p.parts() for p in self.pruned), strict=True)
        update_on_every_replica(
            [(functools.partial(self._operate, m, tuple(p)), list(p.values())) for m, p in operations]
        )
        for slots, p in zip(self._lists.slots, self.pruned, strict=False):
            update_on_every_replica([(functools.partial(_reset, first), (slot, p.mask)) for slot, first in slots])

    def _operate(self, moment, names, *variables):
        p = PrunedVariable(**dict(zip(names, variables, strict=True)))
        weights, in_use, threshold = map(read, (p.variable, p.mask, p.threshold))
        magnitudes = ops.cast(weights, "float32")
        if p.state is not None:
            moment = moment._replace(state=self._observed(magnitudes, in_use, moment, read(p.state)))
            p.state.assign(moment.state)
        surgery = self.surgery if is_concrete(magnitudes) else self._lists.surgery  # a rule may look at real numbers
        mask, threshold = surgery(magnitudes, in_use, threshold, moment)
        kept = mask if self.revives else ops.logical_and(mask, in_use)  # what grows without a memory begins at zero
        if p.dense is not None:
            p.dense.assign(weights)
        p.mask.assign(mask)
        p.threshold.assign(threshold)
        p.variable.assign(ops.where(kept, weights, ops.zeros((), weights.dtype)))  # a scalar: no pass over the memory

    def _observed(self, weights, mask, moment, state):
        """The state after a step; that of steps that were not made, or not in finite numbers, is left out."""
        after = self.observe(weights, mask, moment._replace(state=state))
        return ops.where(ops.logical_and(moment.made, ops.isfinite(after)), after, state)

    def _with_global_sparsities(self, moments, sparsity):
        """Share of each variable by the scores of all; looked up only when masks are due."""

        def look():
            units = []
            for moment, p in zip(moments, self.pruned, strict=True):
                state = None if p.state is None else ops.convert_to_tensor(p.state)
                weights = ops.cast(ops.convert_to_tensor(p.variable), "float32")
                scores = self.scores(weights, ops.convert_to_tensor(p.mask), moment._replace(state=state))
                units.append(self.pattern.pool(scores))
            sizes = [math.prod(p.variable.shape) // self.pattern.count(tuple(p.variable.shape)) for p in self.pruned]
            return ops.stack(self.distribution.sparsities(sparsity, units, sizes))

        shares = ops.cond(moments[0].update_now, look, lambda: ops.zeros((len(moments),)))
        return [moment._replace(sparsity=shares[i]) for i, moment in enumerate(moments)]

    def _is_included(self, variable):
        if isinstance(self.include, str):
            return re.search(self.include, variable.path) is not None
        return (self.include or is_kernel)(variable.path, variable)

    def _slots_of(self, variable):
        name = variable.path.replace("/", "_")
        state = None
        if self.keeps_state:
            state = self.add_variable(variable.shape, initializer="zeros", dtype="float32", name=f"{name}_state")
        return PrunedVariable(
            variable=variable,
            dense=self.add_variable_from_reference(variable, name="dense") if self.revives else None,
            mask=self.add_variable(variable.shape, initializer="ones", dtype="bool", name=f"{name}_mask"),
            threshold=self.add_variable((), initializer="zeros", dtype="float32", name=f"{name}_threshold"),
            state=state,
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
        del var_list  # the inner optimizer averages what it trains, which may be less
        self.inner_optimizer.finalize_variable_values(self._lists.trained)
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
            "distribution": _serialize(self.distribution),
            "pattern": _serialize(self.pattern),
            "train_unpruned": self.train_unpruned,
            "cut_slots": self.cut_slots,
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


def _dense(gradient):
    """A gradient as a float32 tensor: embeddings give sparse ones."""
    return ops.cast(ops.convert_to_tensor(gradient, sparse=False), "float32")


def _reset(first, slot, mask):
    values = ops.convert_to_tensor(slot)
    slot.assign(ops.where(ops.convert_to_tensor(mask), values, first * ops.ones_like(values)))


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
