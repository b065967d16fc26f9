import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.evaluation.toys import CENTRE, gaussian_images, shrinking

FACTOR, K = 0.4, 0.36


@pytest.mark.slow
def test_the_dual_estimate_is_never_below_the_curve(rng):
    images = gaussian_images(rng)
    curve = rc.worst_case_curve(shrinking(FACTOR), images, [4.0, 2.0, 1.0, 0.6], check=0)
    rhos = [row.rho for row in curve.rows]
    for row in curve.rows[1:]:
        estimate = rc.dual_estimate(shrinking(FACTOR), images, row.gamma, rhos)
        values = [point.estimate for point in estimate.rows]
        assert np.all(np.array(values) >= curve.at(rhos) * (1 - 1e-3))
        assert values[rhos.index(row.rho)] == pytest.approx(row.distortion, rel=1e-3)


def test_the_dual_estimate_of_a_linear_toy_is_its_closed_form(rng):
    images = gaussian_images(rng)
    energy = np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3)).mean(dtype="float64")
    gamma = 1.5
    (point,) = rc.dual_estimate(shrinking(FACTOR), images, gamma, 2.0).rows
    assert point.estimate == pytest.approx(gamma * 2.0 + K * gamma / (gamma - K) * energy, rel=1e-3)


def test_at_the_attack_s_own_radius_it_is_the_attacked_distortion(rng):
    model = rc.Compressor(3, levels=4, width=2, image_shape=(16, 16, 1))
    images = rng.random((5, 16, 16, 1)).astype("float32")
    adversary = rc.WassersteinBall(gamma=0.7, steps=4)
    result = adversary.attack(model, images)
    rho = float(np.mean(keras.ops.convert_to_numpy(result.radius)))
    (point,) = rc.dual_estimate(model, images, 0.7, [rho], adversary=adversary).rows
    assert point.estimate == pytest.approx(float(np.mean(keras.ops.convert_to_numpy(result.distortion))), rel=1e-5)


@pytest.mark.parametrize(("gamma", "rhos", "message"), [(0, [1], "gamma must be > 0"), (1, [-1], "rhos must be")])
def test_bad_arguments_are_refused(gamma, rhos, message, rng):
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.dual_estimate(shrinking(FACTOR), gaussian_images(rng), gamma, rhos)
