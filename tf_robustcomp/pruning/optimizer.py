"""Pruning as an optimizer: a wrapper of any Keras optimizer that keeps the weights of any Keras model sparse."""

import functools
import re
import types
import warnings
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend import inner, keras_private
from tf_robustcomp.backend.gradients import apply_gradients
from tf_robustcomp.backend.replicas import summed_over_replicas, update_on_every_replica
from tf_robustcomp.backend.wrapper import WrappingOptimizer
from tf_robustcomp.pruning import distributions, initial_masks, patterns, schedules
from tf_robustcomp.pruning.context import ChannelBlock, PrunedVariable, StepContext
from tf_robustcomp.pruning.coupling import coupling_of
from tf_robustcomp.pruning.mask_updates import CoupledMaskUpdates, MaskUpdates
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import InvalidArgument


class PruningOptimizer(WrappingOptimizer):
    """Base of the pruning optimizers: it owns the order of a step, a rule is one hook.

    One step, for every pruned variable: put the dense weights back, let the inner optimizer step, keep the dense
    weights, let the rule update the mask, leave ``dense * mask`` in the model::

        gradient at the masked weights --> inner optimizer --> dense weights --> rule --> mask --> model

    so the mask acts before the forward pass (through the weights) and not on the gradient.  Rules that bring no weight
    back need no dense copy.  The model needs no wrapper layers, and its weights are exactly sparse after every step and
    in every file.

    Four things are chosen apart: **when** (the schedule), **how much** of each variable (the distribution), **where**
    (``include``) and in what units (the pattern), and **which** weights go (the rule).  A rule is a subclass with the
    hook ``scores``: at every update of the schedule the weights of lowest score are cut.

    Args:
        inner_optimizer: the Keras optimizer (instance, name or config) that trains.  Its options keep their meaning:
            EMA, clipping, gradient accumulation, weight decay (which also acts on the dense value of a cut weight; only
            the rule brings a weight back).  Set later on the pruning optimizer, they reach it, too.
        schedule: ``PolynomialDecay``, ``ConstantSparsity`` or tfmot's objects of these names: when masks are
            recomputed, and the sparsity at that time.
        include: which variables: a function ``(path, variable) -> bool``, or a regular expression that is searched in
            the path; default `is_kernel`.
        distribution: "uniform", "erk", "global", a mapping of path pattern -> final sparsity, or a
            `distributions.Distribution`.
        pattern: `patterns.Pattern`; None is unstructured.
        train_unpruned: False freezes every variable that is not pruned (moving statistics still move).
        cut_slots: "keep" the inner optimizer's slots (momentum, second moments) of cut weights, or "zero": reset them
            to their initial value (0, or an initial accumulator) after every step.
        initial_masks: "ones", or "from_zeros": weights that are zero when the optimizer is built are cut from the
            start, and no update leaves a variable less sparse than it was; one of zeros only counts as not pruned yet.

    Raises:
        InvalidArgument: an argument breaks its rule, or nothing is left to prune.

    Example:
        >>> @rc.register("pruning rule", "gradient")
        ... class GradientPruning(rc.PruningOptimizer):  # cut the weights with the smallest gradient
        ...     needs_gradient = True
        ...
        ...     def scores(self, weights, mask, context):
        ...         return keras.ops.abs(context.gradient)
    """

    keeps_dense_weights = True  # whether a cut weight keeps learning; else one that comes back begins at 0
    has_state = False  # whether `observe` is called at every step
    global_scores = True  # whether scores of different variables compare, as distribution "global" needs
    needs_gradient = False  # whether `StepContext.gradient` is given
    from_file = False  # whether it was made from a config: what training needs is asked for when it trains

    def __init__(
        self,
        inner_optimizer: Any,
        schedule: Any,
        include: Any = None,
        distribution: Any = "uniform",
        pattern: Any = None,
        train_unpruned: bool = True,
        cut_slots: str = "keep",
        initial_masks: str = "ones",
        name: str | None = None,
        **settings: Any,
    ) -> None:
        inner.refuse_settings(settings)
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        if as_optimizer(inner_optimizer) is not None:
            raise InvalidArgument(
                f"inner_optimizer must not prune already. Received: inner_optimizer={type(inner_optimizer).__name__}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.schedule = schedules.get(schedule)
        self.include = include
        self.distribution: Any = distributions.get(distribution)
        self.pattern = patterns.get(pattern)
        self.train_unpruned = train_unpruned
        self.cut_slots = check_choice("cut_slots", cut_slots, ("keep", "zero"))
        self.initial_masks = check_choice("initial_masks", initial_masks, ("ones", "from_zeros"))
        self._check_distribution()

    def _check_distribution(self):
        if self.distribution.needs_scores and not self.global_scores:
            raise InvalidArgument(
                f"distribution 'global' needs scores that compare between variables, which those of "
                f"{type(self).__name__} do not"
            )
        if self.distribution.needs_scores and isinstance(self.pattern, patterns.NM):
            raise InvalidArgument(
                "distribution 'global' and pattern NM exclude each other: NM fixes each group's sparsity"
            )

    # The hooks of a rule ----------------------------------------------------------------------------------------------

    def scores(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return the score of each weight of one variable, float32 of its shape; the lowest are cut.

        Args:
            weights: its dense weights, float32.
            mask: bool of the same shape, as it was in this step.
            context: the present step.
        """
        raise NotImplementedError

    def observe(self, weights: Any, mask: Any, context: StepContext) -> Any:
        """Return the new state of one variable after a step, float32 of its shape, for rules with ``has_state``."""
        return context.state

    def update_mask(self, weights: Any, mask: Any, threshold: Any, context: StepContext) -> tuple[Any, Any]:
        """Return mask and threshold of one variable after a step.

        The default cuts by `scores` at every update of the schedule; the threshold it reports is the largest magnitude
        that is cut.

        Args:
            weights: its dense weights, float32.
            mask: bool of the same shape, as it was in this step.
            threshold: float32 scalar, the last one.
            context: the present step.
        """

        def cut():
            kept = context.pattern.select(self.scores(weights, mask, context), context.sparsity)
            return kept, ops.max(ops.where(kept, ops.zeros_like(weights), ops.abs(weights)))

        return ops.cond(context.update_now, cut, lambda: (mask, threshold))

    def random_numbers(self, step: Any, count: int) -> Any:
        """Return float32 (count,) random numbers in [0, 1), one for each variable; zeros for rules without chance."""
        del step
        return ops.zeros((count,))

    # The order of a step ----------------------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Create the slots of every variable that `include` chooses, and build the inner optimizer."""
        if self.built:
            return
        chosen = [variable for variable in variables if self._is_included(variable)]
        if variables and not self.from_file:
            self._check_chosen(chosen, variables)
        is_coupled = getattr(self.pattern, "coupled", False) and bool(chosen)
        self._coupling: Any = coupling_of(self, chosen, self.pattern) if is_coupled else None
        updates = self._mask_updates(chosen)
        trained = list(variables) if self.train_unpruned else chosen
        self.inner_optimizer.build(trained)
        # In a namespace, for Keras takes the variables in an attribute's lists and tuples for the optimizer's own.
        self._lists = types.SimpleNamespace(
            trained=trained,
            pruned=tuple(self._slots_of(variable) for variable in chosen),
            blocks=self._blocks_of(chosen),
            averages=inner.averages_of(self.inner_optimizer, chosen),
            slots=inner.slots_of(self.inner_optimizer, chosen) if self.cut_slots == "zero" else [],
            updates=updates,
        )
        keras_private.mark_built(self, variables)

    def _check_chosen(self, chosen, variables):
        """Refuse to train what is not pruned; a model that is loaded may be frozen, quantised, or only evaluated."""
        if not chosen:
            paths = ", ".join(getattr(variable, "path", variable.name) for variable in variables[:4])
            raise InvalidArgument(
                f"include must choose at least one variable. Received: include={self.include!r}, which matches none of "
                f"the {len(variables)} trainable variables ({paths}, ...)"
            )
        self.distribution.check([variable.path for variable in chosen])

    def _mask_updates(self, chosen):
        if self._coupling is None:
            return MaskUpdates(self, chosen)
        return CoupledMaskUpdates(self, chosen, self._coupling)

    def reschedule(self, schedule: Any, distribution: Any = None) -> None:
        """Go on with another schedule, and perhaps distribution; of a model that has trained use `rc.reschedule`."""
        before = self.schedule, self.distribution
        try:
            self.schedule = schedules.get(schedule)
            self.distribution = self.distribution if distribution is None else distributions.get(distribution)
            self._check_distribution()
            if self.built:
                chosen = [p.variable for p in self.pruned]
                self.distribution.check([variable.path for variable in chosen])
                self._lists.updates = self._mask_updates(chosen)
        except InvalidArgument:
            self.schedule, self.distribution = before
            raise

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One step of the inner optimizer on the dense weights, then of the rule on the masks."""
        if len(grads) == 0:  # as Keras does where all is frozen
            return
        if not self.built:
            self.build(list(trainable_variables))
        self._check_chosen([p.variable for p in self.pruned], keras_private.trained_variables(self))
        variables = keras_private.trained_variables(self) if trainable_variables is None else trainable_variables
        if not self.train_unpruned:
            trained = {self._key(variable) for variable in self._lists.trained}
            pairs = [pair for pair in zip(grads, variables, strict=True) if self._key(pair[1]) in trained]
            grads, variables = zip(*pairs, strict=True) if pairs else ((), ())
        gradients = self._gradients(grads, variables) if self.needs_gradient else [None] * len(self.pruned)
        step = ops.cast(self.inner_optimizer.iterations, "int32") + 0  # a copy, before the counter moves
        if self.keeps_dense_weights:  # without them a cut weight is zero in the model, where training may move it
            update_on_every_replica([(_restore, (p.variable, p.dense, p.mask)) for p in self.pruned])
            # The average of a cut weight is its dense value, with which it begins again when the weight comes back.
            update_on_every_replica([(_restore, (average, p.dense, p.mask)) for average, p in self._averaged()])
        apply_gradients(self.inner_optimizer, list(grads), list(variables))
        stepped = True
        if inner.may_wait(self.inner_optimizer):  # then the masks wait too
            stepped = ops.cast(self.inner_optimizer.iterations, "int32") > step
        self._lists.updates.after_step(self.pruned, self._lists.blocks, step, stepped, gradients)
        for slots, p in zip(self._lists.slots, self.pruned, strict=False):
            update_on_every_replica([(functools.partial(_reset, first), (slot, p.mask)) for slot, first in slots])
        update_on_every_replica([(_mask, (average, p.mask)) for average, p in self._averaged()])
        keras_private.count_step(self)

    def _averaged(self):
        """Moving averages of the inner optimizer, each with its pruned variable; Keras' callbacks swap them in."""
        pairs = zip(self._lists.averages, self.pruned, strict=True)
        return [(average, p) for average, p in pairs if average is not None]

    def _gradients(self, grads, variables):
        """Gradients as the inner optimizer will apply them; None for a variable without one."""
        given = {self._key(variable): grad for grad, variable in zip(grads, variables, strict=True)}
        keys = [self._key(p.variable) for p in self.pruned]
        present = {i: _dense(given[key]) for i, key in enumerate(keys) if given.get(key) is not None}
        present = dict(zip(present, summed_over_replicas(list(present.values())), strict=True))
        return [
            inner.applied(self.inner_optimizer, p.variable, present[i]) if i in present else None
            for i, p in enumerate(self.pruned)
        ]

    def _key(self, variable):
        return keras_private.variable_key(self, variable)

    def _is_included(self, variable):
        if isinstance(self.include, str):
            return re.search(self.include, variable.path) is not None
        return (self.include or is_kernel)(variable.path, variable)

    def _slots_of(self, variable):
        name = variable.path.replace("/", "_")
        mask: Any = "ones"
        state = least = None
        if self.initial_masks == "from_zeros" and self._coupling is None:
            mask = functools.partial(initial_masks.nonzero, variable)
            share = functools.partial(initial_masks.zeros_share, variable)
            least = self.add_variable((), share, "float32", name=f"{name}_least")
        if self.has_state:
            state = self.add_variable(variable.shape, initializer="zeros", dtype="float32", name=f"{name}_state")
        return PrunedVariable(
            variable=variable,
            dense=self.add_variable_from_reference(variable, name="dense") if self.keeps_dense_weights else None,
            mask=self.add_variable(variable.shape, initializer=mask, dtype="bool", name=f"{name}_mask"),
            threshold=self.add_variable((), initializer="zeros", dtype="float32", name=f"{name}_threshold"),
            state=state,
            least=least,
        )

    def _blocks_of(self, chosen):
        """Slots of the blocks of coupled channels; none without coupling."""
        blocks = []
        for i, block in enumerate(self._coupling.blocks if self._coupling is not None else ()):
            mask: Any = "ones"
            least = None
            if self.initial_masks == "from_zeros":
                mask = functools.partial(initial_masks.used_units, self._coupling, chosen, i)
                share = functools.partial(initial_masks.unused_share, self._coupling, chosen, i)
                least = self.add_variable((), share, "float32", name=f"block_{i}_least")
            blocks.append(
                ChannelBlock(
                    mask=self.add_variable((block.units,), initializer=mask, dtype="bool", name=f"block_{i}_mask"),
                    threshold=self.add_variable((), initializer="zeros", dtype="float32", name=f"block_{i}_threshold"),
                    least=least,
                )
            )
        return tuple(blocks)

    @property
    def pruned(self) -> tuple[PrunedVariable, ...]:
        """Tuple of `PrunedVariable`, once built."""
        return self._lists.pruned

    def finalize_variable_values(self, var_list: Any) -> None:
        """Let the inner optimizer overwrite weights (EMA), then reapply masks; warn if training ended too early."""
        del var_list  # the inner optimizer averages what it trains, which may be less
        if not self.built or not keras_private.holds_value(keras_private.own_variables(self)[0]):
            return  # all was frozen, or an error in a step ended a training under JAX
        self.inner_optimizer.finalize_variable_values(self._lists.trained)
        for p in self.pruned:
            _mask(p.variable, p.mask)
        final, last = self.schedule.final, self.schedule.final_step
        steps = int(ops.convert_to_numpy(self.inner_optimizer.iterations))
        if self.pruned and final > 0 and steps <= last:
            warnings.warn(  # in the name of Keras' fit, which calls this when it ends
                f"training must go on past step {last} to reach the final sparsity {final:g}. Received: {steps} steps, "
                f"which reached {self._sparsity():.4g}",
                stacklevel=2,
            )

    def _sparsity(self):
        masks = [ops.convert_to_numpy(p.mask) for p in self._lists.blocks or self.pruned]
        return 1.0 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "include": self.include if isinstance(self.include, str | None) else _serialize(self.include),
            "distribution": _serialize(self.distribution),
            "pattern": _serialize(self.pattern),
            "train_unpruned": self.train_unpruned,
            "cut_slots": self.cut_slots,
            "name": self.name,
            **({} if self.initial_masks == "ones" else {"initial_masks": self.initial_masks}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PruningOptimizer":
        """Return an optimizer made from ``get_config``."""
        values = {
            key: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            if isinstance(value, dict)
            else value
            for key, value in config.items()
        }
        optimizer = cls(**values)
        optimizer.from_file = True
        return optimizer


def _dense(gradient):
    """A gradient as a dense float32 tensor; embeddings give sparse ones."""
    return ops.cast(ops.convert_to_tensor(gradient, sparse=False), "float32")


def _reset(first, slot, mask):
    values = ops.convert_to_tensor(slot)
    slot.assign(ops.where(ops.convert_to_tensor(mask), values, first * ops.ones_like(values)))


def _mask(variable, mask):
    weights = ops.convert_to_tensor(variable)
    variable.assign(ops.where(ops.convert_to_tensor(mask), weights, ops.zeros_like(weights)))


def _restore(variable, dense, mask):
    variable.assign(ops.where(*map(ops.convert_to_tensor, (mask, variable, dense))))


def _serialize(function):
    return keras.saving.serialize_keras_object(function)


def as_optimizer(optimizer: Any) -> Any:
    """Return the pruning optimizer in ``optimizer``, which may be a LossScaleOptimizer around it, or None."""
    if isinstance(optimizer, PruningOptimizer):
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    return None if inner is None else as_optimizer(inner)
