"""Common corruptions: what each of them must be, and what all of them keep."""

import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.data.corruptions import SEVERITIES, corrupted, corruptions

NAMES = list(corruptions())


@pytest.fixture
def images(rng):
    """Smooth colour images, three times the same."""
    places = np.linspace(0, 3, 32)
    image = 0.5 + 0.25 * np.stack([np.sin(places[:, None] * k + places) for k in (1, 2, 3)], axis=2)
    return np.stack(3 * [image]).astype("float32")


def test_there_are_fourteen_of_the_fifteen():
    assert len(NAMES) == 14 and "frost" not in NAMES and {"snow", "fog", "glass_blur", "jpeg_compression"} <= set(NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_images_stay_images_and_the_same_seed_gives_the_same(images, name, channels):
    images = images[..., :channels]
    for severity in SEVERITIES:
        changed = corrupted(images, name, severity)
        assert changed.shape == images.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1 and np.isfinite(changed).all()
        np.testing.assert_array_equal(corrupted(images[:2], name, severity), changed[:2])
    assert np.abs(changed - images).max() > 1e-3


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"glass_blur", "motion_blur", "fog", "elastic_transform", "snow"}))
def test_a_higher_severity_is_further_away(images, name):
    away = [np.mean((corrupted(images, name, severity) - images) ** 2.0) for severity in SEVERITIES]
    assert away == sorted(away)


def test_noises_are_those_that_they_are_named_for():
    grey = np.full((4, 64, 64, 1), 0.5, "float32")
    assert np.std(corrupted(grey, "gaussian_noise", 3)) == pytest.approx(0.08, rel=0.03)
    assert np.std(corrupted(grey, "shot_noise", 3)) == pytest.approx(np.sqrt(0.5 / 100), rel=0.03)
    impulses = corrupted(grey, "impulse_noise", 5)
    for value in (0, 1):
        assert np.mean(impulses == value) == pytest.approx(0.035, rel=0.2)
    assert len({corrupted(grey, "gaussian_noise", 3, seed)[0, 0, 0, 0] for seed in range(3)}) == 3
    assert not np.array_equal(*corrupted(grey, "gaussian_noise", 3)[:2])


def test_light_has_its_formula(images):
    np.testing.assert_allclose(corrupted(images, "brightness", 2), np.clip(images + 0.1, 0, 1), atol=1e-6)
    mean = images.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(corrupted(images, "contrast", 4), mean + 0.3 * (images - mean), atol=1e-5)


@pytest.mark.parametrize("name", [*(name for name in NAMES if "blur" in name), "elastic_transform", "pixelate"])
def test_a_plain_image_is_not_changed_by_blurs(name):
    grey = np.full((1, 32, 32, 3), 0.3, "float32")
    np.testing.assert_allclose(corrupted(grey, name, 5), grey, atol=1e-5)


def test_glass_moves_pixels_and_makes_no_new_ones():
    image = np.random.default_rng(0).random((1, 16, 16, 1)).astype("float32")
    changed = corrupted(image, "glass_blur", 1)  # its blur of 0.05 pixels does nothing
    np.testing.assert_allclose(np.sort(changed.ravel()), np.sort(image.ravel()), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("frost", 1), "corruption must be"), (("fog", 0), "severity must be"), (("fog", 6), "severity must be 1 to 5")],
)
def test_bad_arguments_are_refused(images, arguments, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        corrupted(images, *arguments)
