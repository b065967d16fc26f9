"""What users of compressors, attacks and their evaluation tripped over; names begin with the report's number."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tf_robustcomp.adversaries import ascent
from tf_robustcomp.evaluation import models

rng = np.random.default_rng(11)
IMAGES = rng.uniform(size=(30, 4, 4, 1)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


class Smooth(keras.layers.Layer):
    """A small smooth model with many maxima, pixel by pixel, so that no rounding depends on the batch."""

    def call(self, images):
        return 0.5 + 0.5 * ops.sin(4.0 * images + 3.0 * ops.roll(images, 1, axis=1))


# B13: the strength of an attack does not depend on the batch ---------------------------------------------------------


@pytest.mark.parametrize("steps", [8, 40])
def test_b13_an_image_is_attacked_alone_as_in_a_batch(steps):
    ball, model = rc.WassersteinBall(gamma=1.5, steps=steps, method="adaptive", restarts=1), Smooth()
    together = numpy(ball.attack(model, IMAGES).objective)
    alone = np.concatenate([numpy(ball.attack(model, image[None]).objective) for image in IMAGES])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_b13_an_image_that_stops_waits_for_the_others_unchanged():
    """On the left an objective at its maximum from the start, on the right one that rises for long."""
    start = np.stack([np.full((2, 2, 1), 0.5), np.full((2, 2, 1), 0.1)]).astype("float32")

    def objective(x):
        flat = ops.reshape(x, (-1, 4))
        return -ops.sum(ops.square(flat - 0.5), axis=1) * 1e-3 + 1.0

    both = ascent.adaptive_ascent(objective, ops.convert_to_tensor(start), 80)
    for row in range(2):
        one = ascent.adaptive_ascent(objective, ops.convert_to_tensor(start[row : row + 1]), 80)
        np.testing.assert_array_equal(numpy(one.points)[0], numpy(both.points)[row])


def test_b13_the_gain_is_that_of_the_ascent_that_still_gains():
    one = ascent.Ascent(ops.zeros((1, 2, 2, 1)), ops.ones(1), 5, 0.0)
    other = ascent.Ascent(ops.ones((1, 2, 2, 1)), ops.zeros(1), 7, 0.25)
    assert float(one.better_of(other).gain) == float(other.better_of(one).gain) == 0.25


def test_b13_evaluations_give_an_image_the_same_worst_case_in_any_part(monkeypatch):
    whole = rc.worst_case_curve(Smooth(), IMAGES[:9], [1.5], steps=20, check=0).rows[1]
    monkeypatch.setattr(models.batches, "__defaults__", (4,))
    parts = rc.worst_case_curve(Smooth(), IMAGES[:9], [1.5], steps=20, check=0).rows[1]
    assert parts.distortion == pytest.approx(whole.distortion, rel=1e-5)
    assert parts.rho == pytest.approx(whole.rho, rel=1e-5)
