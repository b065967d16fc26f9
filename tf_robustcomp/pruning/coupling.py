"""Coupled channels: groups of channels that are scored, cut and brought back as one, over all kernels they touch."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning.channels import ChannelGraph, attribute_of
from tf_robustcomp.pruning.patterns import Channels, ChannelUnits
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Block:
    """Groups of channels that compete: those that the same layers give.

    Attributes:
        path: paths of the kernels that touch them, for a distribution to search in.
        shape: of the first of these kernels.
        units: number of groups.
        size: weights that a group touches, on average.
    """

    path: str
    shape: tuple
    units: int
    size: int


class Coupling:
    """The coupled channels of a model: scores of kernels pooled to groups, and groups spread over kernels.

    A weight is in use if the groups of all its channels are.  A channel that goes is thus neither computed nor read,
    and `shrink` can take it out, whatever stands between.

    Args:
        model: functional or Sequential, built.
        variables: those to prune; channels that touch other kernels stay whole.
        pattern: `Channels`.

    Raises:
        InvalidArgument: the model has no graph of layers, or no channels that may go.
    """

    def __init__(self, model: Any, variables: Sequence[Any], pattern: Channels) -> None:
        self.pattern = pattern
        self.unit_pattern = ChannelUnits(pattern.round_to)
        graph = ChannelGraph(model, knows_values=False)
        places = {id(variable): i for i, variable in enumerate(variables)}
        shapes = [tuple(variable.shape) for variable in variables]
        self._ranks = [len(shape) for shape in shapes]
        along, fixed = self._axes(model, graph, places)
        block_of, numbers = self._numbered(graph, along, fixed)
        if not block_of:
            raise InvalidArgument("model must have channels that may go. Received: none that only chosen kernels touch")
        self.axes = [[(axis, numbers[roots]) for axis, roots in along.get(i, ())] for i in range(len(variables))]
        starts = [unit for unit, block in enumerate(block_of) if unit == 0 or block != block_of[unit - 1]]
        self._bounds = list(zip(starts, [*starts[1:], len(block_of)], strict=True))
        self.blocks = [self._block(first, last, variables) for first, last in self._bounds]
        self._members = self._counted()

    def pool(self, values: Sequence[Any]) -> list[Any]:
        """Return the score of each group, a float32 tensor (units,) for each block, from values of all variables.

        Args:
            values: float32 tensors of the variables' shapes, in their order.
        """
        total = self._bounds[-1][1]
        scores = ops.zeros((total,), "float32")
        for value, axes in zip(values, self.axes, strict=True):
            for axis, units in axes:
                others = [one for one in range(len(value.shape)) if one != axis]
                one = ops.mean(value, axis=others)
                if self.pattern.aggregate == "sum":
                    one = one * float(math.prod(value.shape[other] for other in others))
                elif self.pattern.aggregate == "norm":
                    one = one / (ops.norm(one) + 1e-30)
                inside = ops.convert_to_tensor(np.where(units >= 0, units, total), "int32")
                scores = scores + ops.segment_sum(one, inside, num_segments=total + 1)[:total]
        if self.pattern.aggregate != "sum":
            scores = scores / ops.convert_to_tensor(self._members)
        return [scores[first:last] for first, last in self._bounds]

    def expand(self, masks: Sequence[Any], index: int) -> Any:
        """Return the mask of a variable: True where all its channels are in use.

        Args:
            masks: bool (units,) of each block.
            index: of the variable.
        """
        whole = ops.concatenate([*masks, ops.ones((1,), "bool")])  # the last stands for channels that stay
        result = None
        for axis, units in self.axes[index]:
            one = ops.take(whole, ops.convert_to_tensor(np.where(units >= 0, units, self._bounds[-1][1]), "int32"))
            one = ops.reshape(one, [-1 if other == axis else 1 for other in range(self._ranks[index])])
            result = one if result is None else ops.logical_and(result, one)
        return ops.ones((1,) * self._ranks[index], "bool") if result is None else result

    def _block(self, first, last, variables):
        """The block of the units from ``first`` to ``last``, the latter not included."""
        paths, shapes, weights = [], [], 0.0
        for variable, axes in zip(variables, self.axes, strict=True):
            for _, units in axes:
                share = np.mean((units >= first) & (units < last))
                if share:
                    paths.append(variable.path)
                    shapes.append(tuple(variable.shape))
                    weights += share * math.prod(variable.shape)
        count = last - first
        return Block(", ".join(dict.fromkeys(paths)), shapes[0], count, max(1, round(weights / count)))

    def _axes(self, model, graph, places):
        """Axes of the chosen kernels with the roots along them, and the roots that other kernels touch."""
        along: dict[int, list] = {}
        fixed: set[int] = set()
        for layer in keras_private.all_layers(model):
            followed = graph.followed.get(id(layer))
            for name, spaces in followed.slices.items() if followed is not None else ():
                variable = attribute_of(layer, name)
                rank = len(variable.shape)
                axes = zip(range(rank - len(spaces), rank), spaces, strict=True)
                found = [(axis, graph.roots(space)) for axis, space in axes if space is not None]
                if id(variable) in places:
                    along[places[id(variable)]] = found
                elif is_kernel(variable.path, variable):
                    fixed.update(root for _, roots in found for root in roots.tolist())
        return along, fixed

    def _numbered(self, graph, along, fixed):
        """Block of each unit, in the order of the units, and the unit of each root, -1 of those that stay."""
        free = ~graph.is_kept()
        free[list(fixed)] = False
        for space in graph.residuals if self.pattern.keep_residual else ():
            free[graph.roots(space)] = False
        members: dict[int, list[int]] = {}
        for block, root in graph.births():
            members.setdefault(block, []).append(root)
        joined: dict[int, int] = {}  # block -> the first block that has a group in common

        def first(block):
            while joined.get(block, block) != block:
                block = joined[block]
            return block

        owner: dict[int, int] = {}
        for block, roots in members.items():
            for root in roots:
                joined[first(block)] = first(owner.setdefault(root, block))
        touched = {root for axes in along.values() for _, roots in axes for root in roots.tolist()}
        units: dict[int, list[int]] = {}
        for root in sorted(touched):
            if free[root]:
                units.setdefault(first(owner[root]), []).append(root)
        numbers = np.full(len(free), -1)
        block_of: list[int] = []
        for block, roots in enumerate(units.values()):
            numbers[roots] = range(len(block_of), len(block_of) + len(roots))
            block_of += [block] * len(roots)
        return block_of, numbers

    def _counted(self):
        """Number of places that each unit has along the axes of all kernels."""
        total = self._bounds[-1][1]
        counts = np.zeros(total, "float32")
        for axes in self.axes:
            for _, units in axes:
                counts += np.bincount(units[units >= 0], minlength=total)
        return counts


def coupling_of(optimizer: Any, variables: Sequence[Any], pattern: Any) -> Coupling:
    """Return the coupling of the model that an optimizer trains, which is looked for among all models there are.

    Raises:
        InvalidArgument: no model holds the variables, or it has no graph of layers.
    """
    models = keras_private.models_with(variables)
    if not models:
        raise InvalidArgument("coupled channels need a model. Received: variables that no built Keras model holds")
    # The one that was compiled with the optimizer; without compile the one with the fewest layers.
    own = [model for model in models if _trains(getattr(model, "optimizer", None), optimizer)]
    return Coupling((own or sorted(models, key=lambda model: len(model.layers)))[0], variables, pattern)


def _trains(outer, optimizer):
    return outer is optimizer or (outer is not None and _trains(getattr(outer, "inner_optimizer", None), optimizer))
