"""Dynamic Network Surgery against its definition, computed step by step in NumPy."""

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, small_data

STEPS, BAND, RATE, MOMENTUM = 200, 0.1, 0.05, 0.9


def numpy_gradients(weights, x, y):
    """Cross-entropy of tanh net logits: gradients for kernel 1, bias 1, kernel 2, bias 2."""
    k1, b1, k2, b2 = weights
    hidden = np.tanh(x @ k1 + b1)
    logits = hidden @ k2 + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    delta = (p - np.eye(4)[y]) / len(y)
    back = (delta @ k2.T) * (1 - hidden**2)
    return [x.T @ back, back.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)]


def numpy_threshold(weights, mask, sparsity, exact):
    if sparsity == 0:
        return -1.0
    if not exact:
        return np.quantile(np.abs(weights), sparsity)
    # Try every weight's own switching point: the first that leaves as many zeros as asked, counted by the rule itself.
    scores = np.sort((np.abs(weights) / np.where(mask, 1 - BAND, 1 + BAND)).ravel())
    wanted = round(sparsity * weights.size)
    for low, high in zip(scores[:-1], scores[1:], strict=True):
        a = (low + high) / 2
        if np.count_nonzero(~numpy_surgery(weights, mask, a)) == wanted:
            return high * (1 - 1e-6)
    raise AssertionError("no threshold leaves the zeros asked for")


def numpy_surgery(weights, mask, a):
    mask = mask.copy()
    mask[np.abs(weights) >= (1 + BAND) * a] = True
    mask[np.abs(weights) <= (1 - BAND) * a] = False
    return mask


def numpy_dns(start, x, y, batch_size, sparsity_at, frequency, draws, exact):
    dense = [w.astype("float64") for w in start]
    masks = [np.ones(w.shape, bool) for w in start]
    speed = [np.zeros_like(w) for w in dense]
    thresholds = {0: 0.0, 2: 0.0}
    for t in range(STEPS):
        rows = np.arange(t * batch_size, (t + 1) * batch_size) % len(y)
        gradients = numpy_gradients([w * m for w, m in zip(dense, masks, strict=True)], x[rows], y[rows])
        for i, gradient in enumerate(gradients):
            speed[i] = MOMENTUM * speed[i] - RATE * gradient
            dense[i] = dense[i] + speed[i]
        for position, i in enumerate((0, 2)):
            update_now = t % frequency == 0
            if update_now:
                thresholds[i] = numpy_threshold(dense[i], masks[i], sparsity_at(t), exact)
            if draws[t][position] < 1 / (1 + 0.2 * (t // 100)) or (exact and update_now):
                masks[i] = numpy_surgery(dense[i], masks[i], thresholds[i])
    return dense, masks


@pytest.mark.parametrize("exact", [True, False])
def test_two_hundred_steps_equal_a_numpy_calculation(exact):
    x, y = small_data()
    final, end, frequency, batch_size = 0.8, 120, 10, 16
    optimizer = rc.DNS(
        keras.optimizers.SGD(RATE, momentum=MOMENTUM),
        rc.PolynomialDecay(0.0, final, 0, end, frequency=frequency, hold=True),
        exact=exact,
        seed=5,
    )
    model = compiled(dense_net(), optimizer)
    start = model.get_weights()
    draws = [keras.ops.convert_to_numpy(optimizer.random_numbers(t, 2)) for t in range(STEPS)]
    assert np.std(draws) > 0.2  # chance is really at play: some steps of the second half operate and some do not
    model.fit(x, y, batch_size=batch_size, epochs=STEPS * batch_size // len(y), shuffle=False, verbose=0)
    dense, masks = numpy_dns(
        start, x, y, batch_size, lambda t: final * (1 - (1 - min(t, end) / end) ** 3), frequency, draws, exact
    )
    for p, i in zip(optimizer.pruned, (0, 2), strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(p.mask), masks[i])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(p.dense), dense[i], atol=2e-5)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(p.variable), dense[i] * masks[i], atol=2e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model.trainable_variables[1]), dense[1], atol=2e-5)


def test_a_cut_weight_comes_back_when_its_dense_value_has_grown():
    # One weight of two pulls towards 1 with a constant gradient; it starts as the smaller one and is cut.
    variable = keras.Variable(np.array([[0.1, 0.5]], "float32"), name="kernel")
    optimizer = rc.DNS(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0, frequency=1), update_probability=1.0)
    optimizer.build([variable])
    history = []
    for _ in range(8):
        gradient = np.array([[-1.0, 0.0]], "float32")
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        history.append(keras.ops.convert_to_numpy(variable)[0].copy())
    np.testing.assert_allclose(history[0], [0.0, 0.5], atol=1e-6)  # 0.2 < 0.5: cut
    np.testing.assert_allclose(history[-1], [0.9, 0.0], atol=1e-6)  # 0.9 > 0.5: back, and the other one went
    assert all(np.count_nonzero(row) == 1 for row in history)


def test_hysteresis_keeps_what_lies_within_the_band():
    # 0.52 against 0.5: larger, but by less than the band, so the mask of the step before stays.
    variable = keras.Variable(np.array([[0.4, 0.5]], "float32"), name="kernel")
    optimizer = rc.DNS(
        keras.optimizers.SGD(1.0), rc.ConstantSparsity(0.5, 0, frequency=1), update_probability=1.0, exact=True
    )
    optimizer.build([variable])
    for gradient in ([[0.0, 0.0]], [[-0.12, 0.0]]):
        optimizer.apply([keras.ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), [[0.0, 0.5]], atol=1e-6)


def test_published_threshold_leaves_fewer_zeros_than_the_target():
    # Uniform magnitudes: the zeros are those below 0.9 of the 0.9 quantile, a share of 0.81, not 0.9.
    values = np.random.default_rng(0).permutation(np.linspace(-1, 1, 10_000)).astype("float32").reshape(100, 100)
    zeros = {}
    for exact in (True, False):
        variable = keras.Variable(values, name="kernel")
        optimizer = rc.DNS(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.9, 0), update_probability=1.0, exact=exact)
        optimizer.build([variable])
        optimizer.apply([keras.ops.zeros((100, 100))], [variable])
        zeros[exact] = np.mean(keras.ops.convert_to_numpy(variable) == 0)
    assert zeros[True] == pytest.approx(0.9, abs=1e-4)
    assert zeros[False] == pytest.approx(0.81, abs=1e-3)


def test_masks_rest_once_the_schedule_has_made_its_last_update():
    x, y = small_data()
    optimizer = rc.DNS(
        keras.optimizers.SGD(0.5), rc.PolynomialDecay(0.0, 0.5, 0, 4, frequency=2), update_probability=1.0
    )
    model = compiled(dense_net(), optimizer)
    masks = []
    for _ in range(12):
        model.train_on_batch(x, y)
        masks.append([keras.ops.convert_to_numpy(p.mask) for p in optimizer.pruned])
    assert any((a != b).any() for a, b in zip(masks[3], masks[4], strict=True))
    assert not any((a != b).any() for later in masks[5:] for a, b in zip(masks[4], later, strict=True))


@pytest.mark.parametrize("exact", [True, False])
def test_equal_weights_are_cut_by_rank_or_by_the_published_quantile_all_kept(exact):
    variable = keras.Variable(np.full((4, 4), 0.3, "float32"), name="kernel")
    optimizer = rc.DNS(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0), exact=exact)
    optimizer.build([variable])
    optimizer.apply([keras.ops.zeros((4, 4))], [variable])
    for _ in range(3):  # the first half stays cut while the threshold stays
        expected = np.full((4, 4), 0.3, "float32")
        expected[: 2 * exact] = 0
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), expected)
        optimizer.apply([keras.ops.zeros((4, 4))], [variable])


def test_surgery_happens_as_often_as_its_probability():
    optimizer = rc.DNS(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0), seed=11)
    draws = np.stack([keras.ops.convert_to_numpy(optimizer.random_numbers(t, 5)) for t in range(400)])
    for t, expected in ((0, 1.0), (99, 1.0), (100, 1 / 1.2), (399, 1 / 1.6)):
        assert float(optimizer.update_probability(t)) == pytest.approx(expected)
    assert draws.min() >= 0 and draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.06)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.15  # variables do not share their luck


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"update_probability": 0.0}, "update_probability"),
        ({"update_probability": 1.5}, "update_probability"),
        ({"band": 1.0}, "band"),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), **options)
