"""The quantiser against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.compression import ScalarQuantizer
from tf_robustcomp.utils.errors import InvalidArgument


def gradient_of_sum(quantizer, z):
    z = ops.convert_to_tensor(np.asarray([z], "float32"))
    return ops.convert_to_numpy(value_and_input_gradient(lambda z: ops.sum(quantizer(z), axis=-1), z)[1])[0]


@pytest.mark.parametrize("levels", [2, 3, 12, 255])
def test_forward_is_exactly_the_nearest_level(rng, levels):
    z = rng.uniform(-1.2, 1.2, size=(50, 7)).astype("float32")
    points = np.linspace(-1, 1, levels).astype("float32")
    nearest = np.abs(z[..., None].astype("float64") - points).argmin(-1)
    quantizer = ScalarQuantizer(levels)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.symbols(z)), nearest)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer(z)), points[nearest])


@pytest.mark.parametrize("levels", [2, 3, 5, 9, 12])
def test_ties_go_to_the_lower_level_and_the_next_number_above_does_not(levels):
    points = np.linspace(-1, 1, levels).astype("float32").astype("float64")
    middle = (points[1:] + points[:-1]) / 2
    below = middle.astype("float32")
    below = np.where(below > middle, np.nextafter(below, np.float32(-2)), below)
    above = np.where(below == 0, np.float32(1e-30), np.nextafter(below, np.float32(2)))  # hardware flushes denormals
    quantizer = ScalarQuantizer(levels)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.symbols(below)), np.arange(levels - 1))
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.symbols(above)), np.arange(levels - 1) + 1)


def test_backward_has_the_published_numbers():
    gradient = gradient_of_sum(ScalarQuantizer(12), [-0.95, 0.01, 0.3, 0.999])
    np.testing.assert_allclose(gradient, [0.386132, 0.572838, 0.547990, 0.372430], atol=1e-6)


@pytest.mark.parametrize(("levels", "sigma"), [(2, 1.0), (5, 3.0), (12, 10.0)])
def test_backward_is_the_slope_of_the_soft_assignment(rng, levels, sigma):
    points = np.linspace(-1, 1, levels)

    def soft(z):
        weights = np.exp(-sigma * (z[:, None] - points) ** 2)
        return (weights * points).sum(1) / weights.sum(1)

    z = rng.uniform(-1, 1, size=9)
    slope = (soft(z + 1e-5) - soft(z - 1e-5)) / 2e-5
    np.testing.assert_allclose(gradient_of_sum(ScalarQuantizer(levels, sigma), z), slope, rtol=1e-4)


def test_values_undo_symbols_and_keep_their_kind():
    quantizer = ScalarQuantizer(7)
    symbols = np.arange(7)
    values = quantizer.values(symbols)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    assert keras.backend.standardize_dtype(quantizer.symbols(values).dtype) == "int32"
    np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.symbols(values)), symbols)


def test_config_makes_the_round_trip_and_precision_stays_single():
    quantizer = ScalarQuantizer(5, sigma=2.0, dtype="mixed_bfloat16")
    again = ScalarQuantizer.from_config(quantizer.get_config())
    assert (again.levels, again.sigma, again.compute_dtype) == (5, 2.0, "float32")


@pytest.mark.parametrize("arguments", [{"levels": 1}, {"levels": 2.5}, {"levels": 3, "sigma": 0.0}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InvalidArgument, match="must be"):
        ScalarQuantizer(**arguments)
