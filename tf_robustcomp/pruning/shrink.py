"""The smaller dense model of a sparse one: channels that its outputs do not need are taken out."""

import warnings
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.inner import innermost
from tf_robustcomp.pruning.channels import ChannelGraph, attribute_of
from tf_robustcomp.pruning.kernels import read
from tf_robustcomp.pruning.optimizer import as_optimizer


def shrink(model: Any) -> Any:
    """Return an ordinary dense model without the channels that the outputs of a pruned one do not need.

    In inference its outputs are the same, up to rounding.  A channel goes if all that reads it multiplies it by zero,
    or if it is a constant that the biases of its readers can take.  The model's inputs and outputs stay whole, and so
    does what a layer reads and gives that has no channel rule (see `channel_rule`); a warning names such layers.  Every
    tensor keeps at least one channel.

    Names of layers are kept.  A model that is compiled is compiled again: with the inner optimizer where it was pruned
    by one of this package, and with the slots of the weights that stay, so that fine-tuning goes on.

    Args:
        model: built functional or Sequential Keras model, channels last; it is left as it is.

    Returns:
        ``keras.Model``: saves, exports and loads without this package.

    Raises:
        InvalidArgument: the model is not built, has no graph of layers, is quantised, or calls a nested model twice.

    Example:
        >>> rc.prune(model, 0.5, pattern=rc.Channels(coupled=True))
        >>> small = rc.shrink(model)
        >>> small.fit(images, labels)  # fine-tune it
        >>> small.save("small.keras")
    """
    graph = ChannelGraph(model)
    if graph.whole:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in graph.whole.items())
        warnings.warn(f"layers that are not followed stay whole: {reasons}", stacklevel=2)
    small = _Smaller(graph)
    result = small.model(model)
    for layer, copy in small.copies:
        small.fill(layer, copy)
    if model.compiled:
        small.compile(model, result)
    return result


class _Smaller:
    """Makes models and layers of the sizes that are left."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.gone = graph.unneeded()
        self.copies: list[tuple[Any, Any]] = []

    def kept(self, space):
        """The bool of each channel: whether it stays."""
        return ~self.gone[self.graph.roots(space)]

    def model(self, model):
        """A copy of a model with layers of the new sizes, not filled yet."""
        if isinstance(model, keras.Sequential):
            entry = self._entry(model, model.inputs[0], self.graph.entries.get(id(model), [None])[0])
            copy = keras.Sequential([entry, *map(self._copy, model.layers)], name=model.name)
        else:
            entries = iter(self.graph.entries.get(id(model), [None] * len(model.inputs)))
            inputs = keras.tree.map_structure(lambda tensor: self._entry(model, tensor, next(entries)), model.input)
            clone = keras.models.clone_model(model, inputs, clone_function=self._copy)
            copy = keras.Model(clone.input, clone.output, name=model.name)
        copy.trainable = model.trainable
        for layer, one in self.copies:
            one.trainable = layer.trainable  # which the model's own would overrule
        return copy

    def fill(self, layer, copy):
        """Give a copy the weights that are left."""
        shift = self._shift(layer)
        for old, new, cut in self._pairs(layer, copy):
            new.assign(cut(read(old)))
        if shift is not None:
            copy.bias.assign(copy.bias + shift.astype(copy.bias.dtype))

    def compile(self, model, small):
        """Compile as the model is, and give the optimizer the slots that are left."""
        config = model.get_compile_config()
        if config is None:
            return
        pruning = as_optimizer(model.optimizer)
        before = model.optimizer if pruning is None else pruning.inner_optimizer
        config["optimizer"] = keras.saving.serialize_keras_object(before)
        small.compile_from_config(config)
        pairs = [(old, new, cut) for layer, copy in self.copies for old, new, cut in self._pairs(layer, copy)]
        olds, news = innermost(before), innermost(small.optimizer)
        for old, new in zip(olds, news, strict=True):
            if old.built and new.built:
                _carry_slots(old, new, pairs)

    def _entry(self, model, tensor, space):
        """A symbolic input; that of a nested model has the channels that are left."""
        shape = list(tensor.shape)
        if space is not None and len(space.groups):
            shape[-1] = int(self.kept(space).sum())
        names = {id(node.outputs[0]): node.operation.name for node in keras_private.graph_nodes(model)}
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=names[id(tensor)])

    def _copy(self, layer):
        if isinstance(layer, keras.Model):
            return self.model(layer)
        config = layer.get_config()
        followed = self.graph.followed.get(id(layer))
        if followed is not None:
            for name, space in followed.sizes.items():
                count = int(self.kept(space).sum())
                config[name] = (*config[name][:-1], count) if isinstance(config[name], list | tuple) else count
            if "use_bias" in config and self._shift(layer) is not None:
                config["use_bias"] = True
        copy = type(layer).from_config(config)
        if isinstance(layer, keras.Layer):
            self.copies.append((layer, copy))
        return copy

    def _shift(self, layer):
        """Sum that the constants that go add to the outputs that stay; None where it is zero."""
        followed = self.graph.followed.get(id(layer))
        for source, target, kernel, uses, folds in followed.sums if followed is not None else ():
            gone = ~self.kept(source)
            if folds and gone.any():
                parts = np.where(uses[gone], source.values[gone][:, None] * kernel[gone], 0.0)
                shift = np.nan_to_num(parts.sum(0)[self.kept(target)])  # not known only where a target goes as well
                return shift if shift.any() else None
        return None

    def _pairs(self, layer, copy):
        """Variables of a layer and of its copy, each with the function that cuts the one to the other's shape."""
        followed = self.graph.followed.get(id(layer))
        slices = {} if followed is None else followed.slices
        own = {id(attribute_of(layer, name)): (name, spaces) for name, spaces in slices.items()}
        pairs = [
            (attribute_of(layer, name), attribute_of(copy, name), self._cut(spaces)) for name, spaces in own.values()
        ]
        olds = [variable for variable in layer.variables if id(variable) not in own]
        news = [attribute_of(copy, name) for name in slices]
        if getattr(copy, "bias", None) is not None and getattr(layer, "bias", None) is None:
            news.append(copy.bias)
        rest = [variable for variable in copy.variables if all(variable is not new for new in news)]
        return [*pairs, *((old, new, lambda values: values) for old, new in zip(olds, rest, strict=True))]

    def _cut(self, spaces):
        kept = [None if space is None else np.flatnonzero(self.kept(space)) for space in spaces]

        def cut(values):
            for axis, channels in zip(range(values.ndim - len(kept), values.ndim), kept, strict=True):
                values = values if channels is None else np.take(values, channels, axis)
            return values

        return cut


def _carry_slots(old, new, pairs):
    """Copy an optimizer's variables: slots cut as their weights are, all others as they are."""
    cuts = {id(variable): (other, cut) for variable, other, cut in pairs}
    places = {id(variable): i for i, variable in enumerate(keras_private.trained_variables(new))}
    slots = keras_private.slot_lists(new)
    for name, values in keras_private.slot_lists(old).items():
        for variable, slot in zip(keras_private.trained_variables(old), values, strict=True):
            other, cut = cuts.get(id(variable), (None, None))
            if slot is not None and id(other) in places and slots[name][places[id(other)]] is not None:
                slots[name][places[id(other)]].assign(cut(read(slot)))
    new.iterations.assign(read(old.iterations))
