"""The shrunk model gives the outputs of the masked one, and the channels that these do not need are gone."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning import zoo
from tf_robustcomp.backend import keras_private

APPLICATIONS = {  # name -> (side of the image, layers that no rule follows)
    "MobileNetV2": (32, set()),
    "MobileNetV3Small": (32, set()),
    "ResNet50V2": (32, set()),
    "EfficientNetB0": (32, set()),
    "EfficientNetV2B0": (32, set()),
    "DenseNet121": (32, set()),
    "Xception": (71, set()),
    "ConvNeXtTiny": (32, {"LayerNormalization", "LayerScale"}),
    "NASNetMobile": (32, set()),
    "InceptionResNetV2": (75, {"CustomScaleLayer"}),
    "VGG16": (32, set()),
}


def emptied(model, share=0.5, bias=True, seed=0):
    """Random weights; output columns of kernels zero, the same in every layer, so that coupled channels agree."""
    rng = np.random.default_rng(seed)
    for layer in keras_private.all_layers(model):
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        for variable in layer.weights:
            values = rng.uniform(0.3, 1.0, variable.shape)
            axis = -2 if any(word in f"{layer.name} {variable.name}" for word in ("depthwise", "transpose")) else -1
            if values.ndim > 1:
                values *= 2 / np.sqrt(values[..., 0].size)
                if variable.name != "alpha":
                    np.moveaxis(values, axis, 0)[: int(share * values.shape[axis])] = 0
            elif not bias and "Norm" not in type(layer).__name__:
                values[:] = 0
            if "float" in str(variable.dtype):
                variable.assign(values)
    return model


def inputs_of(model, count=2):
    rng = np.random.default_rng(1)
    x = [rng.normal(size=(count, *one.shape[1:])).astype("float32") for one in model.inputs]
    return x if len(x) > 1 else x[0]


def outputs(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def check(model, tolerance=1e-5, x=None):
    """Shrink a model, compare outputs, and return what is left."""
    small = rc.shrink(model)
    x = inputs_of(model) if x is None else x
    wanted = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x), wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))
    return small


def graph(body, shape=(8, 8, 4)):
    return keras.Model(i := keras.Input(shape), body(i))


def residual(x):
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, activation="relu")(x)
    return layers.Dense(3)(layers.Flatten()(layers.Add()([x, y])))


def dense_block(x):
    x = layers.Conv2D(8, 1)(x)
    y = layers.Conv2D(6, 3)(layers.ZeroPadding2D(1)(layers.ReLU()(x)))
    return layers.Conv2D(3, 1, use_bias=False)(layers.BatchNormalization()(layers.Concatenate()([x, y])))


def depthwise(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.Conv2D(8, 1)(x))
    return layers.Conv2D(3, 1)(layers.LeakyReLU()(layers.BatchNormalization()(x)))


def squeeze(x):
    x = layers.Conv2D(8, 3, use_bias=False)(x)
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Dense(8, activation="sigmoid")(layers.Dense(4, activation="relu")(gate))
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate])))


def spatial_gate(x):
    x = layers.Conv2D(8, 3, use_bias=False)(x)
    return layers.Conv2D(3, 1)(layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid")(x)]))


def transposed(x):
    return layers.Conv2D(3, 2)(layers.Conv2DTranspose(8, 3, strides=2)(layers.Conv2D(6, 1)(x)))


def separable(x):
    x = layers.SeparableConv2D(8, 3)(layers.Conv2D(6, 1, activation="relu")(x))
    return layers.SeparableConv2D(3, 3, depth_multiplier=2, padding="same")(x)


def grouped(x):
    x = layers.Conv2D(8, 3, groups=4)(layers.Conv2D(8, 1)(x))
    return layers.Conv2D(3, 1)(layers.GroupNormalization(4)(x))


def activations(x):
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 1, use_bias=False)(x))
    x = layers.UpSampling2D()(layers.AveragePooling2D(2)(layers.Rescaling(2.0, 0.5)(x)))
    x = ops.relu(x + 1.0) * 0.5
    return layers.Conv2D(3, 1)(layers.Cropping2D(1)(layers.SpatialDropout2D(0.5)(x)))


def heads(x):
    x = layers.Dense(8, use_bias=False)(layers.Reshape((64, 4))(x))
    y = layers.MultiHeadAttention(4, 3)(x, x)
    return layers.Dense(3)(layers.EinsumDense("abc,cd->abd", (64, 6), bias_axes="d")(layers.Add()([x, y])))


BODIES = [residual, dense_block, depthwise, squeeze, spatial_gate, transposed, separable, grouped, activations, heads]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_equal_and_parameters_go(body, bias):
    model = emptied(graph(body), bias=bias)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="layers that are not followed")  # every layer here has a rule
        small = check(model)
    if not (bias and body is transposed):  # a constant at a border cannot go into a bias
        assert small.count_params() < model.count_params()


@pytest.mark.parametrize("body", BODIES)
def test_coupled_channels_are_all_taken_out(body):
    model = emptied(graph(body), share=0.0)
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True))
    small = check(model)
    for layer, left in zip(model.layers, small.layers, strict=True):
        if isinstance(layer, layers.Conv2D) and layer.filters not in (1, 3):
            assert left.filters == layer.filters / 2, layer.name


def test_a_head_goes_whole():
    model = emptied(graph(heads), share=0.0)
    attention = next(layer for layer in model.layers if isinstance(layer, layers.MultiHeadAttention))
    kernel = np.array(ops.convert_to_numpy(attention.output_dense.kernel))
    kernel[1] = 0
    attention.output_dense.kernel.assign(kernel)
    assert check(model).get_layer(attention.name).num_heads == 3


def test_nothing_goes_where_nothing_is_zero():
    model = emptied(graph(residual), share=0.0)
    assert check(model).count_params() == model.count_params()


def test_constants_go_into_a_new_bias():
    model = emptied(keras.Sequential([keras.Input((5,)), layers.Dense(8), layers.Dense(3, use_bias=False)]))
    small = check(model)
    assert small.layers[0].units == 4
    assert small.layers[1].use_bias


@pytest.mark.parametrize("padding, filters", [("valid", 4), ("same", 8)])
def test_a_constant_goes_where_the_border_sees_as_much_of_it_as_the_middle(padding, filters):
    body = lambda x: layers.Conv2D(3, 3, padding=padding)(layers.Conv2D(8, 1)(x))  # noqa: E731
    assert check(emptied(graph(body))).layers[1].filters == filters


def test_the_last_channel_stays():
    assert check(emptied(graph(residual), share=1.0)).layers[1].filters == 1


@pytest.mark.parametrize("name", sorted(set(zoo.SMALL) - {"subclassed"}))
def test_any_model(name):
    model, x = zoo.SMALL[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(emptied(model), x=x)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras(name):
    """Coupled channels are halved, moments and biases are random: the outputs are those of the masked network."""
    side, unfollowed = APPLICATIONS[name]
    rng = np.random.default_rng(0)
    options = {"classifier_activation": None, "classes": 7, "input_shape": (side, side, 3)}
    model = getattr(keras.applications, name)(weights=None, **options)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        small = check(model, x=rng.uniform(0, 255, (2, side, side, 3)).astype("float32"))
    named = {str(one.message) for one in found if "stay whole" in str(one.message)}
    kinds = {type(layer).__name__ for layer in model.layers for text in named if f"{layer.name} (" in text}
    assert kinds == unfollowed
    assert small.count_params() < 0.6 * model.count_params()


KINDS = (
    *("conv", "conv", "valid", "dense", "norm", "relu", "tanh", "pool", "depthwise", "separable", "add", "multiply"),
    *("concatenate", "maximum", "padding", "prelu", "group norm", "grouped", "dropout", "gate"),
)


def random_graph(draw):
    """A random model of 3 to 8 layers; kernels have random columns of zeros, biases and moments random zeros."""
    x = keras.Input((6, 6, draw.choice([2, 4])))
    found, inputs = [x], x
    for _ in range(draw.randint(3, 8)):
        x = found[draw.randint(max(0, len(found) - 3), len(found) - 1)]
        channels, bias = x.shape[-1], draw.random() < 0.5
        like = [y for y in found if y.shape == x.shape]
        activation = draw.choice([None, "relu", "sigmoid"])
        kind = draw.choice(KINDS)
        if kind == "conv":
            y = layers.Conv2D(draw.choice([2, 4, 6]), 3, padding="same", use_bias=bias, activation=activation)(x)
        elif kind == "valid":
            y = (
                layers.Conv2D(4, draw.choice([1, 1, 2]), use_bias=bias, activation=activation)(x)
                if x.shape[1] > 2
                else x
            )
        elif kind == "dense":
            y = layers.Dense(4, use_bias=bias, activation=activation)(x)
        elif kind == "separable":
            y = layers.SeparableConv2D(4, 2, padding="same", use_bias=bias, depth_multiplier=draw.choice([1, 2]))(x)
        elif kind == "depthwise":
            y = layers.DepthwiseConv2D(2, padding=draw.choice(["same", "valid"]) if x.shape[1] > 2 else "same")(x)
        elif kind in ("add", "multiply", "maximum"):
            merge = {"add": layers.Add, "multiply": layers.Multiply, "maximum": layers.Maximum}[kind]
            y = merge()([x, draw.choice(like)])
        elif kind == "concatenate":
            y = layers.Concatenate()([x, draw.choice(like)]) if channels < 12 else x
        elif kind == "gate":
            y = x * layers.Dense(channels, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        elif kind == "group norm":
            y = layers.GroupNormalization(2, epsilon=1.0)(x)  # a small one multiplies the rounding of constants
        elif kind == "grouped":
            y = layers.Conv2D(channels, 1, groups=2, use_bias=bias)(x)
        else:
            y = {
                "norm": layers.BatchNormalization(),
                "relu": layers.ReLU(),
                "tanh": layers.Activation("tanh"),
                "pool": layers.MaxPooling2D(2, 1, padding="same"),
                "padding": layers.ZeroPadding2D(1) if x.shape[1] < 8 else layers.ReLU(),
                "prelu": layers.PReLU(shared_axes=[1, 2]),
                "dropout": layers.Dropout(0.5),
            }[kind](x)
        found.append(y)
    ends = [layers.Dense(2)(layers.Flatten()(y)) for y in found[-2:]]
    model = keras.Model(inputs, layers.Add()(ends))
    for variable in model.weights:
        values = np.array([draw.uniform(0.3, 1.2) for _ in range(int(np.prod(variable.shape)))]).reshape(variable.shape)
        axis = draw.choice([-1, -2]) if values.ndim > 1 else -1
        for channel in range(values.shape[axis]):
            if draw.random() < 0.5 and variable.name != "moving_variance":
                np.moveaxis(values, axis, 0)[channel] = 0
        variable.assign(values * (-1) ** draw.randint(0, 1) if variable.name == "beta" else values)
    return model


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.randoms(use_true_random=True))
def test_random_graphs(draw):
    keras.backend.clear_session()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="layers that are not followed")
        check(random_graph(draw))


def own_rule():
    @keras.saving.register_keras_serializable("tests")
    class Gain(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), name="gain")

        def call(self, x):
            return x * self.gain

    return Gain


def test_a_layer_without_a_rule_stays_whole_and_is_named_until_a_rule_is_given():
    kind = own_rule()
    model = emptied(graph(lambda x: layers.Conv2D(3, 1)(kind(name="own")(layers.Conv2D(8, 1, use_bias=False)(x)))))
    with pytest.warns(UserWarning, match=r"stay whole: own \(it has no channel rule\)"):
        assert check(model).layers[1].filters == 8

    @rc.channel_rule(kind)
    def gain(call):
        call.slices("gain", call.inputs[0])
        return call.inputs[0]._replace(values=call.inputs[0].values * call.weights("gain"))

    small = check(model)
    assert small.layers[1].filters == small.get_layer("own").gain.shape[0] == 4


def test_layer_norm_stays_whole_and_says_why():
    with pytest.warns(UserWarning, match="stay whole: own .*norm over all channels"):
        check(emptied(graph(lambda x: layers.Dense(2)(layers.LayerNormalization(name="own")(layers.Dense(8)(x))))))


def test_the_model_given_is_left_as_it_was():
    model = emptied(graph(residual))
    before = [ops.convert_to_numpy(variable) for variable in model.weights]
    names = [layer.name for layer in model.layers]
    assert [layer.name for layer in check(model).layers] == names == [layer.name for layer in model.layers]
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_fine_tuning_goes_on_as_if_the_masked_model_were_trained(optimizer):
    """Channels that are neither given nor read move no other weight, so both make the same steps, slots included."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(24, 8, 8, 4)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")
    model = graph(residual)
    made = {"adam": keras.optimizers.Adam(0.01), "rmsprop": keras.optimizers.RMSprop(0.01)}
    made["sgd"] = keras.optimizers.SGD(0.01, momentum=0.9)
    schedule, pattern = rc.ConstantSparsity(0.5, 0, 1, frequency=1), rc.Channels(coupled=True)
    pruning = rc.MagnitudePruning(made[optimizer], schedule, pattern=pattern, cut_slots="zero")
    model.compile(pruning, "mse", metrics=["mae"])
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    small = rc.shrink(model)
    assert isinstance(small.optimizer, type(made[optimizer]))
    assert int(ops.convert_to_numpy(small.optimizer.iterations)) == 3
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    history = small.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0).history
    assert "mae" in history
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-5)


def test_frozen_layers_stay_frozen():
    model = emptied(graph(residual))
    model.layers[1].trainable = False
    small = rc.shrink(model)
    assert [layer.trainable for layer in small.layers] == [layer.trainable for layer in model.layers]


@pytest.mark.slow
def test_the_file_loads_where_this_package_is_not_imported(tmp_path):
    model = emptied(graph(residual))
    small = check(model)
    small.save(tmp_path / "small.keras")
    np.save(tmp_path / "x.npy", inputs_of(model))
    np.save(tmp_path / "y.npy", outputs(small, inputs_of(model)))
    program = (
        "import keras, numpy as np, sys; m = keras.models.load_model('small.keras');"
        "np.testing.assert_allclose(keras.ops.convert_to_numpy(m(np.load('x.npy'))), np.load('y.npy'), atol=1e-6);"
        "assert 'tf_robustcomp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def twice(x):
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 1)], name="inner")
    return layers.Add()([inner(x), inner(layers.ReLU()(x))])


@pytest.mark.parametrize(
    "model, reason",
    [
        (lambda: zoo.subclassed()[0], "functional or Sequential"),
        (lambda: keras.Sequential([layers.Dense(2)]), "must be built"),
        (lambda: 3, "must be a Keras model"),
        (lambda: graph(twice), "must be called once. Received: inner"),
    ],
)
def test_models_that_cannot_be_shrunk_are_refused_with_the_reason(model, reason):
    with pytest.raises(rc.InvalidArgument, match=reason):
        rc.shrink(model())
