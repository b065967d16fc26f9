"""A model as one small file: its configuration, and its weights as `coding` writes them.

::

    magic "RCSM" | version | number of variables | length and CRC-32 of the configuration | configuration, deflated
    for each variable: length of its name and its code | CRC-32 of both | name | shape | code
"""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from keras import ops

from tf_robustcomp import files
from tf_robustcomp.errors import DataError, InvalidArgument
from tf_robustcomp.sparsity import coding as tensors

MAGIC = b"RCSM"
VERSION = 1
START = struct.Struct("<4sBIQI")
ENTRY = struct.Struct("<HQI")
INFLATION = 1100  # no deflated data unpacks to more than this many times its size
MAX_AXES = 32


def save_sparse(model, path, coding="float32", bits=5):
    """Write a model, its zeros counting almost nothing.

    Kernels (float32 tensors of rank >= 2) are coded as asked, everything else exactly.  The optimizer's state is left
    out: the file is for use and for sending, `model.save` for going on with training.

    Args:
        model: built ``keras.Model`` that Keras can serialise.
        path: of the file.
        coding: "float32" keeps every bit; "float16" rounds; "codebook" replaces the nonzeros of each kernel by the
            nearest of 2^bits values, found by k-means.
        bits: int 1 to 8, of the codebook.

    Raises:
        InvalidArgument: an argument breaks its rule, or a variable is not of floats or integers.
    """
    import keras

    if coding not in tensors.CODINGS:
        raise InvalidArgument(f"coding must be one of {', '.join(tensors.CODINGS)}. Received: coding={coding!r}")
    if not 1 <= bits <= 8:
        raise InvalidArgument(f"bits must lie in [1, 8]. Received: bits={bits}")
    config = zlib.compress(json.dumps(_without_training(keras.saving.serialize_keras_object(model))).encode(), 9)
    parts = []
    for variable in model.weights:
        values = ops.convert_to_numpy(variable.value)
        if values.dtype == np.float32:
            code = tensors.encode(values, coding if values.ndim >= 2 else "float32", bits)
        else:
            code = zlib.compress(np.ascontiguousarray(values).tobytes(), 9)
        name = json.dumps([variable.path, list(values.shape), values.dtype.name]).encode()
        parts.append(ENTRY.pack(len(name), len(code), zlib.crc32(name + code)) + name + code)
    start = START.pack(MAGIC, VERSION, len(parts), len(config), zlib.crc32(config))
    with files.replacing(path) as temporary:
        temporary.write_bytes(start + config + b"".join(parts))


def load_sparse(path, custom_objects=None):
    """Read what ``save_sparse`` wrote: a built, uncompiled model.

    No code in the file is run: Keras' safe mode is on, and nothing is unpickled.  The model is made before its weights
    are read, so a file may ask for as much memory as the layers that it names take.

    Args:
        path: of the file.
        custom_objects: dict of name -> class, for layers that are not registered with Keras.

    Raises:
        DataError: the file is missing, damaged, cut, too long or of another version; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return _read(path.read_bytes(), custom_objects)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read(data, custom_objects):
    if not data.startswith(MAGIC):
        raise DataError("not a sparse model of tf_robustcomp (it does not begin with RCSM)")
    reader = tensors._Reader(data)
    _, version, count, length, checksum = START.unpack(reader.take(START.size))
    if version != VERSION:
        raise DataError(f"version {version}; this package reads version {VERSION}")
    config = reader.take(length)
    if zlib.crc32(config) != checksum:
        raise DataError("damaged: the checksum of its configuration is wrong")
    entries = [_read_entry(reader, number) for number in range(min(count, len(data)))]
    if count > len(entries):
        raise DataError(f"cut: {count} variables are stated")
    reader.end()
    model = _model(config, custom_objects)
    if len(model.weights) != count:
        raise DataError(f"its model has {len(model.weights)} variables, the file {count}")
    for variable, (name, code) in zip(model.weights, entries, strict=True):
        variable.assign(_values(variable, name, code))
    return model


def _read_entry(reader, number):
    name_length, code_length, checksum = ENTRY.unpack(reader.take(ENTRY.size))
    name, code = reader.take(name_length), reader.take(code_length)
    if zlib.crc32(name + code) != checksum:
        raise DataError(f"damaged: the checksum of variable {number} is wrong")
    return name, code


def _values(variable, name, code):
    """The values of one variable, whose shape is the model's own: no length field is trusted with memory."""
    shape = tuple(variable.shape)
    dtype = np.dtype(ops.convert_to_numpy(variable.value).dtype)
    try:
        _, stated, stated_dtype = json.loads(name)
        same = tuple(stated) == shape and stated_dtype == dtype.name
    except (ValueError, TypeError):
        same = False
    if not same:
        raise DataError(f"its entry for {variable.path} is of another variable ({name[:80]!r})")
    if dtype == np.float32:
        return tensors.decode(code, shape)
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    try:
        raw = zlib.decompressobj().decompress(code, expected + 1)
    except zlib.error:
        raw = b""
    if len(raw) != expected:
        raise DataError(f"the values of {variable.path} cannot be read")
    return np.frombuffer(raw, dtype).reshape(shape)


def _model(config, custom_objects):
    import keras

    import tf_robustcomp

    tf_robustcomp.load_all()
    try:
        text = zlib.decompressobj().decompress(config, INFLATION * max(len(config), 1))
        model = keras.saving.deserialize_keras_object(json.loads(text), custom_objects, safe_mode=True)
    except Exception as error:  # whatever a layer's constructor says to arguments that are not its own
        raise DataError(f"its model cannot be made ({str(error).splitlines()[0][:200]})") from None
    if not isinstance(model, keras.Model) or not model.built:
        raise DataError("its configuration is not that of a built model")
    return model


def _without_training(config):
    """A model's configuration without that of its optimizer."""
    return {key: value for key, value in config.items() if key != "compile_config"}
