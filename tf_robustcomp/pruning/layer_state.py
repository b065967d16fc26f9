"""State that layers keep outside of their variables: vocabularies, moments, tables, as in Keras' own files.

A layer with such a state has methods of its own for saving and loading.  Its state here is what these write, as plain
values, with the number of a variable in place of what that variable holds; loading hands it to the same methods, so
that the layer finishes what it makes of its variables, too.
"""

import base64
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.utils.errors import DataError, InvalidArgument

METHODS = ("save_own_variables", "load_own_variables", "save_assets", "load_assets")


def states_of(model: Any) -> dict[str, Any]:
    """Return the states of a model's layers as plain values, by the number of the layer.

    Raises:
        InvalidArgument: names a layer whose state is no array of numbers or text.
    """
    layers = enumerate(keras_private.all_layers(model))
    return {str(i): {"own": _own(layer), "assets": _assets(layer)} for i, layer in layers if _has_state(layer)}


def restore(model: Any, states: dict[str, Any]) -> None:
    """Hand states to the layers of a model whose variables are loaded.

    Raises:
        DataError: a state is not that of its layer.
    """
    for i, layer in enumerate(keras_private.all_layers(model)):
        if _has_state(layer):
            try:
                _restore(layer, **states[str(i)])
            except Exception as error:  # whatever a layer says to a state that is not its own
                raise DataError(f"the state of layer {layer.name} cannot be read ({str(error)[:200]})") from None


def _has_state(layer):
    """Whether a layer saves in its own way; Keras' layers with adapters do so to merge these, and have no state."""
    methods = [getattr(type(layer), name) for name in METHODS if hasattr(type(layer), name)]
    own = [method for method in methods if method is not getattr(keras.Layer, method.__name__, None)]
    return any(not (hasattr(layer, "enable_lora") and method.__module__.startswith("keras.")) for method in own)


def _own(layer):
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    variables = [ops.convert_to_numpy(variable) for variable in layer.variables]
    return {key: _coded(layer, np.asarray(value), variables) for key, value in store.items()}


def _coded(layer, value, variables):
    """The number of the variable that a value is, or its dtype, shape and bytes."""
    for i, variable in enumerate(variables):
        if value.dtype == variable.dtype and value.shape == variable.shape and value.tobytes() == variable.tobytes():
            return i
    if value.dtype.hasobject or np.dtype(value.dtype.str) != value.dtype:
        raise InvalidArgument(
            f"layer {layer.name} must keep its state in arrays of numbers or text. Received: {value.dtype}"
        )
    return [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]


def _decoded(value, variables):
    if isinstance(value, int):
        return ops.convert_to_numpy(variables[value])
    dtype, shape, data = value
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()


def _assets(layer):
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): base64.b64encode(path.read_bytes()).decode() for path in found}


def _restore(layer, own, assets):
    if own:
        layer.load_own_variables({key: _decoded(value, layer.variables) for key, value in own.items()})
    if not assets:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in assets.items():
            path = (Path(folder) / name).resolve()
            if not path.is_relative_to(Path(folder).resolve()):
                raise DataError(f"it names the file {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(data))
        layer.load_assets(folder)
