"""Ceilings: valid for every image, tight where the theory says so, and above everything that an attack finds."""

import itertools
import math

import keras
import numpy as np
import pytest
from scipy.optimize import linprog

import tf_robustcomp as rc
from tests.compression.test_bitstream import MAKERS, pictures, spread
from tests.compression.test_encoders import lively
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.evaluation import certificates
from tf_robustcomp.evaluation.list_bound import linf_bound, wasserstein_bound
from tf_robustcomp.evaluation.points import AttackedPoints

PIXELS = 3
GRID = np.stack(np.meshgrid(*PIXELS * [np.linspace(0, 1, 41)], indexing="ij"), axis=-1).reshape(-1, PIXELS)


@pytest.fixture
def x(rng):
    return rng.random((8, PIXELS))


@pytest.fixture
def codewords(rng):
    return rng.random((8, 5, PIXELS))


@pytest.fixture(scope="module")
def model():
    return lively()


@pytest.fixture(scope="module")
def images(model):
    return pictures(model, 30, seed=2)


@pytest.fixture(scope="module")
def encoder(model):
    return rc.ListEncoder.fit(model, pictures(model, 60, seed=5))


def squares(images, decoded):
    return np.sum((images.astype("float64") - decoded) ** 2, axis=(1, 2, 3))


def nearest(grid, codewords):
    """The squared distance of each point of a grid to the nearest codeword."""
    return np.sum((grid[:, None] - codewords) ** 2, axis=-1).min(axis=1)


@pytest.mark.parametrize("gamma", [0.3, 0.9, 1.0, 1.1, 1.7, 4.0])
def test_a_bound_is_above_the_maximum_and_meets_it_above_price_one(x, codewords, gamma):
    found = wasserstein_bound(x, codewords, gamma, iterations=300)
    for one, own, value, worst in zip(x, codewords, found.value, found.worst, strict=True):
        greatest = np.max(nearest(GRID, own) - gamma * np.sum((GRID - one) ** 2, axis=1))
        assert value >= greatest - 1e-9
        if gamma > 1:  # the grid is 0.025 wide, so its greatest value is nearly the maximum
            assert value <= greatest + 0.02
            reached = nearest(worst[None], own)[0] - gamma * np.sum((worst - one) ** 2)
            assert reached == pytest.approx(value, abs=5e-3)


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 0.7])
def test_a_bound_for_a_ball_of_the_greatest_change_is_above_the_maximum(x, codewords, epsilon):
    found = linf_bound(x, codewords, epsilon, iterations=30)
    for one, own, value in zip(x, codewords, found.value, strict=True):
        ends = np.clip([one - epsilon, one + epsilon], 0, 1)
        corners = np.array(list(itertools.product(*ends.T)))
        assert value >= nearest(corners, own).max() - 1e-9
    alone = linf_bound(x, codewords[:, :1], epsilon)  # a single codeword: the furthest corner, exactly
    for one, own, value in zip(x, codewords[:, :1], alone.value, strict=True):
        corners = np.array(list(itertools.product(*np.clip([one - epsilon, one + epsilon], 0, 1).T)))
        assert value == pytest.approx(nearest(corners, own).max())


def test_one_codeword_away_from_the_borders_has_the_closed_form(rng):
    x, codeword = 0.5 + 0.01 * rng.random((6, PIXELS)), 0.5 + 0.01 * rng.random((6, 1, PIXELS))
    distance = np.sum((x - codeword[:, 0]) ** 2, axis=1)
    for gamma in (1.5, 3.0):
        found = wasserstein_bound(x, codeword, gamma)
        np.testing.assert_allclose(found.value, gamma / (gamma - 1) * distance, rtol=1e-6)
    rho = 1e-4  # the least of gamma rho + gamma / (gamma - 1) D over gamma is (sqrt D + sqrt rho)^2
    gammas = 1 + np.geomspace(0.01, 100, 2000)
    least = min(gamma * rho + wasserstein_bound(x[:1], codeword[:1], gamma, 0).value[0] for gamma in gammas)
    assert least == pytest.approx((math.sqrt(distance[0]) + math.sqrt(rho)) ** 2, rel=1e-4)


@pytest.mark.parametrize("iterations", [0, 1, 3, 10])
def test_more_steps_never_raise_a_bound(x, codewords, iterations):
    less = wasserstein_bound(x, codewords, 1.3, iterations)
    more = wasserstein_bound(x, codewords, 1.3, iterations + 5)
    assert (more.value <= less.value + 1e-12).all()
    np.testing.assert_allclose(less.weights.sum(axis=1), 1)


def test_the_worst_mixture_is_that_of_a_linear_programme(rng):
    points = AttackedPoints.clean(rng.random(6))
    for _ in range(4):
        points = points.with_point(rng.random(6) * 3, rng.random(6) * 5, "one")
    radius, distortion = (np.concatenate([part, np.zeros((6, 0))], axis=1) for part in points[:2])
    count = radius.size
    per_image = np.kron(np.eye(6), np.ones(5))
    for rho in (0.0, 0.2, 0.7, 1.5, 10.0):
        solved = linprog(
            -distortion.ravel() / 6,
            A_ub=[radius.ravel() / 6],
            b_ub=[rho],
            A_eq=per_image,
            b_eq=np.ones(6),
            bounds=count * [(0, None)],
        )
        assert points.at(rho) == pytest.approx(-solved.fun)
    more = points.with_point(rng.random(6), rng.random(6) * 9, "other")
    rhos = np.linspace(0, 5, 40)
    assert (more.at(rhos) >= points.at(rhos) - 1e-12).all()


@pytest.mark.slow
def test_no_attack_is_above_the_ceiling(model, images, encoder):
    """A thousand random attacks, and those of the network at many prices."""
    rng = np.random.default_rng(0)
    radii = [0.5, 2, 8, 30]
    both = rc.BestOf([encoder, rc.SearchEncoder(gradient_steps=0, sweeps=1)])
    curves = {name: rc.certified_curve(model, images, radii, one) for name, one in (("list", encoder), ("both", both))}
    ceilings = {name: ([0, *radii], [0, *(row.ceiling for row in curve.rows)]) for name, curve in curves.items()}

    def ceiling(name, rho):  # concave in rho, so not below the chord
        return next(value for radius, value in zip(*ceilings[name], strict=True) if rho <= radius)

    attacks = []
    for number in range(1000):
        noise = rng.normal(size=images.shape)
        if number % 4 == 1:
            noise = np.sign(noise)
        if number % 4 == 2:
            noise = np.full_like(noise, rng.normal())
        if number % 4 == 3:
            noise = rng.random(images.shape) - images
        attacks.append(np.clip(images + rng.random() ** 2 * noise, 0, 1).astype("float32"))
    rhos = [squares(images, changed).mean() for changed in attacks]
    attacks = [changed for changed, rho in zip(attacks, rhos, strict=True) if rho <= radii[-1]]
    assert len(attacks) > 500
    for name, one, some in (("list", encoder, attacks), ("both", both, attacks[::20])):
        coded = decode_all(model, one(model, np.concatenate(some))).reshape(len(some), *images.shape)
        for changed, decoded in zip(some, coded, strict=True):
            assert squares(changed, decoded).mean() <= ceiling(name, squares(images, changed).mean())
    for gamma in (4.0, 1.5, 1.0, 0.5):
        changed = np.asarray(
            keras.ops.convert_to_numpy(rc.WassersteinBall(gamma, 20, method="adaptive")(model, images))
        )
        rho = squares(images, changed).mean()
        if rho <= radii[-1]:
            assert squares(changed, decode_all(model, encoder(model, changed))).mean() <= ceiling("list", rho)


def test_floor_and_ceiling_of_a_list_meet(model, images, encoder):
    curve = rc.certified_curve(model, images, [0.5, 2, 8], encoder)
    for row in curve.rows:
        assert row.clean <= row.floor <= row.ceiling
        assert row.gap <= 0.03 * row.ceiling
    floors = [row.floor for row in curve.rows]
    assert floors == sorted(floors)
    assert rc.CertifiedCurve.from_records(curve.to_records()) == curve


@pytest.mark.parametrize(("ball", "radii"), [("l2", [0.3, 1.5]), ("linf", [0.02, 0.2])])
@pytest.mark.slow
def test_other_balls_have_floors_and_ceilings(model, images, encoder, ball, radii):
    curve = rc.certified_curve(model, images, radii, encoder, ball=ball)
    rng = np.random.default_rng(1)
    for row in curve.rows:
        assert row.clean <= row.floor <= row.ceiling
        for _ in range(30):
            noise = rng.normal(size=images.shape) if ball == "l2" else rng.choice([-1, 1], images.shape)
            scale = np.sqrt(np.sum(noise**2, axis=(1, 2, 3), keepdims=True)) if ball == "l2" else 1
            changed = np.clip(images + row.radius * noise / scale, 0, 1).astype("float32")
            assert squares(changed, decode_all(model, encoder(model, changed))).mean() <= row.ceiling


def test_the_statement_for_the_distribution_is_that_of_maurer_and_pontil():
    values = np.random.default_rng(0).random(50) * 3
    variance = np.sum((values[:, None] - values) ** 2) / (2 * 50 * 49)
    expected = values.mean() + math.sqrt(2 * variance * math.log(40) / 50) + 7 * 5.0 * math.log(40) / (3 * 49)
    assert certificates._upper_mean(values, 5.0, 0.95) == pytest.approx(expected)
    assert certificates._upper_mean(values[:1], 5.0, 0.95) == math.inf


@pytest.mark.slow
def test_every_stage_is_certified_on_its_own():
    keras.utils.set_random_seed(4)
    model = spread(MAKERS["refinement"]())
    images = pictures(model, 10, seed=2)
    encoder = rc.ListEncoder.fit(model, pictures(model, 30, seed=5))
    curve = rc.certified_curve(model, images, [1.0], encoder)
    assert [row.stage for row in curve.rows] == [1, 2]
    for row in curve.rows:
        codes = encoder(model, images, row.stage)
        clean = squares(images, decode_all(model, codes, row.stage)).mean()
        assert clean == pytest.approx(row.clean) and clean <= row.ceiling


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": rc.SearchEncoder()}, "encoder must scan a list"),
        ({"encoder": rc.ListEncoder(np.zeros((2, 4), int), b"1" * 16)}, "of another model"),
        ({"radii": [-1.0]}, "radii must be"),
        ({"radii": []}, "radii must be"),
        ({"ball": "l1"}, "ball must be"),
        ({"confidence": 1.0}, "confidence must lie"),
        ({"rounds": -1}, "rounds must be"),
    ],
)
def test_bad_arguments_are_refused(model, images, encoder, change, message):
    arguments = {"radii": [1.0], "encoder": encoder, **change}
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.certified_curve(model, images, arguments.pop("radii"), **arguments)


# Curves through an encoder.


@pytest.mark.slow
def test_an_attack_through_an_encoder_finds_at_least_the_network_s_images(model, images, encoder):
    gammas = [3.0, 1.5]
    curve = rc.worst_case_curve(model, images, gammas, steps=20, check=0, encoder=encoder)
    network = rc.worst_case_curve(model, images, gammas, steps=20, check=0)
    assert [row.attack for row in curve.rows] == ["none", "encoder", "encoder"]
    assert curve.rows[0].distortion <= network.rows[0].distortion * (1 + 1e-6)
    gains = []
    for row in curve.rows[1:]:
        changed = keras.ops.convert_to_numpy(rc.WassersteinBall(row.gamma, 20, method="adaptive")(model, images))
        through = squares(changed, decode_all(model, encoder(model, changed)))
        transferred = np.mean(through - row.gamma * squares(images, changed))
        gains.append((row.distortion - row.gamma * row.rho) / transferred)
    assert min(gains) >= 1 - 1e-6
    ceiling = rc.certified_curve(model, images, [row.rho for row in curve.rows[1:]], encoder)
    for row, bound in zip(curve.rows[1:], ceiling.rows, strict=True):
        assert 0.9 * bound.ceiling <= curve.at(row.rho) <= bound.ceiling


def test_shifted_images_are_coded_by_the_encoder(model, images, encoder):
    for curve in (rc.noise_curve, rc.rotation_curve):
        plain, better = (curve(model, images[:8], [0.0, 5.0], encoder=one) for one in (None, encoder))
        assert all(b.distortion <= p.distortion * (1 + 1e-5) for b, p in zip(better.rows, plain.rows, strict=True))
        assert better.rows[1].distortion < plain.rows[1].distortion


def test_functions_without_codes_take_no_encoder(images, encoder):
    with pytest.raises(rc.InvalidArgument, match="needs a compressor"):
        rc.noise_curve(lambda x: x * 0.5, images, [1.0], encoder=encoder)
