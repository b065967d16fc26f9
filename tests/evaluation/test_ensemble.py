"""The ensemble of attacks: at least each of its members, the same for every image, and honest about what it is not."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tests.compression.test_bitstream import MAKERS, pictures, spread
from tests.evaluation.toys import gaussian_images, shrinking
from tf_robustcomp.evaluation.ensemble import ADAPTIVE, Ensemble, starts

GAMMAS = [4.0, 1.5]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    return spread(MAKERS["standard"]())


@pytest.fixture(scope="module")
def images(model):
    return pictures(model, 12, seed=2)


def objective(ensemble, gamma):
    radius, distortion = ensemble.points.best(gamma)
    return distortion - gamma * radius


def waves(x):
    """A map whose distortion has many maxima in every pixel."""
    return 0.5 + 0.2 * ops.sin(40 * x)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.slow
def test_it_finds_at_least_what_the_adaptive_ascent_finds(model, images, gamma):
    for attacked, least in ((model, 0.999), (waves, 1.01)):
        ensemble = Ensemble(attacked, images, 1)
        ensemble.climb(gamma / 10 if attacked is waves else gamma)
        alone = rc.WassersteinBall(gamma / 10 if attacked is waves else gamma, 100, method="adaptive")
        alone = ops.convert_to_numpy(alone.attack(attacked, images).objective)
        found = objective(ensemble, gamma / 10 if attacked is waves else gamma)
        assert (found >= alone - 1e-3 * np.abs(alone)).all() and found.mean() >= least * alone.mean()
        assert sum(member.won for member in ensemble.members) <= 1 + 1e-9


def test_what_it_reports_is_measured_on_the_model(model, images):
    ensemble = Ensemble(model, images, 1, steps=20)
    ensemble.climb(2.0)
    worst = ensemble.worst
    assert worst.min() >= 0 and worst.max() <= 1
    decoded = ops.convert_to_numpy(model(worst))
    value = np.sum((worst.astype("float64") - decoded) ** 2, axis=(1, 2, 3)) - 2.0 * np.sum(
        (worst.astype("float64") - images) ** 2, axis=(1, 2, 3)
    )
    np.testing.assert_allclose(value, objective(ensemble, 2.0), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_image_has_the_same_worst_case_alone_and_among_others(model, images):
    together = Ensemble(model, images, 1)
    together.climb(1.5)
    alone = Ensemble(model, images[3:4], 1)
    alone.climb(1.5)
    assert objective(alone, 1.5)[0] == pytest.approx(objective(together, 1.5)[3], rel=0.02)


@pytest.mark.slow
def test_more_prices_and_more_steps_do_not_lower_the_curve(model, images):
    first, few, prices, steps = (
        rc.worst_case_curve(model, images, gammas, steps=count, check=0)
        for gammas, count in ((GAMMAS[:1], 30), (GAMMAS, 30), ([4.0, 2.5, 1.5, 1.0], 30), (GAMMAS[:1], 90))
    )
    rhos = np.linspace(0, few.rows[-1].rho, 9)
    assert (few.at(rhos) >= first.at(rhos) * (1 - 1e-6)).all() and few.at(rhos[-1]) > first.at(rhos[-1])
    assert (steps.at(rhos) >= first.at(rhos) * (1 - 1e-6)).all()
    assert (prices.at(rhos) >= 0.99 * few.at(rhos)).all()  # another price before means another start


def test_points_of_another_model_are_starts(model, images):
    source = np.clip(images + 0.5 * np.sign(images - 0.5), 0, 1).astype("float32")
    ensemble = Ensemble(model, images, 1, steps=2, sources=[source])
    ensemble.climb(1.5)
    assert "Adam from source 1" in {member.name for member in ensemble.members}
    value = np.sum((source - ops.convert_to_numpy(model(source))) ** 2.0, axis=(1, 2, 3))
    value -= 1.5 * np.sum((source - images) ** 2.0, axis=(1, 2, 3))
    assert (objective(ensemble, 1.5) >= value - 1e-3).all()


def test_starts_are_images_and_their_noise_is_one_for_all(images):
    for start in starts(images, 0).values():
        assert start.shape == images.shape and start.dtype == np.float32 and start.min() >= 0 and start.max() <= 1
    noise = starts(images, 0)["Adam from binary noise"]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert not np.array_equal(noise, starts(images, 1)["Adam from binary noise"])


def test_verdicts_name_what_was_missed(images):
    small = gaussian_images(np.random.default_rng(0), count=6)
    sure = Ensemble(shrinking(0.5), small, 1)
    sure.climb(1.0)
    assert sure.verdict() == "converged"
    rng = np.random.default_rng(0)

    def noisy(images):
        noise = rng.normal(scale=0.01, size=images.shape)
        return shrinking(0.5)(images) + ops.convert_to_tensor(noise.astype("float32"))

    ensemble = Ensemble(noisy, small, 1, steps=10)
    ensemble.climb(1.0)
    assert ensemble.verdict().startswith("random: gradients are means of 8 calls")
    still = Ensemble(waves, images[:, :8, :8], 1, steps=12)
    still.climb(0.2)
    assert "not converged: " in still.verdict() and " still gained " in still.verdict()
    for steps in (1, 3):
        few = Ensemble(waves, images[:, :8, :8], 1, steps=steps)
        few.climb(0.2)
        assert few.verdict().startswith("not converged")
    nothing = Ensemble(lambda x: x, small, 1, steps=12)
    nothing.climb(1.0)
    assert nothing.verdict() == "nothing found: the gradient may be zero"


@pytest.mark.slow
def test_members_that_win_nothing_twice_are_left_out(images):
    small = gaussian_images(np.random.default_rng(0), count=6)
    ensemble = Ensemble(shrinking(0.5), small, 1)
    counts = [ensemble.climb(gamma) for gamma in (4.0, 3.0, 2.0)]
    assert counts[2] < counts[0]
    assert len(ensemble.members) < 6 or ADAPTIVE not in {member.name for member in ensemble.members}


def test_values_that_are_not_finite_are_refused(images):
    def broken(x):
        return ops.where(ops.mean(x, axis=(1, 2, 3), keepdims=True) > 0.6, float("nan"), 0.5 * x)

    with pytest.raises(rc.InvalidArgument, match="NaN or infinite"):
        rc.worst_case_curve(broken, 0.5 * images, [0.1], check=0)


@pytest.mark.slow
def test_the_worst_case_at_a_radius_finds_its_prices(model, images):
    factor = 0.5
    toys = gaussian_images(np.random.default_rng(0), count=6)
    clean = (1 - factor) ** 2 * np.sum((toys - 0.5) ** 2.0, axis=(1, 2, 3)).mean()
    rho = 0.01
    curve = rc.worst_case_at(shrinking(factor), toys, rho, climbs=8, steps=40, check=0)
    exact = (np.sqrt(clean) + (1 - factor) * np.sqrt(rho)) ** 2  # all images move away from grey in proportion
    assert curve.at(rho) == pytest.approx(exact, rel=0.02)
    gammas = [row.gamma for row in curve.rows]
    assert gammas == sorted(gammas, reverse=True) and gammas[0] == np.inf
    quick = {"attack": "converged", "steps": 20, "check": 0}
    listed = rc.worst_case_curve(model, images, [8.0, 0.5], **quick)
    assert rc.worst_case_at(model, images, 4.0, **quick).at(4.0) >= 0.99 * listed.at(4.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0,), "rho must be > 0"), ((1.0, 1), "climbs must be"), ((-1.0,), "rho must be > 0")],
)
def test_radii_that_are_none_are_refused(images, arguments, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.worst_case_at(shrinking(0.5), images, *arguments)
    with pytest.raises(rc.InvalidArgument, match="one model of one stage"):
        rc.worst_case_at([shrinking(0.5), shrinking(0.4)], images, 1.0)
