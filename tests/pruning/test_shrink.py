"""The shrunk model gives the outputs of the masked one, and its emptied channels are gone."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tf_robustcomp as rc
from tests.pruning import zoo

RNG = np.random.default_rng(0)


def emptied(model, share=0.5, bias=True):
    """Random weights; kernels' output columns zero, the same columns in every layer, so that coupled groups go."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model) or not layer.get_weights():
            continue
        values = [RNG.uniform(0.3, 1.0, w.shape) for w in layer.get_weights()]
        axis = -2 if "Transpose" in type(layer).__name__ or "Depthwise" in type(layer).__name__ else -1
        for w in values:
            if w.ndim > 1:
                w *= 2 / np.sqrt(w[..., 0].size)
                np.moveaxis(w, axis, 0)[: int(share * w.shape[axis])] = 0
            elif not bias and "Norm" not in type(layer).__name__:
                w[:] = 0
        layer.set_weights(values)
    return model


def check(model, tolerance=1e-5):
    small = rc.shrink(model)
    x = [RNG.normal(size=(2, *one.shape[1:])).astype("float32") for one in model.inputs]
    x = x if len(x) > 1 else x[0]
    wanted = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(small(x)),
        wanted,
        atol=tolerance * max(1, abs(wanted).max()),
    )
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
    x = layers.DepthwiseConv2D(3)(layers.Conv2D(8, 1)(x))
    return layers.Conv2D(3, 1)(layers.LeakyReLU()(layers.BatchNormalization()(x)))


def squeeze(x):
    x = layers.Conv2D(8, 3, use_bias=False)(x)
    gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate])))


def transposed(x):
    return layers.Conv2D(3, 2)(layers.Conv2DTranspose(8, 3, strides=2)(layers.Conv2D(6, 1)(x)))


@pytest.mark.parametrize("body", [residual, dense_block, depthwise, squeeze, transposed])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_equal_and_parameters_go(body, bias):
    model = emptied(graph(body), bias=bias)
    small = check(model)
    if not (bias and body is transposed):  # a constant at a border cannot go into a bias
        assert small.count_params() < model.count_params()


def test_nothing_goes_where_nothing_is_zero():
    model = emptied(graph(residual), share=0.0)
    assert check(model).count_params() == model.count_params()


def test_constants_go_into_a_new_bias():
    model = emptied(keras.Sequential([keras.Input((5,)), layers.Dense(8), layers.Dense(3, use_bias=False)]))
    small = check(model)
    assert small.layers[0].units == 4
    assert small.layers[1].use_bias


def test_the_last_channel_stays():
    assert check(emptied(graph(residual), share=1.0)).layers[1].filters == 1


@pytest.mark.parametrize("name", sorted(set(zoo.SMALL) - {"subclassed", "embedding"}))
def test_any_model(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(emptied(zoo.SMALL[name]()[0]), 1e-4)


def test_the_file_loads_as_an_ordinary_model(tmp_path):
    small = check(emptied(graph(residual)))
    small.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").count_params() == small.count_params()


def test_a_layer_that_is_not_followed_is_named():
    with pytest.warns(UserWarning, match="stay whole: own"):
        rc.shrink(graph(lambda x: layers.Dense(2)(layers.LayerNormalization(name="own")(x))))


@pytest.mark.parametrize(
    "model",
    [zoo.Subclassed(), zoo.subclassed()[0], keras.Sequential([layers.Dense(2)]), 3],
)
def test_models_without_a_graph_are_refused(model):
    with pytest.raises(rc.InvalidArgument, match="model must be"):
        rc.shrink(model)
