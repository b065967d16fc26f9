"""The Wasserstein ball against calculations by hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from keras import ops

from tf_robustcomp.adversaries import AttackResult, WassersteinBall
from tf_robustcomp.backend import keras_private
from tf_robustcomp.compression import Compressor
from tf_robustcomp.utils.errors import InvalidArgument

rng = np.random.default_rng(3)
MIXING = rng.normal(size=(4, 4)).astype("float32")
IMAGES = rng.uniform(size=(6, 2, 2, 1)).astype("float32")


def toy(images):
    """A small smooth model: y = tanh(x A), on four pixels."""
    flat = ops.reshape(images, (-1, 4))
    return ops.reshape(ops.tanh(ops.matmul(flat, ops.convert_to_tensor(MIXING))), (-1, 2, 2, 1))


def objective_by_hand(x, clean, gamma):
    """Objective and gradient in NumPy, for rows of four pixels, in double precision."""
    y = np.tanh(x @ MIXING)
    error = x - y
    value = (error**2).sum(1) - gamma * ((x - clean) ** 2).sum(1)
    gradient = 2 * error - (2 * error * (1 - y**2)) @ MIXING.T - 2 * gamma * (x - clean)
    return value, gradient


@pytest.mark.parametrize("gamma", [0.7, 1.3])
def test_fifteen_steps_equal_a_calculation_step_by_step(gamma):
    clean = IMAGES.reshape(-1, 4).astype("float64")
    x = clean
    for i in range(1, 16):
        x = np.clip(x + objective_by_hand(x, clean, gamma)[1] / np.sqrt(i), 0, 1)
    worse = objective_by_hand(x, clean, gamma)[0] > objective_by_hand(clean, clean, gamma)[0]
    assert worse.sum() >= 3  # the guard must not hide the steps
    x = np.where(worse[:, None], x, clean)
    result = WassersteinBall(gamma, 15).attack(toy, IMAGES)
    np.testing.assert_allclose(ops.convert_to_numpy(result.x).reshape(-1, 4), x, atol=2e-5)
    expected = objective_by_hand(x, clean, gamma)[0]
    np.testing.assert_allclose(ops.convert_to_numpy(result.objective), expected, atol=1e-4)
    assert int(result.evaluations) == 15


def test_the_adaptive_method_reaches_the_maximum_of_a_concave_objective():
    """f = 0: the objective sum x^2 - gamma |x - x0|^2 has its maximum at x0 gamma / (gamma - 1), clipped."""
    result = WassersteinBall(4.0, 60, method="adaptive").attack(lambda x: 0 * x, IMAGES)
    np.testing.assert_allclose(ops.convert_to_numpy(result.x), np.clip(IMAGES * 4 / 3, 0, 1), atol=1e-2)
    assert int(result.evaluations) < 60  # it stopped by itself
    assert float(result.gain) < 1e-3


def stairs(x):
    """A rough model, as a quantiser makes it."""
    return ops.round(4.0 * x) / 4.0 + 0.3 * toy(x)


@pytest.mark.parametrize("gamma", [0.4, 1.0, 1.5])
@pytest.mark.parametrize("model", [toy, stairs])
def test_eight_adaptive_evaluations_reach_what_fifteen_published_steps_do(model, gamma):
    paper = WassersteinBall(gamma, 15).attack(model, IMAGES)
    adaptive = WassersteinBall(gamma, 8, method="adaptive", restarts=0).attack(model, IMAGES)
    assert float(ops.mean(adaptive.objective)) >= float(ops.mean(paper.objective))


def test_the_adaptive_method_beats_the_steps_of_the_paper_on_a_rough_objective():
    paper = WassersteinBall(1.5, 15).attack(stairs, IMAGES)
    adaptive = WassersteinBall(1.5, 30, method="adaptive").attack(stairs, IMAGES)
    assert float(ops.mean(adaptive.objective)) > 1.02 * float(ops.mean(paper.objective))


@pytest.mark.parametrize("gamma", [0.4, 0.7, 1.3])
@pytest.mark.parametrize("steps", [8, 10, 11])
def test_adaptive_steps_equal_a_calculation_image_by_image(gamma, steps):
    """Ten evaluations and less climb by the sure length, more explore by Barzilai and Borwein's."""
    found = [adaptive_by_hand(x, gamma, steps) for x in IMAGES.reshape(-1, 4).astype("float64")]
    points, values = zip(*found, strict=True)
    result = WassersteinBall(gamma, steps, method="adaptive", restarts=0).attack(toy, IMAGES)
    np.testing.assert_allclose(ops.convert_to_numpy(result.x).reshape(-1, 4), points, atol=1e-3)
    np.testing.assert_allclose(ops.convert_to_numpy(result.objective), values, rtol=1e-3, atol=1e-4)


def adaptive_by_hand(clean, gamma, steps):
    """Best point and its objective, for one row of four pixels."""
    first, momentum, growth = (5.0, 0.4, 1.5) if steps <= 10 else (3.0, 0.3, 2.0)

    def evaluated(x):
        value, gradient = objective_by_hand(x[None], clean[None], gamma)
        return value[0], gradient[0]

    value, gradient = evaluated(clean)
    here, best, length, move, losses = clean, (value, clean, gradient), first, 0.0, 0
    for _ in range(steps - 1):
        there = np.clip(here + length * gradient + momentum * move, 0, 1)
        value, after = evaluated(there)
        move, change = there - here, after - gradient
        if move @ change > 0:
            length *= growth
        elif steps <= 10:
            length = 1.35 * np.linalg.norm(move) / np.sqrt(change @ change + 1e-9)
        else:
            length = move @ move / (abs(move @ change) + 1e-9)
        losses = 0 if value > best[0] else losses + 1
        best = max(best, (value, there, after), key=lambda found: found[0])
        here, gradient = there, after
        if losses == 5:
            _, here, gradient = best
            move, length, losses = 0.0, 0.3 * length, 0
        length = np.clip(length, 0.01, 20)
    return best[1], best[0]


def test_more_restarts_never_lose():
    means = [
        float(ops.mean(WassersteinBall(1.5, 8, method="adaptive", restarts=k).attack(toy, IMAGES).objective))
        for k in range(3)
    ]
    assert means == sorted(means)


def test_dual_ascent_moves_gamma_towards_the_wanted_radius():
    ball = WassersteinBall(rho=2.0, dual_rate=0.1)
    assert float(ball.gamma) == 1.0

    def measured(radius):
        values = [ops.zeros(4)] * len(AttackResult._fields)
        return AttackResult(*values)._replace(radius=ops.full((4,), radius))

    ball.adapt(measured(6.0))  # too far: (6 - 2) / (6 + 2) = 1/2
    np.testing.assert_allclose(float(ball.gamma), np.exp(0.05), rtol=1e-6)
    ball.adapt(measured(6.0), weight=0.0)  # a batch that was not attacked
    np.testing.assert_allclose(float(ball.gamma), np.exp(0.05), rtol=1e-6)
    ball.adapt(measured(0.0))  # nothing moved: gamma falls as fast as it may
    np.testing.assert_allclose(float(ball.gamma), np.exp(-0.05), rtol=1e-6)


@pytest.mark.slow
def test_dual_ascent_meets_rho_on_a_toy():
    """f = 0, far from the borders: ||x' - x||^2 = ||x||^2 / (gamma - 1)^2, so gamma is known."""
    images = np.full((4, 4, 4, 1), 0.1, "float32")
    ball = WassersteinBall(rho=0.04, steps=60, dual_rate=0.2, method="adaptive", restarts=0)
    for _ in range(40):
        result = ball.attack(lambda x: 0 * x, images)
        ball.adapt(result)
    np.testing.assert_allclose(float(ops.mean(result.radius)), 0.04, rtol=0.05)
    np.testing.assert_allclose(float(ball.gamma), 1 + np.sqrt(0.16 / 0.04), rtol=0.05)


def test_a_new_price_is_used_without_a_new_trace(rng):
    model = Compressor(2, levels=4, width=2, image_shape=(16, 16, 1))
    images = rng.random((3, 16, 16, 1)).astype("float32")
    adversary = WassersteinBall(gamma=3.0, steps=3)
    adversary.attack(model, images)
    traced = dict(adversary._attacks[model])
    adversary.gamma = 0.5
    result = adversary.attack(model, images)
    expected = WassersteinBall(gamma=0.5, steps=3).attack(model, images)
    np.testing.assert_array_equal(ops.convert_to_numpy(result.x), ops.convert_to_numpy(expected.x))
    assert adversary._attacks[model] == traced and adversary.get_config()["gamma"] == 0.5
    with pytest.raises(InvalidArgument, match="gamma must be > 0"):
        adversary.gamma = 0
    with pytest.raises(InvalidArgument, match="tuned to rho"):
        WassersteinBall(rho=1.0).gamma = 2.0


@pytest.mark.slow
def test_climbing_in_bfloat16_reaches_nearly_the_same_and_leaves_the_model_as_it_was(rng):
    model = Compressor(4, levels=8, width=8, image_shape=(16, 16, 1))
    images = rng.random((24, 16, 16, 1)).astype("float32")
    model.compile("adam")
    model.fit(images, epochs=3, verbose=0)
    before = [layer.dtype_policy.name for layer in keras_private.all_layers(model)]
    outputs = ops.convert_to_numpy(model(images))
    results = [
        WassersteinBall(2.0, steps=9, method="adaptive", restarts=0, precision=precision).attack(model, images)
        for precision in ("float32", "bfloat16")
    ]
    one, two = (float(ops.mean(result.objective)) for result in results)
    assert two == pytest.approx(one, rel=0.1)
    one, two = (ops.convert_to_numpy(result.x) for result in results)
    assert not np.array_equal(one, two)  # it did climb in another precision
    assert [layer.dtype_policy.name for layer in keras_private.all_layers(model)] == before
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images)), outputs)
    # What is reported was measured in float32.
    x = results[1].x
    reached = ops.convert_to_numpy(model.distortion(x, model(x)))
    np.testing.assert_allclose(ops.convert_to_numpy(results[1].distortion), reached, rtol=1e-5)
    with pytest.raises(InvalidArgument, match="precision must be"):
        WassersteinBall(1.0, precision="float8")


@pytest.mark.parametrize("precisions", [("float32", "bfloat16")])
@pytest.mark.slow
def test_two_attacks_in_two_threads_do_not_disturb_each_other(precisions, rng):
    model = Compressor(4, levels=8, width=8, image_shape=(16, 16, 1))
    images = rng.random((2, 6, 16, 16, 1)).astype("float32")

    def attack(job):
        precision, batch = job
        adversary = WassersteinBall(1.5, steps=12, method="adaptive", precision=precision)
        results = [adversary.attack(model, batch, step) for step in range(4)]
        return [ops.convert_to_numpy(result.x) for result in results]

    jobs = list(zip(precisions, images, strict=True))
    alone = [attack(job) for job in jobs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(attack, jobs))
    np.testing.assert_array_equal(together, alone)
