"""Which channels of a model belong together, and which of them its outputs do not need.

Every tensor of a model has a group for each of its channels, which lie along its last axis.  Where a layer works
channel by channel (batch norm, activations, Add), its input and output have the same groups; where a layer sums over
channels (dense layers, convolutions), new groups begin.  A group stays or goes as one.  What a layer does to groups is
a function, its channel rule (`channel_rules`).
"""

import collections
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.utils.errors import InvalidArgument

Rule = Callable[["LayerCall"], Any]
_rules: dict[type, Rule] = {}


def channel_rule(*classes: type) -> Callable[[Rule], Rule]:
    """Register the channel rule of layers: how their outputs' channels follow from their inputs'.

    The rule takes a `LayerCall` and returns the `Space` of its output, or a text that says why it cannot be followed.

    Args:
        *classes: of layers; those derived from them need rules of their own.

    Example:
        >>> class Gain(keras.layers.Layer):  # multiplies each channel by a weight
        ...     def build(self, shape):
        ...         self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")
        ...
        ...     def call(self, inputs):
        ...         return inputs * self.gain
        ...
        >>> @rc.channel_rule(Gain)
        ... def gain(call):
        ...     call.slices("gain", call.inputs[0])
        ...     return call.unknown(call.inputs[0])
    """

    def register(rule: Rule) -> Rule:
        for one in classes:
            _rules[one] = rule
        return rule

    return register


class Space(NamedTuple):
    """The channels of one tensor.

    Attributes:
        groups: int (channels,), number of the group of each.
        values: float64 (channels,), the constant that a channel is at every place and for every input; NaN where none
            is known.
    """

    groups: np.ndarray
    values: np.ndarray


class Sum(NamedTuple):
    """A layer that sums over channels.

    Attributes:
        source: what it sums over.
        target: what it gives.
        kernel: float64 (sources, targets), sums of the kernel over its window; a constant times it is what it adds.
        uses: bool (sources, targets), whether any weight of the window is not zero.
        folds: whether a constant adds the same at every place, so that a bias can take it.
    """

    source: Space
    target: Space
    kernel: np.ndarray
    uses: np.ndarray
    folds: bool


class Followed(NamedTuple):
    """Statements of a channel rule about a layer.

    Attributes:
        slices: attribute of the layer -> what the last axes of this variable lie along, None: of nothing.
        sizes: constructor argument -> the space whose number of channels it is, or is its last entry.
        sums: all sums that it makes, one of them for layers that have a bias for constants.
    """

    slices: dict[str, tuple]
    sizes: dict[str, Space]
    sums: list[Sum]


class LayerCall:
    """One call of a layer, as a channel rule sees it.

    Attributes:
        layer: a Keras layer, or an operation of ``keras.ops``.
        inputs: list of `Space`, one for each tensor that it is given.
        input_shapes: list of their shapes.
        output_shape: of its output.
    """

    def __init__(self, graph: "ChannelGraph", node: Any) -> None:
        self._graph, self._node = graph, node
        self.layer = node.operation
        self.input_shapes = [tuple(x.shape) for x in node.input_tensors]
        self.inputs = [graph.space(x) for x in node.input_tensors]
        self.output_shape = tuple(node.outputs[0].shape)
        self.followed = Followed({}, {}, [])

    def new(self, count: int | None = None) -> Space:
        """Return as many channels of new groups; None: as many as the output has."""
        return self._graph.new(self.output_shape[-1] if count is None else count)

    def unknown(self, space: Space) -> Space:
        """Return the same groups, of whose values nothing is known."""
        return space._replace(values=np.full(len(space.groups), np.nan))

    def join(self, first: Space, second: Space) -> None:
        """Make one group of each channel of a space and the same channel of another."""
        self._graph.join(first, second)

    def keep(self, space: Space) -> None:
        """Let no channel of a space go."""
        self._graph.keep(space)

    def adds(self, space: Space) -> None:
        """State that a space is a sum of several tensors, as residual streams are."""
        self._graph.residuals.append(space)

    def slices(self, attribute: str, *spaces: Space | None) -> None:
        """State along which channels the last axes of a variable lie, such as ``"kernel", source, target``."""
        self.followed.slices[attribute] = spaces

    def sizes(self, **spaces: Space) -> None:
        """State constructor arguments that are numbers of channels; of a sequence it is the last entry."""
        self.followed.sizes.update(spaces)

    def weights(self, attribute: str) -> np.ndarray:
        """Return the values of a variable, float64; all NaN while only the groups are asked for."""
        variable = attribute_of(self.layer, attribute)
        if not self._graph.knows_values:
            return np.full(tuple(variable.shape), np.nan)
        return ops.convert_to_numpy(ops.cast(variable, "float32")).astype("float64")

    def sums(self, source: Space, target: Space, kernel: np.ndarray, folds: bool = False) -> np.ndarray:
        """Note a sum over channels and return what it gives, float64 (targets,): NaN where that is no constant.

        Args:
            source: what is summed over.
            target: what the sums are.
            kernel: (sources, targets, positions).
            folds: whether a constant source adds the same at every place.
        """
        uses, whole = (kernel != 0).any(-1), kernel.sum(-1)
        self.followed.sums.append(Sum(source, target, whole, uses, folds))
        with np.errstate(invalid="ignore"):
            parts = np.where(uses, source.values[:, None] * whole, 0.0)
        if not folds:
            parts = np.where(uses & (source.values != 0)[:, None], np.nan, parts)
        return parts.sum(0)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call by name, a `Space` for each tensor."""
        args, kwargs = keras.tree.map_structure(self._of, (self._node.arguments.args, self._node.arguments.kwargs))
        return dict(inspect.signature(self.layer.call).bind(*args, **kwargs).arguments)

    def evaluate(self) -> np.ndarray:
        """Return what the layer makes of its inputs' values, float64; for layers that work value by value."""
        if not self._graph.knows_values:
            return np.full(max(len(space.groups) for space in self.inputs), np.nan)
        args, kwargs = keras.tree.map_structure(
            lambda x: ops.convert_to_tensor(self._of(x).values.astype("float32")) if _is_symbol(x) else x,
            (self._node.arguments.args, self._node.arguments.kwargs),
        )
        return ops.convert_to_numpy(self.layer.call(*args, **kwargs)).astype("float64")

    def apply(self, function: Callable, values: np.ndarray) -> np.ndarray:
        """Return what a function of tensors that works value by value makes of values, float64."""
        if not self._graph.knows_values:
            return values
        return ops.convert_to_numpy(function(ops.convert_to_tensor(values.astype("float32")))).astype("float64")

    def constants(self) -> list:
        """Return the arguments that are no tensors of the model."""
        arguments = keras.tree.flatten((self._node.arguments.args, self._node.arguments.kwargs))
        return [x for x in arguments if not _is_symbol(x)]

    def _of(self, value):
        return self._graph.space(value) if _is_symbol(value) else value


class ChannelGraph:
    """The groups of channels of a functional or Sequential model.

    Args:
        model: built.
        knows_values: whether the weights are looked at, which tells constants and what is not used.

    Attributes:
        followed: id of a layer -> `Followed`.
        residuals: spaces that an Add gives.
        whole: name of a layer that is not followed -> why; those between which and the model's inputs or outputs no
            channel could go are left out.

    Raises:
        InvalidArgument: the model has no graph of layers, is quantised, or calls a nested model twice.
    """

    def __init__(self, model: Any, knows_values: bool = True) -> None:
        check_graph(model)
        self.knows_values = knows_values
        self.followed: dict[int, Followed] = {}
        self.residuals: list[Space] = []
        self.whole: dict[str, str] = {}
        self.entries: dict[int, list[Space]] = {}  # id of a nested model -> spaces of its inputs
        self._parents: list[int] = []
        self._births: list[int] = []  # of each group: which call of `new` made it
        self._kept: list[np.ndarray] = []
        self._spaces: dict[int, Space] = {}  # by the id of a symbolic tensor, which the model holds
        self._calls = collections.Counter(id(node.operation) for node in _nodes(model))
        unfollowed: list[tuple] = []
        for tensor in model.inputs:
            self._spaces[id(tensor)] = self.new(_channels(tensor))
        self._follow_all(model, unfollowed)
        ends = [self.space(tensor) for tensor in (*model.inputs, *model.outputs)]
        for space in ends:
            self.keep(space)
        whole = {group for space in ends for group in space.groups.tolist()}
        for name, reason, *sides in unfollowed:
            if not any(all(whole.issuperset(space.groups.tolist()) for space in side) for side in sides):
                self.whole[name] = reason
        self._roots = np.array([self._root(group) for group in range(len(self._parents))], int)

    def space(self, tensor: Any) -> Space:
        """Return the channels of a symbolic tensor."""
        return self._spaces[id(tensor)]

    def new(self, count: int) -> Space:
        """Return channels of new groups."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        self._births += [first] * count
        return Space(np.arange(first, first + count), np.full(count, np.nan))

    def join(self, first: Space, second: Space) -> None:
        """Make one group of each channel of a space and the same channel of another."""
        for one, other in zip(first.groups, second.groups, strict=True):
            self._parents[self._root(one)] = self._root(other)

    def keep(self, space: Space) -> None:
        """Let no channel of a space go."""
        self._kept.append(space.groups)

    def roots(self, space: Space) -> np.ndarray:
        """Return int (channels,): equal numbers for channels that stay or go together."""
        return self._roots[space.groups]

    def births(self) -> list[tuple[int, int]]:
        """Return for each group a number, equal for groups that began at the same layer, and its root."""
        return list(zip(self._births, self._roots.tolist(), strict=True))

    def is_kept(self) -> np.ndarray:
        """Return the bool of each group, by its root, of which no channel may go."""
        kept = np.zeros(len(self._parents), bool)
        for groups in self._kept:
            kept[self._roots[groups]] = True
        return kept

    def unneeded(self) -> np.ndarray:
        """Return the bool of each group, by its root, that the outputs do not need; one of every tensor stays.

        A layer whose output goes needs nothing, so all are asked until nothing changes.
        """
        roots, count = self._roots, len(self._parents)
        always = self.is_kept()
        sums = [one for followed in self.followed.values() for one in followed.sums]
        spaces = [*self._spaces.values(), *(space for one in sums for space in (one.source, one.target))]
        tensors = [self.roots(space) for space in spaces if len(space.groups)]
        gone = np.zeros(count, bool)
        while True:
            needed = always.copy()
            for source, target, _, uses, folds in sums:
                used = uses[:, ~gone[roots[target.groups]]].any(axis=1)
                known = (source.values == 0) | (folds & np.isfinite(source.values))
                needed[roots[source.groups[used & ~known]]] = True
            for channels in tensors:
                if not needed[channels].any():
                    needed[channels[~gone[channels]][:1]] = True
            now = ~needed & (roots == np.arange(count))
            if not (now & ~gone).any():
                return gone
            gone |= now

    def _root(self, group):
        while self._parents[group] != group:
            self._parents[group] = self._parents[self._parents[group]]
            group = self._parents[group]
        return int(group)

    def _follow_all(self, model, unfollowed):
        for node in _nodes(model):
            layer = node.operation
            if isinstance(layer, keras.Model):
                check_graph(layer)
                if self._calls[id(layer)] > 1 or id(layer) in self.entries:
                    raise InvalidArgument(
                        f"nested models must be called once. Received: {layer.name}, whose layers serve several inputs"
                    )
                self.entries[id(layer)] = [self.space(x) for x in node.input_tensors]
                self._spaces.update(
                    {id(x): self.space(y) for x, y in zip(layer.inputs, node.input_tensors, strict=True)}
                )
                self._calls.update(id(inner.operation) for inner in _nodes(layer))
                self._follow_all(layer, unfollowed)
                self._alias(node.outputs, layer.outputs)
            else:
                self._follow(node, unfollowed)

    def _alias(self, tensors, others):
        for one, other in zip(tensors, others, strict=True):
            self._spaces[id(one)] = self.space(other)

    def _follow(self, node, unfollowed):
        call = LayerCall(self, node)
        result = self._result(node, call)
        if isinstance(result, Space):
            self._spaces[id(node.outputs[0])] = result
            self.followed[id(node.operation)] = call.followed
            return
        for tensor in node.outputs:
            self._spaces[id(tensor)] = self.new(_channels(tensor))
        outputs = [self.space(tensor) for tensor in node.outputs]
        for space in (*call.inputs, *outputs):
            self.keep(space)
        unfollowed.append((node.operation.name, result, call.inputs, outputs))

    def _result(self, node, call):
        """The space of a call's output, or why there is none."""
        layer = node.operation
        rule = _rules.get(type(layer)) or (None if isinstance(layer, keras.Layer) else _rules.get(object))
        if rule is None:
            return "it has no channel rule"
        if getattr(layer, "data_format", None) == "channels_first":
            return "its channels come first"
        if getattr(layer, "lora_enabled", False):
            return "it has an adapter"
        if self._calls[id(layer)] > 1 and getattr(layer, "weights", None):
            return "it serves several inputs"
        if len(node.outputs) != 1 or not call.inputs or not all(len(s.groups) for s in call.inputs):
            return "its tensors have no axis of channels of a known size"
        return rule(call)


def check_graph(model: Any) -> None:
    """Raise InvalidArgument unless a model is a built functional or Sequential one, not quantised."""
    if not isinstance(model, keras.Model):
        raise InvalidArgument(f"model must be a Keras model. Received: {type(model).__name__}")
    if not isinstance(model, _functional() | keras.Sequential):
        raise InvalidArgument(
            f"model must be functional or Sequential, for a subclassed one has no graph of layers. Received: "
            f"{model.name}, {type(model).__name__}"
        )
    if not model.built or not model.inputs:
        raise InvalidArgument(f"model must be built; call it on data first. Received: {model.name}, not built")
    for layer in keras_private.all_layers(model):
        if getattr(layer, "quantization_mode", None):
            raise InvalidArgument(f"model must not be quantised yet. Received: {layer.path}, {layer.quantization_mode}")


@functools.cache
def _functional():
    """The class of functional models, which has no public name."""
    return type(keras.Model(x := keras.Input((1,)), x))


def attribute_of(layer: Any, attribute: str) -> Any:
    """Return an attribute of a layer, or of layers inside it: ``"output_dense.kernel"``."""
    for name in attribute.split("."):
        layer = getattr(layer, name)
    return layer


def _nodes(model) -> Iterator[Any]:
    return (node for node in keras_private.graph_nodes(model) if node.input_tensors)


def _channels(tensor):
    return (tensor.shape[-1] or 0) if len(tensor.shape) > 1 else 0


def _is_symbol(value):
    return isinstance(value, keras.KerasTensor)
