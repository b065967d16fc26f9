"""Augmentation: half clean, half shifted, a function of (seed, step)."""

import keras
import numpy as np
import pytest
from keras import ops

from tf_robustcomp.adversaries import augmentation
from tf_robustcomp.adversaries.augmentation import NoiseAugmentation, RotationAugmentation
from tf_robustcomp.utils.errors import InvalidArgument


@pytest.fixture(params=[NoiseAugmentation(rho=5.0, seed=3), RotationAugmentation(seed=3)], ids=repr)
def augment(request):
    return request.param


def array(tensor):
    return ops.convert_to_numpy(tensor)


def test_half_of_the_images_stay_as_they_are(augment, rng):
    images = rng.uniform(size=(10, 16, 16, 1)).astype("float32")
    shifted = array(augment(images, 0))
    same = (shifted == images).all((1, 2, 3))
    np.testing.assert_array_equal(same, np.arange(10) % 2 == 0)
    assert shifted.min() >= 0 and shifted.max() <= 1


def test_the_outcome_depends_on_seed_and_step_only(augment, rng):
    images = rng.uniform(size=(4, 16, 16, 1)).astype("float32")
    other_seed = type(augment).from_config({**augment.get_config(), "seed": 4})
    np.testing.assert_array_equal(array(augment(images, 7)), array(augment(images, 7)))
    outcomes = [array(augment(images, 7)), array(augment(images, 8)), array(other_seed(images, 7))]
    assert len({outcome.tobytes() for outcome in outcomes}) == 3


def test_noise_has_squared_norm_rho_in_the_mean():
    images = np.full((400, 16, 16, 2), 0.5, "float32")
    change = array(NoiseAugmentation(rho=2.0)(images, 0))[1::2] - 0.5
    np.testing.assert_allclose((change**2).sum((1, 2, 3)).mean(), 2.0, rtol=0.02)


def test_config_makes_the_round_trip(augment):
    again = augmentation.get(keras.saving.serialize_keras_object(augment))
    assert repr(again) == repr(augment)
    assert augmentation.get(None) is None and augmentation.get(again) is again


@pytest.mark.parametrize("make", [lambda: NoiseAugmentation(0.0), lambda: RotationAugmentation(seed=-1)])
def test_bad_arguments_are_refused(make):
    with pytest.raises(InvalidArgument):
        make()
