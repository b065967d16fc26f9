"""Kernels that `model.quantize` of Keras made integers: which they are, and which of their weights are zero.

A weight is ``(q - z) / scale`` or ``(q - z) * scale`` with an integer q and the zero point z of its group, 0 in modes
that have none.  A weight of zero is q = z, so ``q - z`` is what is counted and coded.  Modes of 4 bits pack two
integers into a byte, the first into its low half; the half that is left over in an odd number is 0.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning.roles import KERAS_KERNELS
from tf_robustcomp.utils.errors import InvalidArgument

CALIBRATED = ("gptq", "awq")  # modes that need data
# Mode and name of a kernel -> axes of its matrix along which zero points lie in groups, and two integers share a byte.
AXES = {
    ("int4", "kernel"): (0, -1),
    ("int4", "embeddings"): (1, -1),
    ("int4", "reverse_embeddings"): (0, 0),
    ("gptq", "kernel"): (1, 0),
    ("awq", "kernel"): (1, 0),
}


class QuantisedKernel(NamedTuple):
    """A kernel of integers.

    Attributes:
        layer: its layer.
        variable: its bytes.
        packed: whether a byte holds two integers.
        size: number of weights.
    """

    layer: Any
    variable: Any
    packed: bool
    size: int

    def codes(self) -> np.ndarray:
        """Return q - z modulo 16 or 256, uint8 and packed as the variable is: 0 exactly where a weight is zero."""
        stored = ops.convert_to_numpy(self.variable).view(np.uint8)
        return _minus(stored, self._zero_points(), self.packed)

    def nonzero(self) -> int:
        """Return the number of weights that are not zero."""
        codes = self.codes()
        parts = (codes & 15, codes >> 4) if self.packed else (codes,)
        return sum(int(np.count_nonzero(part)) for part in parts)

    def assign_codes(self, codes: np.ndarray) -> None:
        """Set the variable from its ``codes``, once the layer's other variables have their values."""
        zero = _minus(np.zeros_like(codes), self._zero_points(), self.packed)
        self.variable.assign(_minus(codes, zero, self.packed).view(self.variable.dtype))

    def _zero_points(self):
        """Zero points of all weights, packed as the variable is."""
        zero = getattr(self.layer, f"{self.variable.name}_zero", None)
        if zero is None:
            return np.uint8(0)
        group_axis, packed_axis = AXES[self.layer.quantization_mode, self.variable.name]
        groups = ops.convert_to_numpy(self.layer.g_idx).astype(int)
        each = np.take(ops.convert_to_numpy(zero), groups, group_axis).astype(np.int8).view(np.uint8)
        return _packed(each, packed_axis) if self.packed else each


def kernels_of(model: Any) -> dict[int, QuantisedKernel]:
    """Return the quantised kernels of a model by the ``id`` of their variable.

    Raises:
        InvalidArgument: names a layer that waits for its calibration.
    """
    found = {}
    for layer in layers_of(model):
        mode, own = layer.quantization_mode, {variable.name: variable for variable in layer.weights}
        if mode in CALIBRATED and not getattr(layer, f"is_{mode}_calibrated"):
            raise InvalidArgument(
                f"{mode} must calibrate every layer that it is set for: name the layer in quantization_layer_structure "
                f"or leave it out with filters. Received: {layer.path}, not calibrated"
            )
        for name in sorted(KERAS_KERNELS & own.keys()):
            variable = own[name]
            if variable.dtype in ("int8", "uint8"):
                if mode in CALIBRATED:
                    shape = (layer.kernel_zero.shape[0], variable.shape[1])
                    packed = variable.shape[0] < shape[0]
                else:
                    shape = (layer.kernel if name == "kernel" else layer.embeddings).shape
                    packed = mode == "int4"
                found[id(variable)] = QuantisedKernel(layer, variable, packed, int(np.prod(shape)))
    return found


def layers_of(model: Any) -> list[Any]:
    """Return the layers of a model that compute in a mode of quantisation."""
    layers = keras_private.all_layers(model)
    return [one for one in layers if getattr(one, "quantization_mode", None) and hasattr(one, "quantization_config")]


def variables_of(model: Any) -> list[Any]:
    """Return a model's weights in one order, whether its layers were built quantised or quantised later."""
    result = list(model.weights)
    places = {id(variable): place for place, variable in enumerate(result)}
    for layer in layers_of(model):
        own = sorted(layer.weights, key=lambda variable: variable.name)
        for place, variable in zip(sorted(places[id(one)] for one in own), own, strict=True):
            result[place] = variable
    return result


@contextlib.contextmanager
def without_calibration(model: Any) -> Iterator[None]:
    """Let a model be serialised without the data and the layers that calibrated it, which may hold itself.

    The data types of its layers say the bits and the sizes of groups, which is all that a calibrated layer needs.
    """
    layers = [layer for layer in layers_of(model) if layer.quantization_mode in CALIBRATED]
    configs = [layer.quantization_config for layer in layers]
    try:
        for layer in layers:
            layer.quantization_config = None
        yield
    finally:
        for layer, config in zip(layers, configs, strict=True):
            layer.quantization_config = config


def mark_calibrated(model: Any) -> None:
    """Let layers that are to be given calibrated kernels compute with them."""
    for layer in layers_of(model):
        if layer.quantization_mode in CALIBRATED:
            setattr(layer, f"is_{layer.quantization_mode}_calibrated", True)


def _packed(values, axis):
    values = np.moveaxis(values & 15, axis, 0)
    if len(values) % 2:
        values = np.concatenate([values, np.zeros_like(values[:1])])
    return np.moveaxis(values[::2] | values[1::2] << 4, 0, axis)


def _minus(first, second, packed):
    """Bytes minus bytes, or each half of them minus each half."""
    if not packed:
        return first - second
    return ((first - second) & 15) | ((first & 240) - (second & 240))
