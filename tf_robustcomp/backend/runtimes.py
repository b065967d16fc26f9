"""Runtimes of a model: Keras itself, LiteRT and ONNX Runtime, each as a function of one batch."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import BACKEND
from tf_robustcomp.backend.gradients import compiled
from tf_robustcomp.utils import quiet
from tf_robustcomp.utils.errors import InvalidArgument


class Runtime(NamedTuple):
    """A format that `keras.Model.export` writes, and what runs it.

    Attributes:
        name: of what runs it.
        format: of `export`.
        suffix: of its files.
        writers: packages that writing needs.
        runners: packages that running needs.
        load: ``(path, batch, threads)`` -> function without arguments that runs the file on a batch, gives its outputs.
    """

    name: str
    format: str
    suffix: str
    writers: tuple[str, ...]
    runners: tuple[str, ...]
    load: Callable[[Path, Any, int], Callable[[], list]]


def missing(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of some packages that are not installed."""
    return tuple(name for name in packages if importlib.util.find_spec(name) is None)


def export(model: Any, runtime: Runtime, path: str | Path, batch: Any) -> None:
    """Write a model in the format of a runtime, for inputs of exactly a batch's shapes."""
    signature = keras.tree.map_structure(lambda x: keras.InputSpec(shape=x.shape, dtype=x.dtype.name), batch)
    logger = logging.getLogger("tensorflow")
    level = logger.level
    with quiet.no_standard_error(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters, about themselves
        logger.setLevel(logging.ERROR)  # which in notebooks writes to standard output
        try:
            model.export(path, format=runtime.format, verbose=False, input_signature=[signature])
        finally:
            logger.setLevel(level)


def keras_function(model: Any, batch: Any) -> Callable[[], list]:
    """Return a function that runs a model on a batch in inference, compiled where the backend can."""
    call: Any = compiled(lambda inputs: model(inputs, training=False))
    tensors = keras.tree.map_structure(ops.convert_to_tensor, batch)
    if BACKEND == "tensorflow":
        call = call.get_concrete_function(tensors)  # TensorFlow warns of many functions that are traced at their calls
    return lambda: [ops.convert_to_numpy(x) for x in keras.tree.flatten(call(tensors))]


def _litert(path, batch, threads):
    import tensorflow as tf

    with quiet.no_standard_error(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class moves to another package
        interpreter = tf.lite.Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    places = [one["index"] for one in interpreter.get_output_details()]
    arrays = _in_order([(tuple(one["shape"]), np.dtype(one["dtype"])) for one in details], batch)

    def run():
        for detail, array in zip(details, arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(place) for place in places]

    return run


def _onnx(path, batch, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    wanted = [(tuple(one.shape), np.dtype(types.get(one.type, one.type[7:-1]))) for one in inputs]
    feed = {one.name: array for one, array in zip(inputs, _in_order(wanted, batch), strict=True)}
    return lambda: session.run(None, feed)


def _in_order(wanted, batch):
    """The arrays of a batch as a file asks for them: the next one of each shape and dtype, for files lose the order."""
    rest = list(keras.tree.flatten(batch))
    arrays = []
    for shape, dtype in wanted:
        fitting = [place for place, array in enumerate(rest) if array.shape == shape and array.dtype == dtype]
        if not fitting:
            raise InvalidArgument(f"file must take the model's inputs. Received: one that asks for {dtype} {shape}")
        arrays.append(rest.pop(fitting[0]))
    return arrays


LITERT_WRITERS = ("litert_torch",) if BACKEND == "torch" else ("tensorflow",)
ONNX_WRITERS = ("onnx", "onnxscript") if BACKEND == "torch" else ("onnx", "tf2onnx")
LITERT = Runtime("LiteRT", "litert", ".tflite", LITERT_WRITERS, ("tensorflow",), _litert)
ONNX = Runtime("ONNX Runtime", "onnx", ".onnx", ONNX_WRITERS, ("onnxruntime",), _onnx)
