"""MS-SSIM with a gradient, against TensorFlow's and against finite differences."""

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.data.similarity import ms_ssim, scale_weights

numpy = keras.ops.convert_to_numpy


def pair(height, width, channels=3):
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.random((3, -(-height // 8), -(-width // 8), channels)), 8, 1), 8, 2)
    x = smooth[:, :height, :width]
    noisy = x + np.array([0.02, 0.1, 0.3])[:, None, None, None] * rng.normal(size=x.shape)
    return x.astype("float32"), np.clip(noisy, 0, 1).astype("float32")


@pytest.mark.parametrize(("height", "width"), [(192, 192), (176, 200), (64, 96), (50, 45), (11, 40)])
def test_it_is_that_of_tensorflow(height, width):
    tf = pytest.importorskip("tensorflow")
    x, y = pair(height, width)
    expected = tf.image.ssim_multiscale(x, y, 1.0, power_factors=scale_weights((height, width))).numpy()
    np.testing.assert_allclose(numpy(ms_ssim(x, y)), expected, rtol=2e-4)
    assert numpy(ms_ssim(x, x)) == pytest.approx(1, abs=1e-5)


def test_its_gradient_is_the_slope():
    x, y = pair(48, 48, 1)
    gradient = numpy(value_and_input_gradient(lambda z: ms_ssim(x, z), keras.ops.convert_to_tensor(y))[1])
    direction = gradient / np.sqrt(np.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    step = 0.05
    up, down = (numpy(ms_ssim(x, (y + sign * step * direction).astype("float32"))) for sign in (1, -1))
    np.testing.assert_allclose((up - down) / (2 * step), np.sum(gradient * direction, axis=(1, 2, 3)), rtol=0.05)


def test_small_images_are_refused_in_one_line():
    x, y = pair(10, 40)
    with pytest.raises(rc.InvalidArgument, match="needs sides of 11 pixels"):
        ms_ssim(x, y)
