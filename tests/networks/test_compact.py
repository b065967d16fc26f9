import keras
import numpy as np
import pytest

from tf_robustcomp.networks import compact_network
from tf_robustcomp.networks.compact import CosineFilters
from tf_robustcomp.utils.errors import InvalidArgument


@pytest.mark.parametrize(("width", "repeats", "stages"), [(8, 6, 2), (3, 1, 1), (12, 9, 3)])
def test_it_has_the_weights_that_its_description_counts(width, repeats, stages):
    model = compact_network((28, 28, 1), 10, width, repeats, stages)
    assert model.count_params() == width * (width + 10) + 10 * (width + 1)
    assert not model.non_trainable_variables
    own = compact_network((28, 28, 1), 10, width, repeats, stages, shared=False)
    assert own.count_params() == repeats * width * (width + 10) + 10 * (width + 1)


def test_the_filters_are_orthonormal_and_the_lowest_first():
    layer = CosineFilters(25)
    layer.build((None, 28, 28, 1))
    kernel = layer.kernel.reshape(25, 25)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(25), atol=1e-6)
    np.testing.assert_allclose(kernel[:, 0], 0.2)


def test_views_are_means_over_shifted_images_but_while_training():
    keras.utils.set_random_seed(0)
    one, model = (compact_network((8, 9, 1), 3, 4, 2, 1, views=views) for views in (1, 2))
    model.set_weights(one.get_weights())
    images = np.random.default_rng(0).random((5, 8, 9, 1)).astype("float32")
    expected = 0
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shifted = np.zeros_like(images)
        shifted[:, down:, right:] = images[:, : 8 - down, : 9 - right]
        expected = expected + one.predict(shifted, verbose=0) / 4
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(images, training=True)), one.predict(images, verbose=0), atol=1e-5
    )


@pytest.mark.parametrize("views", [1, 3])
def test_it_survives_its_file(views, tmp_path):
    model = compact_network((32, 32, 3), 7, 9, 4, 2, views=views)
    model.save(tmp_path / "a.keras")
    images = np.random.default_rng(0).random((4, 32, 32, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    assert expected.shape == (4, 7)
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "a.keras").predict(images, verbose=0), expected)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"repeats": 0}, {"stages": 0}, {"width": 26}, {"views": 0}])
def test_bad_sizes_are_named(sizes):
    with pytest.raises(InvalidArgument, match=next(iter(sizes))):
        compact_network((28, 28, 1), **sizes)
