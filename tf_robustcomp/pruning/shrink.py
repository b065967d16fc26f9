"""The smaller dense model of a sparse one: channels that pruning has emptied are taken out."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.pruning.groups import Analysis, is_graph
from tf_robustcomp.utils.errors import InvalidArgument


def shrink(model: Any) -> Any:
    """Return a dense model without the channels that the outputs of a sparse one do not need; it is not compiled.

    The outputs are the same in inference, up to rounding.  Inputs and outputs of the model stay whole, and so does what
    layers read and write that cannot be followed; a warning names these.  Every tensor keeps at least one channel.

    Args:
        model: built functional or Sequential Keras model, nested ones too, channels last.

    Raises:
        InvalidArgument: the model is not built, or has no graph of layers.

    Example:
        >>> small = rc.shrink(model)
        >>> small.save("small.keras")  # an ordinary Keras model
    """
    if not isinstance(model, keras.Model):
        raise InvalidArgument(f"model must be a Keras model. Received: {type(model).__name__}")
    if not model.built:
        raise InvalidArgument(f"model must be built; call it on data first. Received: {model.name}, not built")
    if not is_graph(model):
        raise InvalidArgument(f"model must be a functional or Sequential one. Received: {type(model).__name__}")
    analysis = Analysis(model)
    if analysis.whole:
        warnings.warn(
            f"layers that are not followed stay whole: {', '.join(analysis.whole)}",
            stacklevel=2,
        )
    copies: list[tuple[Any, Any]] = []
    small = _rebuilt(model, analysis, copies, None)
    mixers = {id(mixer.layer): mixer for mixer in analysis.mixers}
    for layer, copy in copies:
        copy.set_weights(_weights(layer, analysis, mixers.get(id(layer))))
    return small


def _rebuilt(model, analysis, copies, entries):
    """A copy of a model with layers of the new sizes; the spaces of a nested model's inputs are given."""
    shapes = iter(entries or ())

    def entry(tensor):
        shape = list(tensor.shape)
        if entries is not None and (space := next(shapes)).groups.size:
            shape[-1] = int(analysis.kept(space).sum())
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    def copy(layer):
        if isinstance(layer, keras.Model):
            return _rebuilt(layer, analysis, copies, analysis.entries[id(layer)])
        new = type(layer).from_config(_config(layer, analysis))
        if isinstance(layer, keras.Layer):
            copies.append((layer, new))
        return new

    if isinstance(model, keras.Sequential):
        return keras.Sequential([entry(model.inputs[0]), *map(copy, model.layers)], name=model.name)
    inputs = keras.tree.map_structure(entry, model.input)
    clone = keras.models.clone_model(model, inputs, clone_function=copy)
    return keras.Model(clone.input, clone.output, name=model.name)


def _config(layer, analysis):
    config = layer.get_config()
    if id(layer) in analysis.spaces:
        count = int(analysis.kept(analysis.spaces[id(layer)][1]).sum())
        for name in {"filters", "units"} & set(config):
            config[name] = count
        if "use_bias" in config and _shift(layer, analysis) is not None:
            config["use_bias"] = True
    return config


def _shift(layer, analysis):
    """What the removed inputs of a layer add to its outputs, of all outputs; None where that is nothing."""
    for mixer in analysis.mixers:
        if mixer.layer is layer:
            gone = ~analysis.kept(mixer.source)
            values = np.nan_to_num(mixer.source.values[gone])  # an unknown one meets a kernel of zeros
            shift = values @ mixer.kernel[gone].sum(-1)
            return shift if shift.any() else None
    return None


def _weights(layer, analysis, mixer):
    values = [ops.convert_to_numpy(variable) for variable in layer.weights]
    if id(layer) not in analysis.spaces:
        return values
    source, target = (analysis.kept(space) for space in analysis.spaces[id(layer)])
    if mixer is None:  # depthwise kernels (..., channels, 1) and vectors
        return [x[target] if x.ndim == 1 else x[..., target, :] for x in values]
    rows, columns = (target, source) if "Transpose" in type(layer).__name__ else (source, target)
    weights = [values[0][..., rows, :][..., columns]]
    shift = _shift(layer, analysis)
    if layer.use_bias or shift is not None:
        bias: Any = values[1] if layer.use_bias else 0
        bias = bias if shift is None else bias + shift
        weights.append(bias[target])
    return weights
