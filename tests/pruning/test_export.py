"""Exported files keep the zeros: written by Keras, read back by the formats' own readers."""

import warnings

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.pruning.models import compiled

pytestmark = pytest.mark.tensorflow_only


@pytest.fixture
def pruned():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    compiled(model, rc.DNS("sgd", rc.ConstantSparsity(0.75, 0)))
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype("float32")
    model.fit(x, np.zeros(16, int), verbose=0)
    return model, x


def zeros(kernels):
    return sorted((kernel.size, int(np.sum(kernel == 0))) for kernel in kernels)


EXPECTED = sorted([(288, 216), (1152, 864)])  # three quarters of each kernel


@pytest.mark.slow
def test_litert_keeps_the_zeros(pruned, tmp_path):
    import tensorflow as tf

    model, _ = pruned
    path = tmp_path / "m.tflite"
    model.export(path, format="litert", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    found = []
    for detail in interpreter.get_tensor_details():
        if np.prod(detail["shape"]) in (288, 1152) and len(detail["shape"]) in (2, 4) and detail["shape"][0] != 1:
            found.append(interpreter.get_tensor(detail["index"]))
    assert zeros(found) == EXPECTED


def test_onnx_keeps_the_zeros_and_the_function(pruned, tmp_path):
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    model, x = pruned
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(path, format="onnx", verbose=False)
    loaded = onnx.load(path)
    tensors = [numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer]
    assert zeros([tensor for tensor in tensors if tensor.size in (288, 1152)]) == EXPECTED
    evaluator = ReferenceEvaluator(loaded)
    (outputs,) = evaluator.run(None, {evaluator.input_names[0]: x})
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-4)
