"""Which channels of a model belong together, and what the others see of each: the analysis behind `shrink`.

Every tensor has a number for each of its channels (last axis).  Tensors that are added, scaled or activated channel by
channel share their numbers: such a group stays or goes as one.  A convolution or dense layer ends groups and begins new
ones.  A group may go if every layer that ends it sees a known constant there, which is then put into a bias.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tf_robustcomp.utils.errors import InvalidArgument

_POINTWISE = {
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
} | {
    "hard_sigmoid",
    "hard_silu",
    "softplus",
    "softsign",
    "exponential",
    "mish",
    "log_sigmoid",
}
_SAME: tuple[type, ...] = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
_SAME += (
    layers.GaussianNoise,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
)
_SAME += (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
_SAME += (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
_SAME += (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
)
_PADDED: tuple[type, ...] = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_PADDED += (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU)
_MERGES = {
    layers.Add: np.add,
    layers.Subtract: np.subtract,
    layers.Multiply: np.multiply,
}
_MERGES |= {layers.Maximum: np.maximum, layers.Minimum: np.minimum}
_CONVS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


class Space(NamedTuple):
    """Channels of one tensor: number of the group of each, and the constant it is (nan: not known to be one)."""

    groups: np.ndarray
    values: np.ndarray


class Mixer(NamedTuple):
    """A layer that ends groups: its kernel as (inputs, outputs, positions), and whether constants can go on."""

    layer: Any
    source: Space
    target: Space
    kernel: np.ndarray
    folds: bool


class Analysis:
    """Groups of channels of a functional or Sequential model.

    Attributes:
        spaces: id of a layer -> (`Space` of its input, `Space` of its output), of layers that are followed.
        entries: id of a nested model -> spaces of its inputs.
        whole: names of layers that are not followed.
    """

    def __init__(self, model: Any) -> None:
        self.parents: list[int] = []
        self.pinned: set[int] = set()
        self.mixers: list[Mixer] = []
        self.spaces: dict[int, tuple[Space, Space]] = {}
        self.entries: dict[int, list[Space]] = {}
        self.whole: list[str] = []
        self._tensors: list[Space] = []
        self._of: dict[int, Space] = {}
        self._alive: list[Any] = []  # tensors whose ids are keys
        steps: list[tuple] = []
        inputs = keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype), _input(model))
        outputs = self._walk(model, inputs, steps)
        counts: dict[int, int] = {}
        for layer, _, _ in steps:
            counts[id(layer)] = counts.get(id(layer), 0) + 1
        for tensor in keras.tree.flatten(inputs):
            self._pin(self._set(tensor, self._new(tensor)))
        for layer, sources, targets in steps:
            if layer is None or isinstance(layer, keras.Model):
                for source, target in zip(sources, targets, strict=True):
                    self._of[id(target)] = self._of[id(source)]
                if layer is not None and counts[id(layer)] > 1:  # one copy serves all calls
                    raise InvalidArgument(f"a nested model must be called once. Received: {layer.name}, called twice")
                self.entries[id(layer)] = [self._of[id(x)] for x in sources]
            else:
                self._follow(layer, sources, targets, counts[id(layer)] > 1)
        for tensor in keras.tree.flatten(outputs):
            self._pin(self._of[id(tensor)])
        self._removed = self._find_removed()

    def kept(self, space: Space) -> np.ndarray:
        """Return the bool of each channel of a space: whether it stays."""
        return np.array([self._root(group) not in self._removed for group in space.groups], bool)

    # The graph --------------------------------------------------------------------------------------------------------

    def _walk(self, model, inputs, steps):
        """Run a copy of the model on symbolic inputs, nested models in line, and note each call."""
        originals = {}

        def copy(layer):
            new = layer if isinstance(layer, keras.Model) else type(layer).from_config(layer.get_config())
            originals[id(new)] = layer, new
            return new

        def call(new, *args, **kwargs):
            layer = originals[id(new)][0]
            sources = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
            self._alive += sources
            if isinstance(layer, keras.Model) and is_graph(layer):
                # Its layers are followed on inputs of its own, which stand for the tensors it is called on.
                own = keras.tree.map_structure(
                    lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype),
                    _input(layer),
                )
                steps.append((layer, sources, keras.tree.flatten(own)))
                inside = keras.tree.flatten(self._walk(layer, own, steps))
                result = keras.models.clone_model(layer)(*args, **kwargs)
                steps.append((None, inside, keras.tree.flatten(result)))
                self._alive += [own, inside, result]
                return result
            if isinstance(layer, keras.Model):
                raise InvalidArgument(f"model must consist of functional and Sequential models. Received: {layer.name}")
            result = new(*args, **kwargs)
            steps.append((layer, sources, keras.tree.flatten(result)))
            self._alive += [new, *keras.tree.flatten(result)]
            return result

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = call(copy(layer), inputs)
            return inputs
        return keras.models.clone_model(model, inputs, clone_function=copy, call_function=call).output

    def _set(self, tensor, space):
        self._of[id(tensor)] = space
        self._alive.append(tensor)
        self._tensors.append(space)
        return space

    def _new(self, tensor):
        count = (tensor.shape[-1] or 0) if len(tensor.shape) > 1 else 0
        start = len(self.parents)
        self.parents += range(start, start + count)
        return Space(np.arange(start, start + count), np.full(count, np.nan))

    def _root(self, group):
        while self.parents[group] != group:
            self.parents[group] = self.parents[self.parents[group]]
            group = self.parents[group]
        return int(group)

    def _join(self, first, second):
        for one, other in zip(first, second, strict=True):
            self.parents[self._root(one)] = self._root(other)

    def _pin(self, space):
        self.pinned.update(int(group) for group in space.groups)

    # What each layer does ---------------------------------------------------------------------------------------------

    def _follow(self, layer, sources, targets, is_shared):
        inputs = [self._of[id(x)] for x in sources]
        space = None
        first = getattr(layer, "data_format", None) == "channels_first"
        if len(targets) == 1 and inputs and not first and not (is_shared and layer.weights):
            space = self._output(layer, inputs, sources, targets[0])
        if space is None:
            self.whole.append(layer.name)
            for one in inputs:
                self._pin(one)
            for target in targets:
                self._pin(self._set(target, self._new(target)))
            return
        self._set(targets[0], space)
        self.spaces[id(layer)] = inputs[0], space

    def _output(self, layer, inputs, sources, target):
        """The space of a layer's output; None where it is not followed."""
        kind, one = type(layer), inputs[0]
        if kind in _CONVS and layer.groups == 1:
            kernel = _numbers(layer.kernel)
            folds = layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)
            return self._mix(
                layer,
                one,
                target,
                np.moveaxis(kernel.reshape(-1, *kernel.shape[-2:]), 0, -1),
                folds,
            )
        if kind is layers.Dense:
            return self._mix(layer, one, target, _numbers(layer.kernel)[..., None], True)
        if kind in _TRANSPOSED:
            kernel = _numbers(layer.kernel)
            return self._mix(
                layer,
                one,
                target,
                kernel.reshape(-1, *kernel.shape[-2:]).transpose(2, 1, 0),
                False,
            )
        if kind in _DEPTHWISE and layer.depth_multiplier == 1:
            kernel = _numbers(layer.kernel)
            sums = kernel.reshape(-1, kernel.shape[-2]).sum(0)
            known = np.where(
                layer.padding == "valid",
                one.values * sums,
                np.where(one.values == 0, 0, np.nan),
            )
            known = np.where((kernel == 0).all(axis=tuple(range(kernel.ndim - 2)))[:, 0], 0, known)
            bias = _numbers(layer.bias) if layer.use_bias else 0
            return Space(one.groups, _activated(layer.activation, known + bias))
        if kind is layers.BatchNormalization and layer.axis in (
            -1,
            len(target.shape) - 1,
        ):
            scale = (_numbers(layer.gamma) if layer.scale else 1) / np.sqrt(
                _numbers(layer.moving_variance) + layer.epsilon
            )
            shift = _numbers(layer.beta) if layer.center else 0
            return Space(one.groups, (one.values - _numbers(layer.moving_mean)) * scale + shift)
        if kind in _ACTIVATIONS and (kind is not layers.Activation or _is_pointwise(layer.activation)):
            return Space(one.groups, _activated(layer, one.values))
        if kind in _SAME:
            return one
        if kind in _PADDED:
            exact = kind not in _PADDED[:3] and layer.padding == "valid"
            return one if exact else Space(one.groups, np.where(one.values == 0, 0, np.nan))
        if kind in _MERGES and len({len(x.shape) for x in sources}) == 1:
            if len({len(space.groups) for space in inputs}) > 1:
                return None
            values = one.values
            for other in inputs[1:]:
                self._join(one.groups, other.groups)
                merged = _MERGES[kind](values, other.values)
                zero = (values == 0) | (other.values == 0)
                values = np.where(zero, 0, merged) if kind is layers.Multiply else merged
            return Space(one.groups, values)
        if kind is layers.Concatenate and layer.axis in (-1, len(target.shape) - 1):
            return Space(*(np.concatenate(parts) for parts in zip(*inputs, strict=True)))
        if kind is layers.Flatten and None not in sources[0].shape[1:]:
            times = int(np.prod(sources[0].shape[1:-1]))
            return Space(np.tile(one.groups, times), np.tile(one.values, times))
        return None

    def _mix(self, layer, source, target, kernel, folds):
        if not _is_pointwise(layer.activation):
            return self._mix_whole(layer, source, target, kernel, folds)
        uses = (kernel != 0).any(-1)  # (inputs, outputs)
        with np.errstate(invalid="ignore"):
            parts = np.where(uses, source.values[:, None] * kernel.sum(-1), 0)
        if not folds:
            parts = np.where(uses & (source.values != 0)[:, None], np.nan, parts)
        bias = _numbers(layer.bias) if layer.use_bias else 0
        space = Space(self._new(target).groups, _activated(layer.activation, parts.sum(0) + bias))
        self.mixers.append(Mixer(layer, source, space, kernel, folds))
        return space

    def _mix_whole(self, layer, source, target, kernel, folds):
        """As `_mix`, where the activation mixes channels: all outputs stay."""
        space = self._new(target)
        self._pin(space)
        self.mixers.append(Mixer(layer, source, space, kernel, folds))
        return space

    # What may go ------------------------------------------------------------------------------------------------------

    def _find_removed(self):
        """Groups that no layer needs; a layer whose output goes needs nothing, so it is asked until nothing changes."""
        pinned = {self._root(group) for group in self.pinned}
        everything = {self._root(group) for group in range(len(self.parents))}
        removed: set[int] = set()
        while True:
            needed = set(pinned)
            for mixer in self.mixers:
                live = np.array(
                    [self._root(group) not in removed for group in mixer.target.groups],
                    bool,
                )
                used = (mixer.kernel[:, live] != 0).any(axis=(1, 2))
                known = (mixer.source.values == 0) | (mixer.folds & np.isfinite(mixer.source.values))
                needed.update(self._root(group) for group in mixer.source.groups[used & ~known])
            for space in self._tensors:  # the last channel of a tensor stays
                roots = [self._root(group) for group in space.groups]
                if roots and not needed.intersection(roots):
                    needed.add(roots[0])
            after = everything - needed
            if after <= removed:
                return removed
            removed |= after


def is_graph(model: Any) -> bool:
    """Return whether a model is a built functional or Sequential one."""
    functional = type(keras.Model(x := keras.Input((1,)), x))
    return model.built and isinstance(model, functional | keras.Sequential)


def _input(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _numbers(variable):
    return ops.convert_to_numpy(ops.cast(variable, "float32")).astype("float64")


def _is_pointwise(activation):
    return getattr(activation, "__name__", None) in _POINTWISE


def _activated(function, values):
    return ops.convert_to_numpy(function(ops.convert_to_tensor(values.astype("float32")))).astype("float64")
