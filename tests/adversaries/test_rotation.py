"""Rotation against SciPy and NumPy, and the search against differential evolution."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
from keras import ops

from tf_robustcomp.adversaries import RotationRandom, RotationSearch
from tf_robustcomp.backend.gradients import value_and_input_gradient
from tf_robustcomp.compression import Compressor
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.utils.errors import InvalidArgument


def turned(images, angles):
    return ops.convert_to_numpy(rotate(images, angles))


def ties(shape, angle):
    """Pixels whose source lies half way between two pixels or on the border, within 1e-4, in double precision."""
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    (height, width) = shape
    down, right = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    row = cosine * down + sine * right + (height - 1) / 2
    column = cosine * right - sine * down + (width - 1) / 2
    near = [np.abs(place - np.floor(place) - 0.5) < 1e-4 for place in (row, column)]
    border = [
        np.minimum(np.abs(place), np.abs(place - side + 1)) < 1e-4 for place, side in ((row, height), (column, width))
    ]
    return near[0] | near[1] | border[0] | border[1]


@pytest.mark.parametrize("shape", [(16, 16, 1), (9, 9, 3), (16, 8, 2)])
def test_rotation_equals_scipy_except_at_ties(rng, shape):
    angles = np.concatenate([rng.uniform(-400, 400, size=20), [1.0, 30.0, 45.0, -60.0, 135.0, 179.0]])
    images = rng.uniform(0.1, 1, size=(len(angles), *shape)).astype("float32")
    for image, angle, ours in zip(images, angles, turned(images, angles), strict=True):
        theirs = scipy.ndimage.rotate(image, angle, reshape=False, order=0)
        certain = ~ties(shape[:2], angle)
        assert certain.mean() > 0.7
        np.testing.assert_array_equal(ours[certain], theirs[certain])


def test_multiples_of_ninety_degrees_are_rot90_exactly(rng):
    for side in (7, 16):
        quarters = np.arange(-9, 10)
        images = rng.uniform(0.1, 1, size=(len(quarters), side, side, 2)).astype("float32")
        for image, quarter, ours in zip(images, quarters, turned(images, 90.0 * quarters), strict=True):
            np.testing.assert_array_equal(ours, np.rot90(image, quarter))


def test_one_angle_turns_all_images(rng):
    images = rng.uniform(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(turned(images, 33.0), turned(images, np.full(3, 33.0)))


def test_the_gradient_flows_through_the_pixels(rng):
    """A rotation is linear, so its gradient is its transpose: <rotate(x), y> = <x, transpose(y)>."""
    x, y = (ops.convert_to_tensor(rng.normal(size=(2, 8, 8, 1)).astype("float32")) for _ in range(2))
    values, gradient = value_and_input_gradient(lambda x: ops.sum(rotate(x, 30.0) * y, axis=(1, 2, 3)), x)
    np.testing.assert_allclose(
        ops.convert_to_numpy(values), ops.convert_to_numpy(ops.sum(x * gradient, axis=(1, 2, 3))), rtol=1e-4
    )


def blobs(rng, count, side=16):
    """Smooth images with structure at all angles."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(count, side, side)), (0, 1.5, 1.5))
    return np.clip(0.5 + 3 * noise, 0, 1).astype("float32")[..., None]


def test_the_search_is_as_good_as_differential_evolution(rng):
    """For a compressor that always gives the same image, whose distortion SciPy can calculate."""
    for _ in range(3):
        images, template = blobs(rng, 4), blobs(rng, 1)

        def mean_distortion(angle, images=images, template=template):
            moved = scipy.ndimage.rotate(images, float(angle[0]), axes=(2, 1), reshape=False, order=0)
            return ((moved - template) ** 2).sum((1, 2, 3)).mean()

        found = scipy.optimize.differential_evolution(
            lambda angle: -mean_distortion(angle), [(-180, 180)], popsize=8, init="random", seed=1
        )
        result = RotationSearch().attack(lambda x, template=template: 0 * x + ops.convert_to_tensor(template), images)
        assert float(ops.mean(result.objective)) >= 0.995 * -found.fun
        np.testing.assert_allclose(
            float(ops.mean(result.objective)), mean_distortion([float(result.angle[0])]), rtol=1e-2
        )


def test_the_search_per_image_is_at_least_as_bad_for_each_as_the_batch_angle(rng):
    images, template = blobs(rng, 4), ops.convert_to_tensor(blobs(rng, 1))
    each = RotationSearch(per="image").attack(lambda x: 0 * x + template, images)
    shared = RotationSearch().attack(lambda x: 0 * x + template, images)
    assert float(ops.mean(each.objective)) > float(ops.mean(shared.objective))
    assert len(np.unique(ops.convert_to_numpy(each.angle))) > 1
    assert len(np.unique(ops.convert_to_numpy(shared.angle))) == 1


def test_random_angles_change_with_the_step_and_the_seed_only(rng):
    images = blobs(rng, 2)

    def angle(seed, step):  # for a compressor that gives the images upright, so that any turn is worse
        return float(RotationRandom(3, seed=seed).attack(lambda x: 0 * x + images, images, step=step).angle[0])

    assert angle(0, 1) == angle(0, 1)
    assert len({angle(0, 1), angle(0, 2), angle(1, 1), angle(1, 0)}) == 4


@pytest.mark.slow
def test_a_part_of_the_batch_finds_nearly_the_worst_angle_of_all(rng):
    """On digits: one angle for 128 images, looked for on 16 of them, against the best of 720."""
    images = resized(load_images("digits").x_train[:128], 16)
    model = Compressor(4, levels=6, width=4, image_shape=(16, 16, 1))
    model.compile("adam")
    model.fit(images, epochs=3, verbose=0)
    found = float(ops.mean(RotationSearch().attack(model, images).objective))
    angles = np.arange(-180, 180, 0.5, dtype="float32")
    every = [float(ops.mean(model.distortion(t, model(t)))) for t in (rotate(images, angle) for angle in angles)]
    assert found >= 0.99 * max(every)
    whole = float(ops.mean(RotationSearch(part=1.0, grid=36, peaks=3, halvings=4).attack(model, images).objective))
    assert whole >= 0.995 * max(every)


def test_a_part_out_of_range_is_refused():
    for part in (0.0, 1.5):
        with pytest.raises(InvalidArgument, match="part must"):
            RotationSearch(part=part)
