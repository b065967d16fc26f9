"""All pictures that rotation can make of an image, against random angles."""

import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tf_robustcomp.data.shifts import angles_of_all_pictures, rotate

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 1)])
def test_every_rotated_picture_is_one_of_them(size):
    image = RNG.permutation(np.prod(size)).reshape(1, *size, 1).astype("float32") + 1
    angles = angles_of_all_pictures(*size)
    pictures = ops.convert_to_numpy(rotate(np.repeat(image, len(angles), axis=0), angles.astype("float32")))
    known = {picture.tobytes() for picture in pictures}
    tried = RNG.uniform(-720, 720, 2000).astype("float32")
    others = ops.convert_to_numpy(rotate(np.repeat(image, len(tried), axis=0), tried))
    # An angle within float32's rounding of a change makes a mixture of two neighbours: none in 2,000 drawn ones.
    assert {picture.tobytes() for picture in others} <= known


def test_no_angle_is_worse_than_the_worst_one():
    images = RNG.random((3, 8, 8, 1), dtype=np.float32)
    weights = RNG.random((8, 8, 1), dtype=np.float32)
    rows = rc.worst_rotations({"weights": lambda x: x * weights}, images).rows
    for row, image in zip(rows, images, strict=True):
        rotated = ops.convert_to_numpy(rotate(np.repeat(image[None], 5000, axis=0), np.linspace(0, 360, 5000)))
        distortion = np.sum((rotated * (1 - weights)) ** 2, axis=(1, 2, 3))
        assert row.distortion >= distortion.max() - 1e-5
        again = ops.convert_to_numpy(rotate(image[None], row.angle))
        assert row.distortion == pytest.approx(np.sum((again * (1 - weights)) ** 2), rel=1e-5)
        assert row.clean <= row.distortion + 1e-5
