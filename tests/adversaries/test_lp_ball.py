"""Norm balls against maxima that are known."""

import numpy as np
import pytest
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


@pytest.mark.parametrize("ball", [L2Ball, LinfBall])
def test_restarts_stay_in_the_ball_and_only_add(ball):
    def waves(x):
        return 0.5 + 0.2 * ops.sin(40 * x)

    epsilon = 0.5 if ball is L2Ball else 0.1
    found = []
    for restarts in (0, 1, 4):
        result = ball(epsilon, restarts=restarts).attack(waves, IMAGES)
        change = ops.convert_to_numpy(result.x) - IMAGES
        size = np.abs(change).max() if ball is LinfBall else np.sqrt(np.sum(change**2, axis=(1, 2, 3))).max()
        assert size <= epsilon * (1 + 1e-5)
        assert int(result.evaluations) == 20 * (1 + restarts)
        found.append(ops.convert_to_numpy(result.distortion))
    assert (found[1] >= found[0] - 1e-6).all() and (found[2] >= found[1] - 1e-6).all()
    assert found[2].mean() > 1.01 * found[0].mean()


def test_the_gain_of_the_last_steps_says_whether_the_ascent_has_converged():
    assert float(LinfBall(0.1, steps=40).attack(to_middle, IMAGES).gain) < 1e-6  # at the border after 16 steps
    assert float(L2Ball(2.0, steps=4).attack(to_middle, IMAGES).gain) > 1e-3
