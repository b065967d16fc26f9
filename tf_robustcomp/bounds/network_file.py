"""The file of a coded network: what it holds, and how `load_code` makes the same network of it again."""

import math
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend.gradients import numpy_values
from tf_robustcomp.bounds import code
from tf_robustcomp.bounds.optimizers import MOST, CodedOptimizer, Subspace, projection, seeded_weights
from tf_robustcomp.coding import tables
from tf_robustcomp.networks.compact import compact_network
from tf_robustcomp.utils.errors import DataError, InvalidArgument

METHODS = (("quantize", "zero"), ("quantize", "model"), ("subspace", "seed"), ("subspace", "model"))
SHAPES = ((28, 28, 1, 10), (32, 32, 3, 10), (32, 32, 1, 10), (8, 8, 1, 10))  # of images and classes, in a bit each
# Of a compact network, in 14 bits; one more says whether its blocks share their weights.
MOST_OF = {"width": 64, "repeats": 16, "stages": 4, "views": 4}


def save_code(model: keras.Model, path: str | Path, network: dict[str, int] | None = None) -> dict[str, float]:
    """Write the code of a model that a `Quantize` or `Subspace` optimizer has trained; return its bits by part.

    "total" is the length l that `generalization_bound` takes: the bits of all bytes that count, of which only the
    checksum at the end is none.  Of variables that are not trained, such as the statistics of batch normalisation, the
    file holds the upper 16 bits.  So evaluate what `load_code` returns, not the model that was trained.

    Args:
        model: compiled with such an optimizer, perhaps inside a LossScaleOptimizer, and trained.
        path: of the file.
        network: the arguments that made the `compact_network` that the model is, but input shape and classes: the file
            then needs no other one.  None: the architecture was fixed before the data, and is not coded.

    Raises:
        InvalidArgument: the optimizer is another one, or has not been built.

    Example:
        >>> model.compile(rc.Quantize("adam", examples=len(images), bit_weight=3), loss)
        >>> model.fit(images, labels, epochs=20)
        >>> bits = rc.save_code(model, "network.rcnb")["total"]
    """
    optimizer = coded_optimizer(model.optimizer)
    if optimizer is None or not optimizer.built:
        name = type(model.optimizer).__name__
        raise InvalidArgument(f"the model must be trained by rc.Quantize or rc.Subspace. Received: optimizer={name}")
    is_subspace = isinstance(optimizer, Subspace)
    method = METHODS.index(("subspace" if is_subspace else "quantize", optimizer.begin))
    writer = code.Writer()
    writer.number("header", method, len(METHODS))
    writer.number("header", optimizer.levels // 2 - 1, 127)
    _write_network(writer, model, network)
    if is_subspace:
        writer.number("header", optimizer.dim, MOST + 1)
        writer.number("header", optimizer.seed, MOST + 1)
    for numbers, step in zip(*optimizer.symbols(), strict=True):
        writer.tensor(numbers, step, optimizer.levels)
    for values in numpy_values(_statistics(model)):
        bits = values.astype("<f4").ravel().view("<u4")
        writer.numbers("statistics", ((bits + 2**15) >> 16).astype(np.int64), 2**16)
    content = writer.content()
    begun = numpy_values(optimizer.beginning) if optimizer.begin == "model" else []
    total = code.write(path, content, _fingerprint(begun))
    return writer.parts | {"total": total}


def load_code(path: str | Path, model: keras.Model | None = None) -> keras.Model:
    """Return the network of a file that `save_code` wrote.

    Args:
        path: of the file.
        model: a model of the architecture that was coded, which gets the weights; where only a change was coded, it
            must hold the weights that training began with.  None makes the compact network that the file describes.

    Raises:
        DataError: the file is missing, cut, damaged or no such file, or belongs to another model.
        InvalidArgument: it holds no architecture, and none is given.

    Example:
        >>> sizes = {"width": 6, "repeats": 4, "stages": 1}
        >>> model = rc.compact_network((8, 8, 1), 10, **sizes)
        >>> model.compile(rc.Quantize("adam", examples=len(images)), loss)
        >>> model.fit(images, labels)
        >>> bits = rc.save_code(model, "network.rcnb", sizes)["total"]
        >>> outputs = rc.load_code("network.rcnb").predict(images)
    """
    body, checks, _ = code.read(path)
    try:
        with tables.decoder(body, DataError) as coder:
            unpacker = code.Unpacker(coder)
            method, begin = METHODS[unpacker.number(len(METHODS))]
            levels = 2 * unpacker.number(127) + 3
            network = _read_network(unpacker)
            if model is None:
                if network is None:
                    raise InvalidArgument(f"{path}: holds no architecture; give the model that was coded")
                model = compact_network(**network)
            weights = numpy_values(model.trainable_variables)
            if begin == "model" and _fingerprint(weights) != checks:
                raise DataError("codes a change of other weights than the model holds")
            weights = _weights(unpacker, method, begin, levels, weights)
            statistics = [_read_statistics(unpacker, tuple(v.shape)) for v in _statistics(model)]
    except InvalidArgument:
        raise
    except DataError as error:
        raise DataError(f"{path}: not the code of this model: {error}") from None
    for variable, value in zip([*model.trainable_variables, *_statistics(model)], [*weights, *statistics], strict=True):
        variable.assign(value)
    return model


def code_bits(path: str | Path) -> int:
    """Return the bits of a coded network's file that count: all but those of its checksums.

    Raises:
        DataError: the file is missing, cut, damaged or no such file.

    Example:
        >>> model.compile(rc.Quantize("adam", examples=len(images)), loss)
        >>> model.fit(images, labels)
        >>> rc.save_code(model, "network.rcnb")["total"] == rc.code_bits("network.rcnb")
        True
    """
    return code.read(path)[2]


def coded_optimizer(optimizer: Any) -> Any:
    """Return the coded optimizer in ``optimizer``, which may be a LossScaleOptimizer around it, or None."""
    if isinstance(optimizer, CodedOptimizer) or optimizer is None:
        return optimizer
    return coded_optimizer(getattr(optimizer, "inner_optimizer", None))


def _weights(unpacker, method, begin, levels, weights):
    """The trainable weights: k s, added to what they began with where that is so."""
    if method == "quantize":
        values = [_value(*unpacker.tensor(w.shape, levels)) for w in weights]
        return values if begin == "zero" else [w + value for w, value in zip(weights, values, strict=True)]
    dim, seed = unpacker.number(MOST + 1), unpacker.number(MOST + 1)
    if not dim:
        raise DataError("its subspace has no dimension")
    firsts = weights if begin == "model" else seeded_weights(seed, weights)
    coordinates = _value(*unpacker.tensor((dim,), levels))
    places = projection(seed, [w.shape for w in weights], dim)
    return [
        first + (coordinates[index] * scale).reshape(first.shape)
        for first, (index, scale) in zip(firsts, places, strict=True)
    ]


def _value(numbers, step):
    return numbers.astype(np.float32) * code.STEPS[step]


def _statistics(model):
    """Variables that are not trained and that predictions may use; the states of random numbers are integers."""
    return [v for v in model.non_trainable_variables if "float" in keras.backend.standardize_dtype(v.dtype)]


def _read_statistics(unpacker, shape):
    values = unpacker.numbers(math.prod(shape), 2**16).astype("<u4") << 16
    return values.astype("<u4").view("<f4").reshape(shape)


def _fingerprint(weights):
    """Checksum of weights that were fixed before."""
    return zlib.crc32(b"".join(w.astype("<f4").tobytes() for w in weights)).to_bytes(4, "little") if weights else b""


def _write_network(writer, model, network):
    writer.number("architecture", int(network is not None), 2)
    if network is None:
        return
    network = {"views": 1, **network}
    shape = (*model.input_shape[1:], model.output_shape[-1])
    writer.number("architecture", SHAPES.index(shape) if shape in SHAPES else len(SHAPES), len(SHAPES) + 1)
    if shape not in SHAPES:
        writer.numbers("architecture", np.array(shape), 2**12)
    for name, most in MOST_OF.items():
        if not 1 <= network[name] <= most:
            raise InvalidArgument(f"{name} must lie in [1, {most}]. Received: {name}={network[name]}")
        writer.number("architecture", network[name] - 1, most)
    writer.number("architecture", int(network.get("shared", True)), 2)


def _read_network(unpacker):
    if not unpacker.number(2):
        return None
    kind = unpacker.number(len(SHAPES) + 1)
    shape = SHAPES[kind] if kind < len(SHAPES) else tuple(map(int, unpacker.numbers(4, 2**12)))
    sizes = {name: unpacker.number(most) + 1 for name, most in MOST_OF.items()}
    shared = bool(unpacker.number(2))
    if not all(shape) or math.prod(shape[:3]) > 2**20:
        raise DataError("its images have no sensible size")
    return {"input_shape": shape[:3], "classes": shape[3], "shared": shared, **sizes}
