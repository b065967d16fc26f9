"""Norm balls against maxima that are known."""

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import L2Ball, LinfBall

IMAGES = np.random.default_rng(4).uniform(0.3, 0.7, size=(3, 4, 4, 1)).astype("float32")


def to_middle(x):
    """Gives grey for everything: the distortion grows with the distance of each pixel from 1/2."""
    return 0 * x + 0.5


def test_in_the_maximum_norm_every_pixel_moves_away_by_epsilon():
    result = ops.convert_to_numpy(LinfBall(0.1).attack(to_middle, IMAGES).x)
    np.testing.assert_allclose(result, IMAGES + 0.1 * np.sign(IMAGES - 0.5), atol=1e-6)


def test_in_the_euclidean_norm_the_image_moves_along_the_gradient():
    away = IMAGES - 0.5
    norm = np.sqrt((away**2).sum((1, 2, 3), keepdims=True))
    result = ops.convert_to_numpy(L2Ball(0.2).attack(to_middle, IMAGES).x)
    np.testing.assert_allclose(result, IMAGES + 0.2 * away / norm, atol=1e-5)


def test_at_the_border_of_the_unit_interval_the_change_is_cut():
    white = np.ones((1, 4, 4, 1), "float32")
    result = LinfBall(0.1).attack(lambda x: 0 * x, white)
    np.testing.assert_array_equal(ops.convert_to_numpy(result.x), white)
