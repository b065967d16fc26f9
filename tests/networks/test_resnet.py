"""The ResNet against the published counts and structure."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_robustcomp as rc


def expected_parameters(depth):
    """Counted by hand from the description: convolutions without bias, four numbers a channel of batch norm."""
    n, total, channels_in = (depth - 2) // 6, 3 * 3 * 3 * 16, 16
    for channels in (16, 32, 64):
        for block in range(n):
            total += 4 * channels_in + 9 * channels_in * channels + 4 * channels + 9 * channels * channels
            total += channels_in * channels if block == 0 else 0
            channels_in = channels
    return total + 4 * 64 + 64 * 10 + 10


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_parameters_are_those_of_the_description(depth):
    assert rc.resnet_v2(depth).count_params() == expected_parameters(depth)


def test_resnet56_has_the_published_number_of_parameters():
    assert rc.resnet_v2(56).count_params() == 859_898


def test_convolutions_have_no_bias_and_batch_norm_has_the_published_settings():
    model = rc.resnet_v2(8)
    assert not any(layer.use_bias for layer in model.layers if isinstance(layer, layers.Conv2D))
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.997, 1e-5)}


def test_strided_convolutions_see_one_pixel_of_padding_on_each_side(rng):
    # Padding on both sides shifts the sampling by one pixel against "same", which pads an even image at its end only.
    model = rc.resnet_v2(8, (8, 8, 16))
    layer = next(
        layer
        for layer in model.layers
        if isinstance(layer, layers.Conv2D) and layer.strides == (2, 2) and layer.kernel_size == (3, 3)
    )
    part = keras.Model(layer.input, layer.output)
    padded = rng.normal(size=(1, *layer.input.shape[1:])).astype("float32")
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    expected = np.einsum("abc,abcd->d", padded[0, 2:5, 4:7], kernel)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(part(padded))[0, 1, 2], expected, atol=1e-4)
    assert layer.padding == "valid"
    assert layer.input.shape[1] == 10


def test_logits_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert rc.resnet_v2(8, (8, 8, 1))(np.zeros((2, 8, 8, 1), "float32")).dtype == keras.ops.zeros((), "float32").dtype


@pytest.mark.parametrize("depth", [2, 9, 57])
def test_a_depth_of_another_form_is_refused(depth):
    with pytest.raises(ValueError, match="6n \\+ 2"):
        rc.resnet_v2(depth)
