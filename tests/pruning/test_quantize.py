"""Keras' `model.quantize` after pruning: zeros, counts, files and exports, against what the layers compute.

Layers here are linear and without biases, so their outputs for the rows of an identity are the weights that they use.
"""

import contextlib
import io
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.quantizers import AWQConfig, GPTQConfig, Int4QuantizationConfig, Int8QuantizationConfig

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, small_data
from tests.sampling import sampled
from tf_robustcomp.coding import sparse_tensors as coding
from tf_robustcomp.utils.errors import DataError

TOKENS = np.random.default_rng(0).integers(0, 11, (16, 6)).astype("int32")
pytestmark = pytest.mark.filterwarnings("ignore:.*float8:UserWarning", "ignore:Layer Embedding:UserWarning")


def net():
    """Tokens (n, 6) -> (n, 7), by every kind of layer that Keras quantises but the reversible embedding."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(11, 10, name="embedding"),
            layers.Dense(13, use_bias=False, name="dense"),
            layers.EinsumDense("abc,cde->abde", (6, 3, 5), name="einsum"),
            layers.Flatten(),
            layers.Dense(7, use_bias=False, name="last"),
        ]
    )


def prune(model, sparsity=0.6):
    """Prune, and make one weight of each kernel so large that some of the others round to zero in few bits."""
    for variable in model.trainable_variables:
        values = ops.convert_to_numpy(variable).copy()
        values.flat[0] = 5 * np.abs(values).max()
        variable.assign(values)
    rc.prune(model, sparsity)
    return used(model)


def used(model):
    """The weights that each layer computes with, by its name."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, layers.Embedding):
            output = layer(np.arange(layer.input_dim))
        elif isinstance(layer, layers.EinsumDense):
            output = layer(np.eye(13, dtype="float32")[None])
        elif isinstance(layer, layers.Dense):
            output = layer(np.eye(layer.input_spec.axes[-1], dtype="float32"))
        else:
            continue
        found[layer.name] = ops.convert_to_numpy(output)
    return found


def outputs(model, x):
    return ops.convert_to_numpy(model(x))


def quantise(model, mode):
    if mode.startswith(("gptq", "awq")):
        kind, *options = mode.split()
        config = {"gptq": GPTQConfig, "awq": AWQConfig}[kind](
            dataset=TOKENS,
            tokenizer=lambda tokens: tokens,
            num_samples=8,
            sequence_length=6,
            quantization_layer_structure={
                "pre_block_layers": [model.get_layer("embedding")],
                "sequential_blocks": [model.get_layer("dense"), model.get_layer("einsum")],
            },
            **{name: int(value) for name, value in (option.split("=") for option in options)},
        )
        model.quantize(kind, config=config, filters=["^dense$", "^einsum$"])
    elif " " in mode:
        config = Int8QuantizationConfig(activation_quantizer=None) if mode == "int8 weights" else None
        model.quantize(config=config or Int4QuantizationConfig(block_size=int(mode.split("=")[1])))
    else:
        model.quantize(mode)
    return model


KEEP = [
    "int8",
    "int8 weights",
    "int4",
    "int4 block=-1",
    "int4 block=4",
    "float8",
    "awq group_size=4",
    "awq group_size=-1",
]
MODES = [*KEEP, "gptq group_size=4", "gptq group_size=-1 weight_bits=8", "gptq group_size=4 symmetric=1"]


@pytest.mark.parametrize("mode", sampled(MODES, 0, 2))
def test_zeros_stay_are_counted_and_come_back_from_a_small_file(mode, tmp_path):
    model = net()
    before = prune(model)
    quantise(model, mode)
    after = used(model)
    assert all(np.mean(values == 0) > 0.55 for values in before.values())
    if mode in KEEP:
        assert not any(np.any(after[name][before[name] == 0]) for name in before)
    counted = {row.path.split("/")[-2]: (row.parameters, row.nonzero) for row in rc.sparsity_report(model).rows}
    assert counted == {name: (values.size, np.count_nonzero(values)) for name, values in after.items()}

    expected = outputs(model, TOKENS)
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(outputs(loaded, TOKENS), expected)
    for layer, other in zip(model.layers, loaded.layers, strict=True):
        values = {variable.name: ops.convert_to_numpy(variable) for variable in layer.weights}
        assert values.keys() == {variable.name for variable in other.weights}
        for variable in other.weights:
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), values[variable.name])
    for layer in model.layers:  # which Keras' own format cannot write
        layer.quantization_config = None
    model.save(tmp_path / "m.keras")
    assert (tmp_path / "m.rcsm").stat().st_size < 0.25 * (tmp_path / "m.keras").stat().st_size


@pytest.mark.parametrize("tied", sampled([True, False], 0))
@pytest.mark.parametrize("mode", ["int8", "int4 block=-1", "int4 block=4"])
def test_reversible_embeddings_keep_their_zeros(mode, tied, tmp_path):
    layer = layers.ReversibleEmbedding(9, 7, tie_weights=tied, name="both")
    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, layer(layer(inputs), reverse=True))
    rc.prune(model, 0.6)

    def weights():
        forth = ops.convert_to_numpy(layer(np.arange(9)))
        return [forth] if tied else [forth, ops.convert_to_numpy(layer(np.eye(7, dtype="float32"), reverse=True))]

    before = weights()
    quantise(model, mode)
    for old, new, row in zip(before, weights(), rc.sparsity_report(model).rows, strict=True):
        assert not np.any(new[old == 0]) and (row.parameters, row.nonzero) == (new.size, np.count_nonzero(new))
    expected = outputs(model, TOKENS[:, :4] % 9)
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(outputs(loaded, TOKENS[:, :4] % 9), expected)


@pytest.mark.parametrize("mode", ["int4", "int4 block=-1", "int8"])
def test_a_quantised_kernel_takes_the_entropy_of_its_mask_and_its_integers(mode):
    model = keras.Sequential([keras.Input((512,)), layers.Dense(256, use_bias=False)])
    rc.prune(model, 0.95)
    quantise(model, mode)
    (row,) = rc.sparsity_report(model).rows
    kept = row.nonzero / row.parameters
    mask = -(kept * np.log2(kept) + (1 - kept) * np.log2(1 - kept)) * row.parameters / 8
    assert row.dense_bytes == row.parameters * (0.5 if "4" in mode else 1)
    assert mask < row.sparse_bytes < mask + row.nonzero * (0.5 if "4" in mode else 1) + 300


def test_gptq_itself_moves_zeros():
    """Why the documentation leaves GPTQ out: it makes up for the rounding of one weight in those that follow."""
    from keras.src.quantizers.gptq import GPTQ

    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(64, 32)) @ (1 + 0.3 * rng.normal(size=(32, 32)))).astype("float32")
    model = keras.Sequential([keras.Input((32,)), layers.Dense(48, use_bias=False)])
    rc.prune(model, 0.5)
    before = ops.convert_to_numpy(model.layers[0].kernel)
    config = GPTQConfig(dataset=None, tokenizer=None, group_size=-1)
    model.layers[0].quantize("gptq", config=config)
    method = GPTQ(model.layers[0], config)
    method.update_hessian_with_batch(ops.convert_to_tensor(inputs))
    method.quantize_and_correct_layer()
    after = ops.convert_to_numpy(model.layers[0](np.eye(32, dtype="float32")))
    assert np.any(after[before == 0])
    assert rc.sparsity_report(model).total.nonzero == np.count_nonzero(after)


@pytest.mark.parametrize("size", [0, 1, 7, 3000])
def test_integers_come_back_and_damage_is_refused(size, rng):
    for values in (rng.integers(0, 256, size), rng.integers(0, 3, size), np.zeros(size, int)):
        values = values.astype(np.uint8)
        data = coding.encode_integers(values)
        np.testing.assert_array_equal(coding.decode_integers(data, (size,)), values)
        assert len(data) <= size + 20
        for wrong in (b"", data[:-1], data + b"\0", b"\7" + data[1:]):
            with pytest.raises(DataError):
                coding.decode_integers(wrong, (size,))


@pytest.mark.slow
def test_a_codebook_leaves_scales_alone(tmp_path):
    model = net()
    prune(model)
    quantise(model, "int4 block=4")
    expected = outputs(model, TOKENS)
    for how in ("float16", "codebook"):
        rc.save_sparse(model, tmp_path / "m.rcsm", how, bits=1)
        np.testing.assert_array_equal(outputs(rc.load_sparse(tmp_path / "m.rcsm"), TOKENS), expected)


def test_layers_that_wait_for_their_calibration_are_named(tmp_path):
    model = net()
    model.get_layer("last").quantize("gptq", config=GPTQConfig(dataset=None, tokenizer=None))
    for call in (lambda: rc.save_sparse(model, tmp_path / "m.rcsm"), lambda: rc.sparsity_report(model)):
        with pytest.raises(rc.InvalidArgument, match="gptq must calibrate every layer.*Received: .*last, not calibr"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_trained_model_is_quantised_under_its_pruning_optimizer(mode, tmp_path):
    x, y = small_data()
    model = compiled(dense_net(), rc.MagnitudePruning("adam", rc.ConstantSparsity(0.75, 0)), metrics=["accuracy"])
    model.fit(x, y, verbose=0)
    zeros = {layer.name: ops.convert_to_numpy(layer.kernel) == 0 for layer in model.layers}
    quantise(model, mode)
    rows = rc.sparsity_report(model).rows
    assert [row.parameters for row in rows] == [8 * 16, 16 * 4]
    assert all(row.parameters - row.nonzero >= zeros[row.path.split("/")[-2]].sum() for row in rows)
    rc.save_sparse(model, tmp_path / "m.rcsm")
    np.testing.assert_array_equal(outputs(rc.load_sparse(tmp_path / "m.rcsm"), x), outputs(model, x))


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_shrink_takes_no_quantised_model(mode):
    model = quantise(dense_net(), mode)
    before = [ops.convert_to_numpy(variable) for variable in model.weights]
    with pytest.raises(rc.InvalidArgument, match=f"^model must not be quantised yet. Received: .*dense, {mode}$"):
        rc.shrink(model)
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(other))


@pytest.mark.slow
def test_shrunk_then_quantised_is_a_model_like_any(tmp_path):
    model = net()
    rc.prune(model, 0.5, pattern=rc.Channels(), include="^dense/|/dense/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = quantise(rc.shrink(model), "int8")
    rc.save_sparse(small, tmp_path / "m.rcsm")
    np.testing.assert_array_equal(outputs(rc.load_sparse(tmp_path / "m.rcsm"), TOKENS), outputs(small, TOKENS))


# Of docs/smaller.md: mode -> whether it is written as ONNX, as LiteRT.
EXPORTS = {
    "int8": (True, False),
    "int8 weights": (True, True),
    "int4": (True, True),
    "int4 block=-1": (True, True),
    "float8": (False, False),
    "awq group_size=4": (True, True),
    "gptq group_size=4": (True, True),
}


def onnx_outputs(path, x):
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(path))
    return evaluator.run(None, {evaluator.input_names[0]: x})[0]


def litert_outputs(path, x):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.tensorflow_only
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", EXPORTS)
def test_exports_are_as_the_documentation_says(mode, tmp_path, rng, capfd):
    """Rows of an identity are the input, so that equal outputs are equal weights, zeros among them."""
    inputs = keras.Input((12,))
    model = keras.Model(inputs, layers.Dense(9, use_bias=False, name="dense")(inputs))
    rc.prune(model, 0.6)
    if mode.startswith(("awq", "gptq")):
        kind, size = mode.split()[0], int(mode[-1])
        config = {"gptq": GPTQConfig, "awq": AWQConfig}[kind](
            dataset=np.arange(8)[None],
            tokenizer=lambda rows: rows,
            num_samples=2,
            sequence_length=4,
            group_size=size,
            quantization_layer_structure={
                "pre_block_layers": [lambda rows: ops.one_hot(rows[0], 12)],
                "sequential_blocks": [model.layers[-1]],
            },
        )
        model.quantize(kind, config=config)
    else:
        quantise(model, mode)
    x = np.eye(12, dtype="float32")
    expected = model.predict(x, verbose=0)
    for written, name, read in zip(EXPORTS[mode], ("onnx", "litert"), (onnx_outputs, litert_outputs), strict=True):
        path = tmp_path / f"m.{name.replace('litert', 'tflite')}"
        if not written:
            with pytest.raises(Exception, match="float8|f8E4M3FN|fully_connected"):
                model.export(path, format=name, verbose=False)
            continue
        model.export(path, format=name, verbose=False)
        found = read(path, x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(found == 0, expected == 0)


@pytest.mark.tensorflow_only
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_example_of_the_documentation_runs_and_prints_what_is_printed_there(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "smaller.md").read_text()
    section = text[text.index("## Prune, fine-tune, quantise, write a file") :]
    program, printed = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "example", "exec"), {})

    def table(lines):
        return {line.split()[0]: [float(word) for word in re.findall(r"[\d.]+", line)] for line in lines[1:-1]}

    lines, published = output.getvalue().splitlines(), printed.splitlines()
    assert lines[0] == published[0] and lines[-1] == published[-1] == "the same predictions, bit for bit: True"
    found, stated = table(lines), table(published)
    assert list(found) == list(stated) == ["trained", "pruned", "fine-tuned", "quantised", "loaded"]
    for step, (sparsity, big, small, accuracy) in found.items():
        assert np.allclose([sparsity, big, small, accuracy], stated[step], rtol=0.1, atol=0.02), step
        assert small < big
    assert found["loaded"][3] == found["quantised"][3] > found["pruned"][3]
    assert found["trained"][2] > 5 * found["pruned"][2] > 5 * found["quantised"][2]
