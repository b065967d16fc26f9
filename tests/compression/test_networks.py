"""The networks: sizes, and convolutions against SciPy."""

import keras
import numpy as np
import pytest
import scipy.signal
from keras import layers, ops

from tf_robustcomp.backend.fused import BatchNormalization
from tf_robustcomp.compression import networks


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_the_papers_networks_have_their_numbers_of_parameters():
    assert trainable(networks.encoder(10, 64, (32, 32, 1))) == 2_775_882
    assert trainable(networks.decoder(10, 64, (32, 32, 1))) == 2_777_409


@pytest.mark.parametrize("shape", [(16, 16, 1), (48, 32, 3)])
def test_any_multiple_of_sixteen_and_any_channels_will_do(shape):
    z = networks.encoder(5, 2, shape)(np.zeros((2, *shape)))
    assert tuple(z.shape) == (2, 5)
    assert tuple(networks.decoder(5, 2, shape)(z).shape) == (2, *shape)


def test_layers_stand_in_the_order_of_the_paper():
    kinds = [type(layer) for layer in networks.encoder(3, 2, (16, 16, 1)).layers]
    block = [layers.Conv2D, layers.LeakyReLU, BatchNormalization]
    assert kinds[1:] == [*block * 3, layers.Conv2D, layers.Activation, layers.Flatten, layers.Dense, layers.Activation]
    kinds = [type(layer) for layer in networks.decoder(3, 2, (16, 16, 1)).layers]
    block = [layers.Conv2DTranspose, layers.ReLU, BatchNormalization]
    assert kinds[1:4] == [layers.Dense, layers.ReLU, layers.Reshape]
    assert kinds[4:] == [*block * 3, layers.Conv2DTranspose, layers.Activation]


def test_details_of_the_layers():
    model = networks.encoder(3, 2, (16, 16, 1))
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    leaky = next(layer for layer in model.layers if isinstance(layer, layers.LeakyReLU))
    assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)
    np.testing.assert_allclose(leaky.negative_slope, 0.2)
    np.testing.assert_allclose(ops.convert_to_numpy(leaky(np.array([-2.0, 3.0], "float32"))), [-0.4, 3.0], rtol=1e-6)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            bound = np.prod(layer.kernel.shape[:-1]) ** -0.5
            assert 0.8 * bound < np.abs(layer.kernel.numpy()).max() <= bound
            assert 0 < np.abs(layer.bias.numpy()).max() <= bound


def test_a_convolution_pads_by_one_on_both_sides(rng):
    x, kernel = rng.normal(size=(16, 16)), rng.normal(size=(4, 4))
    layer = layers.Conv2D(1, **networks.HALVING)
    layer.build((None, 16, 16, 1))
    layer.set_weights([kernel[..., None, None], np.zeros(1)])
    expected = scipy.signal.correlate(np.pad(x, 1), kernel, mode="valid")[::2, ::2]
    result = ops.convert_to_numpy(layer(x[None, ..., None].astype("float32")))[0, ..., 0]
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_a_transposed_convolution_is_the_transpose_of_the_convolution(rng):
    """<conv(x), y> = <x, transposed(y)>, with the same kernel and no bias."""
    kernel = rng.normal(size=(4, 4, 1, 1)).astype("float32")
    down, up = layers.Conv2D(1, **networks.HALVING), layers.Conv2DTranspose(1, **networks.HALVING)
    down.build((None, 16, 16, 1))
    up.build((None, 8, 8, 1))
    for layer in (down, up):
        layer.set_weights([kernel, np.zeros(1)])
    x, y = (rng.normal(size=(2, side, side, 1)).astype("float32") for side in (16, 8))
    one = np.sum(ops.convert_to_numpy(down(x)) * y)
    np.testing.assert_allclose(one, np.sum(x * ops.convert_to_numpy(up(y))), rtol=1e-4)


def test_networks_end_in_single_precision_whatever_the_policy():
    z = networks.encoder(3, 2, (16, 16, 1), dtype="mixed_bfloat16")(np.zeros((1, 16, 16, 1)))
    y = networks.decoder(3, 2, (16, 16, 1), dtype="mixed_bfloat16")(z)
    assert keras.backend.standardize_dtype(z.dtype) == keras.backend.standardize_dtype(y.dtype) == "float32"
