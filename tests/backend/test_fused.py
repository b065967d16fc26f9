"""Batch norm and Adam in fewer operations equal Keras' own, one operation after the other."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.folding import Chain, inference_function
from tf_robustcomp.backend.fused import Adam, BatchNormalization
from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.compression import Compressor, SuccessiveRefinement, networks
from tf_robustcomp.utils.errors import InvalidArgument


def with_random_norms(model, rng):
    """Set every batch norm to what a trained one might have; gammas of both signs."""
    for layer in keras_private.all_layers(model):
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape[0]
            gamma = rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size)
            layer.set_weights([gamma, rng.normal(size=size), rng.normal(size=size), rng.uniform(0.5, 2.0, size)])
    return model


def gradients(layer, x, weights):
    """Gradient of the sum of squares of the layer's training output, weighted, with respect to its input."""
    weights = ops.convert_to_tensor(weights)

    def weighted(images):
        return ops.sum(weights * ops.square(layer(images, training=True)), axis=(1, 2, 3))

    _, gradient = value_and_input_gradient(weighted, ops.convert_to_tensor(x))
    return ops.convert_to_numpy(gradient)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (1, 2, 2, 7), (1, 1, 1, 2)])
def test_batch_norm_in_training_equals_its_formula(rng, shape):
    x = rng.normal(1.0, 2.0, shape).astype("float32")
    layer = BatchNormalization(momentum=0.8, epsilon=1e-3)
    layer.build(shape)
    gamma, beta, mean, variance = (rng.uniform(0.5, 1.5, shape[-1]) for _ in range(4))
    layer.set_weights([gamma, beta, mean, variance])
    y = ops.convert_to_numpy(layer(x, training=True))
    of_batch, around = x.mean((0, 1, 2), "float64"), x.var((0, 1, 2), "float64")
    np.testing.assert_allclose(y, gamma * (x - of_batch) / np.sqrt(around + 1e-3) + beta, atol=2e-5)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.8 * mean + 0.2 * of_batch, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), 0.8 * variance + 0.2 * around, rtol=1e-5, atol=1e-6)


def test_batch_norms_gradient_in_training_equals_that_of_keras(rng):
    x, weights = (rng.normal(size=(6, 5, 4, 3)).astype("float32") for _ in range(2))
    ours, theirs = BatchNormalization(epsilon=1e-5), layers.BatchNormalization(epsilon=1e-5)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights([np.array([0.5, -2.0, 1.0]), np.array([1.0, 0.0, -1.0]), np.zeros(3), np.ones(3)])
    np.testing.assert_allclose(gradients(ours, x, weights), gradients(theirs, x, weights), atol=2e-4)


def adam(weights, gradients, rate, beta_1, beta_2, epsilon):
    """Kingma, Ba 2015 (arXiv 1412.6980), section 2 with the order of operations at its end."""
    weights = np.array(weights, "float64")
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t, gradient in enumerate(gradients, 1):
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * np.square(gradient)
        weights -= rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
    return weights, m, v


def test_adam_equals_its_formula(rng):
    settings = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}
    weights = rng.normal(size=(7, 5)).astype("float32")
    gradients = rng.normal(size=(30, 7, 5)).astype("float32") * rng.choice([1e-3, 1.0, 100.0], (1, 7, 5))
    optimizer, variable = Adam(0.01, **settings), keras.Variable(weights)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    found = (variable, *keras_private.adam_moments(optimizer, variable))
    for one, expected in zip(found, adam(weights, gradients, 0.01, **settings), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"amsgrad": True},
        {"weight_decay": 0.1, "global_clipnorm": 1.0},
        {"use_ema": True, "ema_momentum": 0.5},
        {"gradient_accumulation_steps": 2},
        {"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 8)},
    ],
)
def test_adam_trains_as_that_of_keras_does(rng, options):
    x, y = rng.integers(0, 9, (64, 3)), rng.integers(0, 4, 64)  # an embedding's gradient is sparse

    def trained(kind):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.Embedding(9, 8), layers.Flatten(), layers.Dense(4)])
        model.compile(kind(**{"learning_rate": 0.05, **options}), keras.losses.SparseCategoricalCrossentropy(True))
        model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(trained(Adam), trained(keras.optimizers.Adam), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_a_compressor_fused_or_not_gives_the_same_losses(rng):
    images = rng.random((16, 16, 16, 1), dtype="float32")

    def losses(fused):
        keras.utils.set_random_seed(3)
        model = Compressor(3, 5, 4, (16, 16, 1), fused=fused)
        model.compile(Adam(1e-3, fused=fused))
        return model.fit(images, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]

    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_reaches_the_loss_in_training(rng, value):
    inputs = keras.Input((4, 4, 1))
    x = layers.ReLU()(BatchNormalization()(layers.Conv2D(2, 3)(inputs)))
    model = keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    images = rng.normal(size=(4, 4, 4, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(images, np.zeros((4, 1))))
    images[0, 1, 1, 0] = value
    assert not np.isfinite(model.train_on_batch(images, np.zeros((4, 1))))


def test_what_is_not_plain_training_on_images_is_left_to_keras(rng):
    for layer, shape in ((BatchNormalization(), (8, 3)), (BatchNormalization(center=False), (4, 2, 2, 3))):
        x = rng.normal(size=shape).astype("float32")
        config = {name: value for name, value in layer.get_config().items() if name != "fused"}
        same = layers.BatchNormalization.from_config(config)
        np.testing.assert_array_equal(*(ops.convert_to_numpy(one(x, training=True)) for one in (layer, same)))


@pytest.mark.parametrize("make", [networks.encoder, networks.decoder])
def test_a_frozen_network_computes_what_it_is(make, rng):
    network = with_random_norms(make(3, 4, (32, 16, 2)), rng)
    x = rng.normal(size=(5, *network.input.shape[1:])).astype("float32")
    expected = ops.convert_to_numpy(network(x))
    np.testing.assert_allclose(ops.convert_to_numpy(inference_function(network)(x)), expected, atol=1e-5)


def test_every_place_of_a_batch_norm_is_right_in_a_frozen_chain(rng):
    x = inputs = keras.Input((8, 8, 3))
    for layer in (
        BatchNormalization(),
        layers.Conv2DTranspose(4, 3, 2, padding="valid", use_bias=False),
        layers.BatchNormalization(),
        BatchNormalization(),
        layers.ReLU(),
        BatchNormalization(),
        layers.Conv2D(5, 3, dilation_rate=2, padding="valid", activation="tanh"),
        layers.BatchNormalization(),
        layers.Conv2D(2, 2, strides=3, padding="same"),
        layers.BatchNormalization(),
    ):
        x = layer(x)
    chain = with_random_norms(Chain(inputs, x), rng)
    images = rng.normal(size=(3, 8, 8, 3)).astype("float32")
    expected = ops.convert_to_numpy(chain(images))
    np.testing.assert_allclose(ops.convert_to_numpy(inference_function(chain)(images)), expected, atol=1e-5)


def test_freezing_takes_the_weights_of_the_moment_and_leaves_training_alone(rng):
    model = SuccessiveRefinement((2, 1), 5, 4, (16, 16, 1))
    x = rng.random((2, 16, 16, 1), dtype="float32")
    results = []
    for _ in range(2):
        with_random_norms(model, rng)
        expected, weights = ops.convert_to_numpy(model(x)), model.get_weights()
        view = inference_function(model)
        np.testing.assert_allclose(ops.convert_to_numpy(view(x)), expected, atol=1e-5)
        results.append(ops.convert_to_numpy(view(x, training=True)))
        model.set_weights(weights)
        np.testing.assert_array_equal(ops.convert_to_numpy(model(x, training=True)), results[-1])
    assert np.abs(results[0] - results[1]).max() > 1e-3


def counted(monkeypatch, chain):
    """Calls of the network's own layers, which a folded view does without."""
    calls = []
    layer = next(layer for layer in chain.layers if isinstance(layer, layers.BatchNormalization))
    call = layer.call
    monkeypatch.setattr(layer, "call", lambda *args, **kwargs: calls.append(1) or call(*args, **kwargs))
    return calls


@pytest.mark.parametrize("fused", [True, False])
def test_only_a_fused_model_is_folded(rng, fused, monkeypatch):
    model = Compressor(3, 5, 4, (16, 16, 1), fused=fused)
    calls = counted(monkeypatch, model.encoder)
    inference_function(model)(rng.random((2, 16, 16, 1), dtype="float32"))
    assert bool(calls) is not fused


def test_a_view_in_lower_precision_is_near_and_changes_nothing(rng):
    model = with_random_norms(Compressor(3, 5, 4, (16, 16, 1)), rng)
    x = rng.random((4, 16, 16, 1), dtype="float32")
    before = [(layer.name, layer.dtype_policy.name, sorted(vars(layer))) for layer in keras_private.all_layers(model)]
    expected = ops.convert_to_numpy(model.encoder(x))
    low = ops.convert_to_numpy(inference_function(model.encoder, "bfloat16")(x))
    assert low.dtype == np.float32 and not np.array_equal(low, expected)
    np.testing.assert_allclose(low, expected, atol=0.1)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.encoder(x)), expected)
    after = [(layer.name, layer.dtype_policy.name, sorted(vars(layer))) for layer in keras_private.all_layers(model)]
    assert after == before


def test_a_lower_precision_is_refused_where_nothing_would_compute_in_it(rng):
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    for model in (plain, plain.call):
        with pytest.raises(InvalidArgument, match="Chain"):
            inference_function(model, "bfloat16")
