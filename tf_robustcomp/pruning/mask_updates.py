"""Update masks after a step: variable by variable, or by groups of coupled channels over all variables."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from tf_robustcomp.backend.gradients import compiled, is_concrete, read
from tf_robustcomp.backend.replicas import update_on_every_replica
from tf_robustcomp.pruning.context import PrunedVariable, StepContext, parts
from tf_robustcomp.pruning.coupling import Coupling


class MaskUpdates:
    """The masks of the variables that a rule prunes, each changed by itself.

    Args:
        rule: `PruningOptimizer`, whose hooks, schedule, distribution and pattern decide.
        variables: those to prune.

    Raises:
        InvalidArgument: the pattern or the final sparsity does not fit a variable.
    """

    def __init__(self, rule: Any, variables: Sequence[Any]) -> None:
        self.rule = rule
        self._patterns, self._ratios = self._planned(variables)
        # One trace for each pattern and shape: a network has many kernels and few shapes.
        self._traces = {pattern: compiled(functools.partial(self._update_mask, pattern)) for pattern in self._patterns}

    def after_step(
        self, pruned: Sequence[Any], blocks: Sequence[Any], step: Any, stepped: Any, gradients: list
    ) -> None:
        """Change masks after a step, and leave the variables masked.

        Args:
            pruned: `PrunedVariable` of each variable.
            blocks: `ChannelBlock` of each block of coupled channels.
            step: int32, updates made before this one.
            stepped: whether weights were updated.
            gradients: of each variable, or None.
        """
        schedule = self.rule.schedule
        update_now, sparsity = schedule(step)
        update_now = ops.logical_and(update_now, stepped)
        active = ops.logical_and(schedule.is_active(step), stepped)
        numbers = self.rule.random_numbers(step, len(self._ratios))
        contexts = [
            StepContext(
                step=step,
                active=active,
                update_now=update_now,
                sparsity=sparsity * ratio,
                random_number=numbers[i],
                index=ops.convert_to_tensor(i, "int32"),
                stepped=stepped,
            )
            for i, ratio in enumerate(self._ratios)
        ]
        self._update(pruned, blocks, contexts, sparsity, gradients)

    def _planned(self, variables):
        """Pattern, and fraction of the final sparsity, of each variable."""
        rule = self.rule
        shapes = [tuple(variable.shape) for variable in variables]
        ratios = rule.distribution.ratios(rule.schedule.final, [variable.path for variable in variables], shapes)
        units = [rule.pattern.of(variable) for variable in variables]
        for variable, pattern, ratio in zip(variables, units, ratios, strict=True):
            pattern.check(variable.path, variable.shape)
            pattern.check_sparsity(variable.path, ratio * rule.schedule.final)
        return units, ratios

    def _update(self, pruned, blocks, contexts, sparsity, gradients):
        contexts = [context._replace(gradient=one) for context, one in zip(contexts, gradients, strict=True)]
        if self.rule.distribution.needs_scores:
            contexts = self._with_global_sparsities(pruned, contexts, sparsity)
        updates = []
        for context, p, pattern in zip(contexts, pruned, self._patterns, strict=True):
            named = parts(p)
            update = functools.partial(self._update_variable, context, pattern, tuple(named))
            updates.append((update, list(named.values())))
        update_on_every_replica(updates)

    def _update_variable(self, context, pattern, names, *variables):
        p = PrunedVariable(**dict(zip(names, variables, strict=True)))
        weights, in_use, threshold = map(read, (p.variable, p.mask, p.threshold))
        magnitudes = ops.cast(weights, "float32")
        if p.state is not None:
            context = context._replace(state=self._new_state(p, magnitudes, context))
        if p.least is not None:
            context = context._replace(sparsity=ops.maximum(context.sparsity, read(p.least)))
        mask, threshold = self._by_rule(pattern, magnitudes, in_use, threshold, context)
        p.threshold.assign(threshold)
        self._leave(p, weights, in_use, mask)

    def _update_mask(self, pattern, weights, mask, threshold, context):
        return self.rule.update_mask(weights, mask, threshold, context._replace(pattern=pattern))

    def _by_rule(self, pattern, weights, in_use, threshold, context):
        """Mask and threshold by the rule; traced, which takes tensors only, except where eager rules see numbers."""
        traced = self._traces[pattern]
        update_mask = functools.partial(self._update_mask, pattern) if is_concrete(weights) else traced
        return update_mask(weights, in_use, threshold, context)

    def _leave(self, p, weights, in_use, mask):
        """Leave a variable masked in the model, its dense weights in their slot."""
        # Without a dense copy a weight that comes back begins at zero.
        kept = mask if self.rule.keeps_dense_weights else ops.logical_and(mask, in_use)
        if p.dense is not None:
            p.dense.assign(weights)
        p.mask.assign(mask)
        p.variable.assign(ops.where(kept, weights, ops.zeros((), weights.dtype)))  # a scalar: no pass over the memory

    def _new_state(self, p, weights, context):
        """The state of a variable after this step, which is kept; a step that was not made, or infinite, leaves it."""
        before = read(p.state)
        after = self.rule.observe(weights, read(p.mask), context._replace(state=before))
        state = ops.where(ops.logical_and(context.stepped, ops.isfinite(after)), after, before)
        p.state.assign(state)
        return state

    def _with_global_sparsities(self, pruned, contexts, sparsity):
        """Contexts with the sparsity of each variable by the scores of all."""

        def scores():
            units = []
            for context, p, pattern in zip(contexts, pruned, self._patterns, strict=True):
                state = None if p.state is None else ops.convert_to_tensor(p.state)
                weights = ops.cast(ops.convert_to_tensor(p.variable), "float32")
                context = context._replace(state=state, pattern=pattern)
                units.append(pattern.pool(self.rule.scores(weights, ops.convert_to_tensor(p.mask), context)))
            return units

        shapes = [tuple(p.variable.shape) for p in pruned]
        pairs = zip(shapes, self._patterns, strict=True)
        return self._with_shares(contexts, sparsity, [math.prod(s) // pattern.count(s) for s, pattern in pairs], scores)

    def _with_shares(self, contexts, sparsity, sizes, scores):
        """Contexts with the sparsities of a distribution by scores, which are computed only when masks are due."""
        shares = ops.cond(
            contexts[0].update_now,
            lambda: ops.stack(self.rule.distribution.sparsities(sparsity, scores(), sizes)),
            lambda: ops.zeros((len(contexts),)),
        )
        return [context._replace(sparsity=shares[i]) for i, context in enumerate(contexts)]


class CoupledMaskUpdates(MaskUpdates):
    """The masks of all variables by the groups of their channels, which the rule sees as weights of their own.

    Args:
        rule: as of `MaskUpdates`.
        variables: those to prune.
        coupling: of their channels.
    """

    def __init__(self, rule: Any, variables: Sequence[Any], coupling: Coupling) -> None:
        self.coupling = coupling
        super().__init__(rule, variables)

    def _planned(self, variables):
        blocks, rule = self.coupling.blocks, self.rule
        shapes = [block.shape for block in blocks]
        ratios = rule.distribution.ratios(rule.schedule.final, [block.path for block in blocks], shapes)
        return [self.coupling.unit_pattern] * len(blocks), ratios

    def _update(self, pruned, blocks, contexts, sparsity, gradients):
        variables = [variable for one in (*pruned, *blocks) for variable in parts(one).values()]
        update = functools.partial(self._update_together, pruned, blocks, contexts, sparsity, gradients)
        update_on_every_replica([(update, variables)])

    def _update_together(self, pruned, blocks, contexts, sparsity, gradients, *variables):
        remaining = iter(variables)  # this replica's, in the order of `_update`
        pruned = [p._replace(**{name: next(remaining) for name in parts(p)}) for p in pruned]
        blocks = [b._replace(**{name: next(remaining) for name in parts(b)}) for b in blocks]
        weights, masks = [read(p.variable) for p in pruned], [read(b.mask) for b in blocks]
        values = [ops.cast(one, "float32") for one in weights]
        if not self.rule.keeps_dense_weights:  # one step may have moved what is cut
            values = [ops.where(read(p.mask), one, 0.0) for p, one in zip(pruned, values, strict=True)]
        unit, magnitudes = self.coupling.unit_pattern, self.coupling.pool([ops.abs(one) for one in values])
        contexts = self._with_pooled(pruned, contexts, values, gradients)
        if self.rule.distribution.needs_scores:

            def scores():
                return [
                    self.rule.scores(one, mask, context._replace(pattern=unit))
                    for one, mask, context in zip(magnitudes, masks, contexts, strict=True)
                ]

            contexts = self._with_shares(contexts, sparsity, [block.size for block in self.coupling.blocks], scores)
        kept = []
        for block, one, mask, context in zip(blocks, magnitudes, masks, contexts, strict=True):
            if block.least is not None:
                context = context._replace(sparsity=ops.maximum(context.sparsity, read(block.least)))
            new, threshold = self._by_rule(unit, one, mask, read(block.threshold), context)
            block.mask.assign(new)
            block.threshold.assign(threshold)
            kept.append(new)
        for i, (p, one) in enumerate(zip(pruned, weights, strict=True)):
            self._leave(p, one, read(p.mask), ops.broadcast_to(self.coupling.expand(kept, i), one.shape))

    def _with_pooled(self, pruned, contexts, values, gradients):
        """Contexts with the states and gradients of the groups, where the rule has or needs them."""
        pool = self.coupling.pool
        if self.rule.has_state:
            states = pool(
                [
                    self._new_state(p, one, contexts[0]._replace(gradient=gradient))
                    for p, one, gradient in zip(pruned, values, gradients, strict=True)
                ]
            )
            contexts = [context._replace(state=state) for context, state in zip(contexts, states, strict=True)]
        if self.rule.needs_gradient:
            pairs = zip(gradients, values, strict=True)
            pooled = pool([ops.zeros_like(v) if g is None else ops.abs(g) for g, v in pairs])
            contexts = [context._replace(gradient=one) for context, one in zip(contexts, pooled, strict=True)]
        return contexts
