import numpy as np
import pytest
from scipy import ndimage

import tf_robustcomp as rc
from tests.evaluation.toys import CENTRE, blur, gaussian_images, shrinking


@pytest.fixture(scope="module")
def model():
    return rc.Compressor(3, levels=4, width=2, image_shape=(16, 16, 1))


@pytest.fixture
def images(rng):
    return rng.random((7, 16, 16, 1)).astype("float32")


def test_the_curve_of_a_rotation_invariant_toy_is_flat(images):
    curve = rc.rotation_curve(blur, images, [-90, 0, 90, 180])
    values = [row.distortion for row in curve.rows]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)
    # At other angles the corners are cut, for any code: turn a disc instead.
    down, right = np.indices((64, 64)) - 31.5
    disc = np.repeat((down**2 + right**2 < 700)[None, :, :, None].astype("float32"), 3, axis=0)
    values = [row.distortion for row in rc.rotation_curve(blur, disc, np.arange(-180, 180, 15)).rows]
    assert np.ptp(values) < 0.02 * np.mean(values)


def test_every_angle_is_measured_on_the_whole_set(model, images, monkeypatch):
    from tf_robustcomp.evaluation import models as subjects

    monkeypatch.setattr(subjects, "BATCH", 3)
    curve = rc.rotation_curve({"m": model}, images, [0, 37, -120])
    assert [(row.strength, row.images, row.shift) for row in curve.rows] == [(a, 7, "angle") for a in (0, 37, -120)]
    for row in curve.rows:
        turned = np.stack([ndimage.rotate(image, row.strength, order=0, reshape=False) for image in images])
        squares = np.sum((turned - model.predict(turned, verbose=0)) ** 2, axis=(1, 2, 3))
        assert row.distortion == pytest.approx(squares.mean(), rel=1e-4)
        assert row.distortion_error == pytest.approx(squares.std(ddof=1) / np.sqrt(7), rel=1e-3)


def test_noise_has_the_energy_that_its_row_says(rng):
    images = gaussian_images(rng, count=300, deviation=0.0, side=16)
    curve = rc.noise_curve(shrinking(0.0), images, [0, 1, 4])
    assert [row.strength for row in curve.rows] == [0, 1, 4]
    for row in curve.rows:  # no pixel is clipped: the toy's distortion is the noise's energy
        assert row.rho == pytest.approx(row.strength, rel=0.02)
        assert row.distortion == pytest.approx(row.rho, rel=1e-4, abs=1e-6)


def test_every_model_meets_the_same_noise(images):
    curve = rc.noise_curve({"a": shrinking(0.3), "b": shrinking(0.3)}, images, [2.0])
    one, two = curve.rows
    assert (one.rho, one.distortion) == (two.rho, two.distortion)
    assert rc.noise_curve(shrinking(0.3), images, [2.0], seed=1).rows[0].rho != one.rho


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_norm_balls_of_a_linear_toy_meet_their_closed_form(norm, rng):
    images = gaussian_images(rng)
    epsilon, k = 0.05, 0.36
    away = np.abs(images - CENTRE)
    # The worst change points away from c: k (|z| + eps)^2 in the 2-norm, k sum (|z_i| + eps)^2 in the greatest.
    by_norm = {
        "l2": k * (np.sqrt(np.sum(away**2, axis=(1, 2, 3))) + epsilon) ** 2,
        "linf": k * np.sum((away + epsilon) ** 2, axis=(1, 2, 3)),
    }
    (row,) = rc.lp_curve(shrinking(0.4), images, [epsilon], norm=norm, steps=40).rows
    assert row.distortion == pytest.approx(by_norm[norm].mean(), rel=0.01)
    assert row.shift == norm and row.strength == epsilon


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda toy, x: rc.rotation_curve(toy, x, [np.inf]), "angles must be finite"),
        (lambda toy, x: rc.rotation_curve(toy, x, []), "angles must be finite"),
        (lambda toy, x: rc.noise_curve(toy, x, [-1]), "rhos must be numbers >= 0"),
        (lambda toy, x: rc.lp_curve(toy, x, [0]), "epsilon must be > 0"),
        (lambda toy, x: rc.lp_curve(toy, x, [1], norm="l7"), "norm must be"),
        (lambda toy, x: rc.rotation_curve(toy, x[0], [1]), "must have shape"),
    ],
)
def test_bad_arguments_are_refused(call, message, images):
    with pytest.raises(rc.InvalidArgument, match=message):
        call(shrinking(0.5), images)
