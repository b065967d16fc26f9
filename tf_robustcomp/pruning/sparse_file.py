"""A model as one small file: a zip of its configuration and its weights, as `coding.sparse_tensors` writes them.

::

    config.json    version, number of variables, configuration of the model, states of layers that have some
    weights.bin    for each variable: length of its name and of its code | name | code
"""

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.coding import sparse_tensors
from tf_robustcomp.coding.tables import MAX_INFLATION, inflate
from tf_robustcomp.pruning import layer_state, quantised
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils import files
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import DataError, InvalidArgument

VERSION = 3
CONFIG, WEIGHTS = "config.json", "weights.bin"
ENTRY = struct.Struct("<HQ")


def save_sparse(model: Any, path: str | Path, coding: str = "float32", bits: int = 5) -> None:
    """Write a model to a file in which zeros take almost no space.

    Kernels of float32 are coded as asked, everything else exactly: kernels that ``model.quantize`` made integers, their
    scales, and what layers keep outside of their variables (vocabularies, moments, tables).  The optimizer's state is
    left out: the file is for use and for sending; use `model.save` to continue a training.

    Args:
        model: built ``keras.Model`` that Keras can serialise.
        path: of the file.
        coding: "float32" keeps every bit; "float16" rounds; "codebook" replaces the nonzeros of each kernel by the
            nearest of 2^bits values, found by k-means.
        bits: int 1 to 8, of the codebook.

    Raises:
        InvalidArgument: an argument breaks its rule, a layer's state is no array, or a layer is to be calibrated and
            is not; the message names the layer.

    Example:
        >>> rc.save_sparse(model, "model.rcsm")
        >>> model = rc.load_sparse("model.rcsm")
    """
    import keras

    check_choice("coding", coding, tuple(sparse_tensors.CODINGS))
    if not 1 <= bits <= 8:
        raise InvalidArgument(f"bits must lie in [1, 8]. Received: bits={bits}")
    kernels = quantised.kernels_of(model)
    with quantised.without_calibration(model):
        serialised = keras.saving.serialize_keras_object(model)
    config = {key: value for key, value in serialised.items() if key != "compile_config"}
    states = layer_state.states_of(model)
    head = {
        "version": VERSION,
        "variables": len(model.weights),
        "model": config,
        **({"states": states} if states else {}),
    }
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_member(CONFIG, zipfile.ZIP_DEFLATED), json.dumps(head), compresslevel=9)
        entries = [_entry(v, kernels.get(id(v)), coding, bits) for v in quantised.variables_of(model)]
        archive.writestr(_member(WEIGHTS, zipfile.ZIP_STORED), b"".join(entries))


def load_sparse(path: str | Path, custom_objects: dict[str, Any] | None = None) -> Any:
    """Return the built, uncompiled model that ``save_sparse`` wrote.

    No code in the file is run: Keras' safe mode is on, and nothing is unpickled.  The model is made before its weights
    are read, so a file may ask for as much memory as the layers that it names take.

    Args:
        path: of the file.
        custom_objects: dict of name -> class, for layers that are not registered with Keras.

    Raises:
        DataError: the file is missing, corrupt, truncated, too long or of another version; the message says which.

    Example:
        >>> rc.save_sparse(model, "model.rcsm")
        >>> outputs = rc.load_sparse("model.rcsm").predict(images)
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path.stat().st_size, custom_objects)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: not a whole sparse model of tf_robustcomp ({error})") from None


def _member(name, compression):
    info = zipfile.ZipInfo(name)  # of a fixed date, so that the same model is the same file
    info.compress_type = compression
    return info


def _entry(variable, kernel, coding, bits):
    values = ops.convert_to_numpy(variable.value)
    if kernel is not None:
        code = sparse_tensors.encode_integers(kernel.codes())
    elif values.dtype == np.float32:
        code = sparse_tensors.encode(values, coding if is_kernel(variable.path, variable) else "float32", bits)
    else:
        code = zlib.compress(np.ascontiguousarray(values).tobytes(), 9)
    name = json.dumps([variable.path, list(values.shape), values.dtype.name]).encode()
    return ENTRY.pack(len(name), len(code)) + name + code


def _read(archive, size, custom_objects):
    if archive.namelist() != [CONFIG, WEIGHTS]:
        raise DataError(f"not a sparse model of tf_robustcomp (it must hold {CONFIG} and {WEIGHTS})")
    if sum(info.file_size for info in archive.infolist()) > MAX_INFLATION * size:  # as stated, which zipfile enforces
        raise DataError("states a size that it cannot have")
    count, model, states = _model(archive.read(CONFIG), custom_objects)
    if len(model.weights) != count:
        raise DataError(f"its model has {len(model.weights)} variables, the file {count}")
    reader = sparse_tensors.Reader(archive.read(WEIGHTS))
    quantised.mark_calibrated(model)
    variables, kernels, values = quantised.variables_of(model), quantised.kernels_of(model), {}
    for variable in variables:
        name_length, code_length = ENTRY.unpack(reader.take(ENTRY.size))
        name, code = reader.take(name_length), reader.take(code_length)
        values[id(variable)] = _values(variable, kernels.get(id(variable)), name, code)
    reader.end()
    for variable in variables:
        if id(variable) not in kernels:
            variable.assign(values[id(variable)])
    for key, kernel in kernels.items():  # after their zero points
        kernel.assign_codes(values[key])
    layer_state.restore(model, states)
    return model


def _model(text, custom_objects):
    import keras

    import tf_robustcomp

    tf_robustcomp.load_all()
    try:
        head = json.loads(text)
        version = head["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"its {CONFIG} cannot be read") from None
    if version != VERSION:
        raise DataError(f"version {version}; this package reads version {VERSION}")
    try:
        model = keras.saving.deserialize_keras_object(head["model"], custom_objects, safe_mode=True)
        count, states = int(head["variables"]), dict(head.get("states", {}))
    except Exception as error:  # whatever a layer's constructor says to arguments that are not its own
        raise DataError(f"its model cannot be made ({str(error).splitlines()[0][:200]})") from None
    if not isinstance(model, keras.Model) or not model.built:
        raise DataError("its configuration is not that of a built model")
    return count, model, states


def _values(variable, kernel, name, code):
    """The values of one variable, whose shape is the model's own: no length field is trusted with memory."""
    shape = tuple(variable.shape)
    dtype = np.dtype(ops.convert_to_numpy(variable.value).dtype)
    try:
        _, stated, stated_dtype = json.loads(name)
        same = tuple(stated) == shape and stated_dtype == dtype.name
    except (ValueError, TypeError, RecursionError):
        same = False
    if not same:
        raise DataError(f"its entry for {variable.path} is of another variable ({name[:80]!r})")
    if kernel is not None:
        return sparse_tensors.decode_integers(code, shape)
    if dtype == np.float32:
        return sparse_tensors.decode(code, shape)
    error = DataError(f"the values of {variable.path} cannot be read")
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    raw = inflate(code, error, most=expected)
    if len(raw) != expected:
        raise error
    return np.frombuffer(raw, dtype).reshape(shape)
