"""The report's figures are those counted by hand, and its sentence appears only where it is true."""

import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

import tf_robustcomp as rc
from tests.pruning import zoo
from tf_robustcomp.backend import runtimes
from tf_robustcomp.pruning.macs import count_macs
from tf_robustcomp.pruning.model_report import times
from tf_robustcomp.utils import table


def macs(model, *shapes):
    arrays = [np.zeros((1, *shape), "float32") for shape in shapes]
    return count_macs(model, arrays[0] if len(arrays) == 1 else arrays)


def one_layer(layer, *shape):
    return macs(keras.Sequential([keras.Input(shape), layer]), shape).total


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (lambda: layers.Dense(7), (5,), 5 * 7),
        (lambda: layers.Dense(7), (3, 4, 5), 3 * 4 * 5 * 7),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (6, 4), 6 * 4 * 2 * 3),
        (lambda: layers.EinsumDense("...x,xy->...y", 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (lambda: layers.EinsumDense("abcd,cde->abe", (None, 7)), (6, 4, 5), 6 * 4 * 5 * 7),
        (lambda: layers.Conv1D(7, 3, 2, "same"), (9, 4), 5 * 3 * 4 * 7),
        (lambda: layers.Conv1D(7, 3, padding="causal", dilation_rate=2), (9, 4), 9 * 3 * 4 * 7),
        (lambda: layers.Conv2D(8, (3, 2)), (9, 8, 4), 7 * 7 * 3 * 2 * 4 * 8),
        (lambda: layers.Conv2D(8, 3, 2, "same", groups=2), (9, 8, 4), 5 * 4 * 9 * 2 * 8),
        (lambda: layers.Conv3D(5, 2), (4, 5, 6, 3), 3 * 4 * 5 * 8 * 3 * 5),
        (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), 7 * 3 * 4 * 2),
        (lambda: layers.DepthwiseConv2D(3, 2, "same"), (9, 8, 4), 5 * 4 * 9 * 4),
        (lambda: layers.SeparableConv1D(7, 3, depth_multiplier=2), (9, 4), 7 * (3 * 8 + 8 * 7)),
        (lambda: layers.SeparableConv2D(7, 3, 2, "same"), (9, 8, 4), 5 * 4 * (9 * 4 + 4 * 7)),
        (lambda: layers.Conv1DTranspose(7, 3, 2), (9, 4), 9 * 3 * 4 * 7),
        (lambda: layers.Conv2DTranspose(7, 3, 2, "same"), (9, 8, 4), 9 * 8 * 9 * 4 * 7),
        (lambda: layers.Conv3DTranspose(2, 2), (2, 3, 4, 5), 24 * 8 * 5 * 2),
        (lambda: layers.SimpleRNN(7), (9, 4), 9 * (4 * 7 + 7 * 7)),
        (lambda: layers.GRU(7), (9, 4), 9 * 3 * (4 * 7 + 7 * 7)),
        (lambda: layers.LSTM(7), (9, 4), 9 * 4 * (4 * 7 + 7 * 7)),
        (lambda: layers.RNN([layers.LSTMCell(7), layers.GRUCell(5)]), (9, 4), 9 * (4 * 11 * 7 + 3 * 12 * 5)),
        (lambda: layers.Bidirectional(layers.LSTM(7)), (9, 4), 2 * 9 * 4 * (4 * 7 + 7 * 7)),
        (lambda: layers.TimeDistributed(layers.Dense(7)), (9, 4), 9 * 4 * 7),
        (lambda: layers.BatchNormalization(), (9, 4), 0),
    ],
)
def test_layers_have_the_macs_that_are_counted_by_hand(layer, shape, expected):
    assert one_layer(layer(), *shape) == expected


def test_macs_of_a_convolution_are_the_products_that_a_direct_loop_makes():
    image, kernel, products = np.zeros((9, 8, 4)), np.zeros((3, 3, 4, 6)), 0
    for row in range(0, 9 - 2, 2):
        for column in range(0, 8 - 2, 2):
            products += image[row : row + 3, column : column + 3].size * kernel.shape[-1]
    assert one_layer(layers.Conv2D(6, 3, 2), *image.shape) == products


def test_attention_counts_projections_and_both_products():
    query, value = keras.Input((6, 8)), keras.Input((5, 7))
    attention = layers.MultiHeadAttention(2, 3, value_dim=4)
    # Without the scores JAX has an operation of its own, which takes no values of another size.
    model = keras.Model([query, value], attention(query, value, return_attention_scores=True))
    projections = 6 * 8 * 2 * 3 + 5 * 7 * 2 * 3 + 5 * 7 * 2 * 4 + 6 * 2 * 4 * 8
    assert macs(model, (6, 8), (5, 7)).total == projections + 2 * 6 * 5 * (3 + 4)


def test_attention_along_one_axis_pairs_the_places_of_that_axis_alone():
    x = keras.Input((3, 6, 8))
    model = keras.Model(x, layers.MultiHeadAttention(2, 4, attention_axes=(2,))(x, x))
    assert macs(model, (3, 6, 8)).total == 18 * 4 * 8 * 8 + 3 * 6 * 6 * 2 * (4 + 4)


def test_grouped_attention_counts_projections_and_both_products():
    x = keras.Input((6, 8))
    model = keras.Model(x, layers.GroupQueryAttention(4, 6, 2)(x, x))
    projections = 6 * 8 * (6 + 2 + 2) * 4 + 6 * 6 * 4 * 8
    assert macs(model, (6, 8)).total == projections + 6 * 6 * 6 * (4 + 4)


@pytest.mark.parametrize(("name", "millions"), [("MobileNet", 569), ("MobileNetV2", 300), ("ResNet50V2", 3500)])
def test_published_counts_at_224(name, millions):
    """Millions: arXiv 1704.04861, table 4; 1801.04381, table 4; about 3.5 thousand with strides in the 3x3."""
    model = getattr(keras.applications, name)(weights=None)
    assert macs(model, (224, 224, 3)).total / 1e6 == pytest.approx(millions, rel=0.006)


def test_every_kind_of_model_is_counted_alike():
    def body(x):
        return layers.Dense(4)(layers.ReLU()(layers.Conv2D(6, 3)(x)))

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Conv2D(6, 3), layers.Dense(4)]

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    functional = keras.Model(x := keras.Input((8, 8, 2)), body(x))
    nested = keras.Model(x := keras.Input((8, 8, 2)), functional(x))
    subclassed = Subclassed()
    subclassed(np.zeros((1, 8, 8, 2), "float32"))
    expected = 36 * 9 * 2 * 6 + 36 * 6 * 4
    assert [macs(one, (8, 8, 2)).total for one in (functional, nested, subclassed)] == [expected] * 3


def test_a_shared_layer_counts_at_each_call_and_a_batch_is_divided():
    model, _ = zoo.shared_layer()
    expected = 2 * 12 * 12 + 12 * zoo.CLASSES
    assert macs(model, (12,)).total == expected
    assert count_macs(model, np.zeros((5, 12), "float32")).total == expected


def test_kernels_of_unknown_layers_are_named():
    model, x = zoo.custom_layer()
    found = count_macs(model, x[:1])
    assert found.total == 16 * zoo.CLASSES
    assert [name.split("/")[-1].rstrip("_0123456789") for name in found.left_out] == ["own_weights"]
    report = rc.model_report(model, latency=0)
    assert report["MACs"].reason.startswith("without ")
    assert report["MACs"].reason in str(report)


def test_an_embedding_multiplies_nothing_and_a_cell_of_the_users_is_named():
    model, x = zoo.embedding()
    assert count_macs(model, x[:1]) == (6 * 4 * (8 * 8 + 8 * 8) + 8 * zoo.CLASSES, ())

    class Cell(layers.Layer):
        state_size = output_size = 3

        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x, states):
            return self.dense(x) + states[0], [states[0]]

    model = keras.Sequential([keras.Input((5, 2)), layers.RNN(Cell()), layers.Dense(4)])
    found = macs(model, (5, 2))
    assert found.total == 3 * 4
    assert len(found.left_out) == 1


def test_counting_leaves_the_layers_as_they_were():
    model, x = zoo.attention()
    before = [set(vars(layer)) for layer in model.layers]
    count_macs(model, x[:1])
    assert [set(vars(layer)) for layer in model.layers] == before
    assert not any("call" in names for names in before)


def convolutional(filters=8):
    return keras.Sequential(
        [
            *(keras.Input((8, 8, 4)), layers.Conv2D(filters, 3, name="first"), layers.ReLU()),
            *(layers.Conv2D(filters, 3, name="second"), layers.GlobalAveragePooling2D(), layers.Dense(3, name="head")),
        ]
    )


def test_parameters_nonzeros_and_ratios():
    model = convolutional()
    before = keras.models.clone_model(model)
    rc.prune(model, 0.75)
    report = rc.model_report(model, before=before, latency=0)
    parameters = 9 * 4 * 8 + 8 + 9 * 8 * 8 + 8 + 8 * 3 + 3
    assert (report["parameters"].value, report["parameters"].before) == (parameters, parameters)
    kernels = (9 * 4 * 8, 9 * 8 * 8, 8 * 3)
    assert report["nonzero"].value == sum(kernels) // 4
    assert report["nonzero"].ratio == 0.25
    assert report["MACs"].value == 36 * 9 * 4 * 8 + 16 * 9 * 8 * 8 + 8 * 3
    assert not any("latency" in row.name for row in report.rows)
    with pytest.raises(KeyError):
        report["speed"]


@pytest.mark.slow
def test_the_sentence_stands_where_zeros_alone_do_not_help():
    model = convolutional()
    assert rc.model_report(model, latency=0).advice == ""
    channels = convolutional()
    rc.prune(channels, 0.5, pattern=rc.Channels(coupled=True))
    full = rc.model_report(channels, latency=0)
    percent = 100 * rc.sparsity_report(channels).total.sparsity
    assert full.advice.startswith(f"{percent:.0f} % of the weights are zero, but every layer still has its full size")
    assert full.advice.endswith("Take the channels out with rc.shrink (50 % are empty).")
    assert str(full).endswith(full.advice)
    small = rc.shrink(channels)
    assert rc.model_report(small, before=channels, latency=0).advice == ""
    rc.prune(model, 0.75, include="second")
    single = rc.model_report(model, latency=0).advice
    assert single.startswith("49 % of the weights are zero, but every layer still has its full size")
    assert "No channel is empty" in single


def test_a_model_that_shrank_does_not_have_its_full_size():
    before, small = convolutional(8), convolutional(4)
    rc.prune(small, 0.5)
    advice = rc.model_report(small, before=before, latency=0).advice
    assert advice.startswith("50 % of the weights that are left are zero")
    assert "full size" not in advice


def test_no_advice_to_shrink_what_cannot_be_shrunk():
    model, x = zoo.subclassed()
    rc.prune(model, 0.5)
    advice = rc.model_report(model, x, latency=0).advice
    assert advice.endswith("files shrink, speed does not.")


@pytest.mark.tensorflow_only
@pytest.mark.slow
def test_sizes_are_those_of_the_files(tmp_path):
    model = convolutional()
    report = rc.model_report(model, latency=0)
    model.save(tmp_path / "model.keras")
    rc.save_sparse(model, tmp_path / "model.rcsm")
    assert report["keras file"].value == pytest.approx((tmp_path / "model.keras").stat().st_size, abs=16)
    assert report["sparse file"].value == (tmp_path / "model.rcsm").stat().st_size
    weights = 4 * model.count_params()
    for name in ("LiteRT file", "ONNX file"):
        assert weights < report[name].value < weights + 20_000
    both = rc.model_report(model, before=convolutional(64), latency=0)
    for row in both.rows:
        assert row.value == pytest.approx(report[row.name].value, abs=16)
        assert row.ratio == row.value / row.before < 1


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("kind", ["conv2d", "attention", "embedding", "subclassed"])
def test_litert_gives_the_outputs_of_keras_on_what_is_timed(kind, tmp_path):
    model, x = zoo.SMALL[kind]()
    runtimes.export(model, runtimes.LITERT, tmp_path / "m.tflite", x[:1])
    (found,) = runtimes.LITERT.load(tmp_path / "m.tflite", x[:1], 1)()
    (expected,) = runtimes.keras_function(model, x[:1])()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(expected, model.predict(x[:1], verbose=0), atol=1e-5)


@pytest.fixture
def onnxruntime(monkeypatch):
    """A stand-in with ONNX Runtime's names, which runs files by the reference evaluator of onnx."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    class InferenceSession:
        def __init__(self, path, options, providers):
            assert (options.intra_op_num_threads, providers) == (1, ["CPUExecutionProvider"])
            self.graph, self.evaluator = onnx.load(path).graph, ReferenceEvaluator(path)

        def get_inputs(self):
            types_ = {onnx.TensorProto.FLOAT: "tensor(float)", onnx.TensorProto.INT32: "tensor(int32)"}
            inputs = [(one.name, one.type.tensor_type) for one in self.graph.input]
            return [
                types.SimpleNamespace(name=name, shape=[d.dim_value for d in one.shape.dim], type=types_[one.elem_type])
                for name, one in inputs
            ]

        def run(self, names, feed):
            return self.evaluator.run(names, feed)

    module = types.ModuleType("onnxruntime")
    module.SessionOptions, module.InferenceSession = types.SimpleNamespace, InferenceSession
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


@pytest.mark.tensorflow_only
def test_every_latency_has_both_models_and_their_ratio(onnxruntime, tmp_path):
    model, before = convolutional(4), convolutional(8)
    report = rc.model_report(model, before=before, latency=2)
    for name in ("Keras latency", "LiteRT latency", "ONNX Runtime latency"):
        row = report[name]
        assert row.reason == ""
        assert row.value > 0
        assert row.before > 0
        assert row.ratio > 0
    assert "2 rounds, the models in turn; LiteRT and ONNX Runtime on 1 thread" in report.timing
    lines = str(report).splitlines()
    assert len({len(line) for line in lines[: 1 + len(report.rows)]}) == 1
    report.to_csv(tmp_path / "report.csv")
    rows = table.read_csv(tmp_path / "report.csv")
    assert [row["name"] for row in rows] == [row.name for row in report.rows]
    assert float(rows[0]["ratio"]) == report["parameters"].ratio


@pytest.mark.tensorflow_only
def test_onnx_gives_the_outputs_of_keras_on_what_is_timed(onnxruntime, tmp_path):
    left, right = keras.Input((5,)), keras.Input((3,))
    model = keras.Model([left, right], layers.Dense(2)(layers.Concatenate()([left, right])))
    batch = [np.ones((1, 5), "float32"), np.full((1, 3), 2, "float32")]
    runtimes.export(model, runtimes.ONNX, tmp_path / "m.onnx", batch)
    (found,) = runtimes.ONNX.load(tmp_path / "m.onnx", batch[::-1], 1)()  # a file's order need not be the model's
    np.testing.assert_allclose(found, runtimes.keras_function(model, batch)()[0], atol=1e-5)


@pytest.mark.tensorflow_only
def test_what_is_not_installed_or_not_possible_is_said(monkeypatch):
    monkeypatch.setattr(runtimes, "missing", lambda packages: tuple(p for p in packages if p == "onnx"))
    report = rc.model_report(convolutional(), latency=1)
    assert report["ONNX file"].value is None
    assert "ONNX file, bytes" in str(report)
    assert report["ONNX file"].reason == "not installed: pip install onnx"
    assert report["ONNX Runtime latency"].reason == "no file"

    class Unsaved(layers.Layer):
        def call(self, x):
            return keras.ops.map(keras.ops.abs, x)

        def get_config(self):
            raise NotImplementedError("it cannot be saved")

    model = keras.Sequential([keras.Input((3,)), Unsaved(), layers.Dense(2)])
    assert "not possible: it cannot be saved" in str(rc.model_report(model, latency=0))


def test_models_take_turns_forth_and_back():
    called = []
    taken = times([lambda: called.append("a"), lambda: called.append("b")], 4)
    assert [len(seconds) for seconds in taken] == [4, 4]
    assert "".join(called) in ("abba" * 3, "baab" * 3)


def test_bad_arguments_are_refused_in_one_line():
    model = convolutional()
    with pytest.raises(rc.InvalidArgument, match="model must be a built"):
        rc.model_report(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(rc.InvalidArgument, match="before must have the model's input shapes"):
        rc.model_report(model, before=zoo.functional()[0])
    with pytest.raises(rc.InvalidArgument, match="threads"):
        rc.model_report(model, threads=0)
    with pytest.raises(rc.InvalidArgument, match="latency"):
        rc.model_report(model, latency=-1)
    anysize = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(rc.InvalidArgument, match="data must be given"):
        rc.model_report(anysize)
    with pytest.raises(rc.InvalidArgument, match="data must have the model's input shapes"):
        rc.model_report(model, np.zeros((1, 3)))
    assert rc.model_report(anysize, np.zeros((2, 8, 8, 3)), latency=0)["MACs"].value == 36 * 27 * 4
