"""Networks of integers: exact in float32 whatever the order of the sums, and trainable."""

import keras
import numpy as np
import pytest

from tf_robustcomp.compression.integer_network import (
    LARGEST_INPUT,
    OTHER_COLOUR,
    SQUARE,
    WEIGHT_BITS,
    IntegerDense,
    IntegerParameters,
    depth_to_space,
    shifted,
)

numpy = keras.ops.convert_to_numpy


def dense(rng, fan_in, units=8, scale=0.2, **kwargs):
    layer = IntegerDense(units, **kwargs)
    layer.build((None, fan_in))
    layer.kernel.assign(rng.normal(size=(fan_in, units)) * scale)
    layer.bias.assign(rng.normal(size=units))
    return layer


def test_a_dense_layer_equals_integer_arithmetic(rng):
    layer = dense(rng, 300)
    inputs = rng.integers(0, 256, (50, 300))
    layer.settle()
    kernel = np.round(numpy(layer.kernel) * 2**WEIGHT_BITS).astype(np.int64)
    bias = np.round(numpy(layer.bias).astype(np.float64) * 2 ** (WEIGHT_BITS + 4)).astype(np.int64)
    wanted = np.clip((inputs @ kernel + bias + 2 ** (WEIGHT_BITS - 1)) >> WEIGHT_BITS, 0, 255)
    assert np.array_equal(numpy(layer(inputs.astype("float32"))), wanted)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_no_partial_sum_reaches_two_to_the_24th(rng, scale):
    layer = dense(rng, 3000, scale=scale)
    layer.bias.assign(rng.normal(size=8) * 1e6)
    layer.settle()
    kernel, bias = numpy(layer.kernel) * 2.0**WEIGHT_BITS, numpy(layer.bias) * 2.0 ** (WEIGHT_BITS + 4)
    assert np.array_equal(kernel, np.round(kernel)) and np.abs(kernel).max() <= 2047
    assert (np.abs(kernel).astype(np.float64).sum(axis=0) * LARGEST_INPUT + np.abs(bias)).max() < 2**24


def test_to_settle_changes_no_output_and_happens_once(rng):
    network = IntegerParameters(6, 8)
    network.build((None, None, None, 4))
    hyper = rng.integers(-20, 20, (2, 2, 3, 4)).astype("float32")
    known = rng.integers(-900, 900, (2, 8, 12, 6)).astype("float32")
    step = np.array([3, 250], "float32")

    def outputs():
        features = network.features(hyper)
        return [numpy(part) for part in network.parameters(features, network.context(known), step)]

    before = outputs()
    network.settle()
    weights = [numpy(v) for v in network.weights]
    network.settle()
    for one, other in zip([*before, *weights], [*outputs(), *map(numpy, network.weights)], strict=True):
        assert np.array_equal(one, other)


def test_settled_weights_are_exact_in_float16(rng):
    layer = dense(rng, 100)
    layer.settle()
    kernel = numpy(layer.kernel)
    assert np.array_equal(kernel.astype(np.float16).astype(np.float32), kernel)


def test_offsets_make_a_convolution(rng):
    layer = dense(rng, 9 * 3, 4, input_bits=0, relu=False)
    layer.bias.assign(np.zeros(4))
    layer.settle()
    images = rng.integers(-50, 50, (2, 5, 6, 3)).astype("float32")
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.concatenate([padded[:, 1 + r : 6 + r, 1 + c : 7 + c] for r, c in SQUARE], axis=-1)
    assert np.array_equal(numpy(layer(images, offsets=SQUARE)), numpy(layer(patches)))


def test_the_context_of_a_place_is_of_the_other_colour():
    assert len(OTHER_COLOUR) == 12 and all((row + column) % 2 for row, column in OTHER_COLOUR)


def test_shifts_and_depth_to_space_by_hand(rng):
    x = rng.random((1, 4, 5, 8)).astype("float32")
    assert np.array_equal(numpy(shifted(x, 1, -2))[0, :3, 2:], x[0, 1:, :3])
    assert not numpy(shifted(x, 1, -2))[0, 3].any()
    y = numpy(depth_to_space(keras.ops.convert_to_tensor(x), 2))
    assert np.array_equal(y[0, 2:4, 4:6].reshape(4, 2), x[0, 1, 2].reshape(4, 2))


@pytest.mark.slow
def test_gradients_pass_through_the_roundings(rng):
    model = keras.Sequential([IntegerDense(16), IntegerDense(1, relu=False)])
    inputs = rng.integers(0, 256, (64, 5)).astype("float32")
    target = inputs[:, :1] - inputs[:, 1:2]
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    history = model.fit(inputs, target, epochs=60, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]
