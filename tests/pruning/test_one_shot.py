"""Pruning without training, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.sampling import sampled
from tf_robustcomp.pruning import layer_inputs
from tf_robustcomp.pruning.distributions import layer_adaptive

METHODS = ["magnitude", "wanda", "sparsegpt"]


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def one_dense(inputs=24, outputs=10):
    return keras.Sequential([layers.Input((inputs,)), layers.Dense(outputs, use_bias=False)])


def correlated(rng, count=200, inputs=24):
    return (rng.normal(size=(count, inputs)) @ rng.normal(size=(inputs, inputs))).astype("float32")


def small_cnn():
    return keras.Sequential(
        [
            layers.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, strides=2, padding="same", groups=2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def test_magnitude_cuts_the_smallest(rng):
    model = one_dense()
    before = values(model.weights[0])
    rc.prune(model, 0.5)
    after = values(model.weights[0])
    expected = np.abs(before) >= np.sort(np.abs(before).ravel())[120]
    np.testing.assert_array_equal(after, before * expected)


def test_wanda_cuts_within_each_output_by_weight_times_norm(rng):
    model, x = one_dense(), correlated(rng)
    before = values(model.weights[0])
    rc.prune(model, 0.5, "wanda", x)
    for output in range(10):
        score = np.abs(before[:, output]) * np.linalg.norm(x, axis=0)
        expected = before[:, output].copy()
        expected[np.argsort(score)[:12]] = 0
        np.testing.assert_array_equal(values(model.weights[0])[:, output], expected)


@pytest.mark.parametrize("pattern", sampled([None, rc.NM(2, 4)], 0))
@pytest.mark.slow
def test_sparsegpt_reconstructs_better_on_the_whole(rng, pattern):
    """Over ten draws: a greedy choice may lose at one, above all where one block spans all inputs."""
    errors = dict.fromkeys(METHODS, 0.0)
    for _ in range(10):
        x, first = correlated(rng), rng.uniform(-0.4, 0.4, size=(24, 10)).astype("float32")
        for method in METHODS:
            model = one_dense()
            model.weights[0].assign(first)
            chosen = rc.SparseGPT(block=4) if method == "sparsegpt" else method
            rc.prune(model, 0.5, chosen, x, pattern=pattern)
            after = values(model.weights[0])
            assert np.mean(after == 0) == pytest.approx(0.5)
            if pattern is not None:
                assert ((after.reshape(6, 4, 10) != 0).sum(axis=1) <= 2).all()
            errors[method] += np.linalg.norm(x @ (first - after)) ** 2
    assert errors["sparsegpt"] < 0.9 * errors["wanda"] and errors["sparsegpt"] < 0.9 * errors["magnitude"]


@pytest.mark.parametrize("place", [0, 3, 7])
def test_one_weight_removed_is_the_optimal_brain_surgeon(rng, place):
    """Inputs before the removed one stay; those after it change as the closed form says."""
    x = correlated(rng, inputs=8).astype("float64")
    model = one_dense(8, 1)
    w = rng.uniform(1, 2, size=8)
    w[place] = 1e-3
    model.weights[0].assign(w[:, None])
    w = values(model.weights[0]).astype("float64")[:, 0]
    method = rc.SparseGPT(damping=1e-3, block=8)
    rc.prune(model, 1 / 8, method, x.astype("float32"))
    x = x.astype("float32").astype("float64")
    h = x.T @ x
    h += 1e-3 * np.trace(h) / 8 * np.eye(8)
    inverse = np.linalg.inv(h[place:, place:])
    expected = w.copy()
    expected[place:] -= w[place] / inverse[0, 0] * inverse[:, 0]
    expected[place] = 0
    np.testing.assert_allclose(values(model.weights[0])[:, 0], expected, rtol=1e-5, atol=1e-7)


def test_blocks_do_not_change_updates_where_the_mask_is_given(rng):
    x, results, first = correlated(rng), [], None
    for block in (4, 8, 128):
        model = one_dense()
        first = values(model.weights[0]) if first is None else first
        model.weights[0].assign(first)
        rc.prune(model, 0.5, rc.SparseGPT(block=block), x, pattern=rc.NM(2, 4))
        results.append(values(model.weights[0]))
    np.testing.assert_allclose(results[0], results[2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(results[1], results[2], rtol=1e-4, atol=1e-6)


KERNELS = {
    "dense": (lambda: layers.Dense(5, use_bias=False), (3, 6)),
    "conv1d": (lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2, use_bias=False), (9, 4)),
    "conv2d": (lambda: layers.Conv2D(6, (3, 2), strides=2, padding="same", groups=2, use_bias=False), (7, 8, 4)),
    "conv3d": (lambda: layers.Conv3D(3, 2, use_bias=False), (4, 4, 4, 2)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (6, 6, 3)),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (3, 6)),
    "ellipsis": (lambda: layers.EinsumDense("...x,xy->...y", (5,)), (3, 6)),
    "grouped": (lambda: layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 6)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_inputs_times_matrix_are_the_layers_outputs(name, rng):
    make, shape = KERNELS[name]
    layer = make()
    x = rng.normal(size=(2, *shape)).astype("float32")
    expected = values(layer(x))
    view = layer_inputs.kernel_matrix(layer.weights[0])
    kernel = values(layer.weights[0])
    np.testing.assert_array_equal(view.kernel(view.matrix(kernel)), kernel)
    found = view.rows(x) @ view.matrix(kernel)  # (groups, places, outputs)
    if name == "grouped":
        expected = expected.transpose(1, 0, 2)
    else:
        expected = expected.reshape(-1, found.shape[0], found.shape[2]).transpose(1, 0, 2)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "lamp"])
def test_a_network_reaches_the_target(method, distribution, rng):
    model, x = small_cnn(), rng.normal(size=(40, 8, 8, 2)).astype("float32")
    rc.prune(model, 0.5, method, x, distribution=distribution)
    assert rc.sparsity_report(model, sizes=False).total.sparsity == pytest.approx(0.5, abs=0.02)
    assert not any("call" in vars(layer) for layer in model.layers)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.second, self.first = layers.Dense(4), layers.Dense(8, activation="relu")

    def call(self, x):
        return self.second(self.first(x))


def test_later_layers_see_pruned_inputs_in_a_subclassed_model(rng):
    model, x = Subclassed(), correlated(rng)
    model(x)
    before = values(model.second.kernel)
    rc.prune(model, 0.5, "wanda", x)
    hidden = np.maximum(x @ values(model.first.kernel) + values(model.first.bias), 0)
    scores = np.abs(before) * np.linalg.norm(hidden, axis=0)[:, None]
    expected = np.argsort(np.argsort(scores, axis=0), axis=0) >= 4
    np.testing.assert_array_equal(values(model.second.kernel) != 0, expected)


def test_layer_adaptive_scores_by_a_loop(rng):
    w = np.abs(rng.normal(size=50)).astype("float32")
    expected = [x**2 / sum(y**2 for y in w if y >= x) for x in w]
    np.testing.assert_allclose(values(layer_adaptive(ops.convert_to_tensor(w))), expected, rtol=1e-5)


def test_lamp_cuts_the_lowest_scores_of_all():
    model = keras.Sequential([layers.Input((8,)), layers.Dense(16), layers.Dense(4)])
    before = [values(layer.kernel) for layer in model.layers]
    rc.prune(model, 0.5, distribution="lamp")
    scores = [np.array([x**2 / np.sum(w[np.abs(w) >= abs(x)] ** 2) for x in w.ravel()]) for w in before]
    cut = np.sort(np.concatenate(scores))[96]
    for layer, score in zip(model.layers, scores, strict=True):
        np.testing.assert_array_equal(values(layer.kernel).ravel() != 0, score >= cut)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_recalibrated_moments_are_numpys(batch_size, rng):
    model, x = small_cnn(), rng.normal(3, 2, size=(40, 8, 8, 2)).astype("float32")
    rc.prune(model, 0.5)
    rc.recalibrate(model, x, batch_size)
    hidden = x
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            array = values(hidden)
            np.testing.assert_allclose(values(layer.moving_mean), array.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(values(layer.moving_variance), array.var((0, 1, 2)), rtol=1e-4, atol=1e-5)
        hidden = layer(hidden, training=False) if isinstance(layer, layers.BatchNormalization) else layer(hidden)


X = np.zeros((4, 24), "float32")
BAD = [
    (dict(method="wanda"), "data must be given"),
    (dict(sparsity=1.0), r"sparsity must lie in \[0, 1\)"),
    (dict(sparsity=-0.1), r"sparsity must lie in \[0, 1\)"),
    (dict(sparsity="much"), r"sparsity must lie in \[0, 1\)"),
    (dict(sparsity=0.999), "sparsity must leave a unit"),
    (dict(sparsity=0.99, method="wanda", data=X), "leave a unit of every output"),
    (dict(method="best"), "method must be one of .*, magnitude, wanda, sparsegpt, or"),
    (dict(method="wanda", data=X[:, 1:]), "data must have the model's input shapes"),
    (dict(method="sparsegpt", data=X[:0]), "data must be arrays of equal length"),
    (dict(method="sparsegpt", data=X + np.nan), "data must be finite"),
    (dict(include="nothing"), "include must choose"),
    (dict(sparsity=0.9, pattern=rc.NM(2, 4)), "final sparsity must be a multiple"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_and_nothing_changes(options, message):
    model = one_dense()
    before = values(model.weights[0])
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.prune(model, **{"sparsity": 0.5, **options})
    np.testing.assert_array_equal(values(model.weights[0]), before)


def test_what_is_no_built_model_is_refused():
    with pytest.raises(rc.InvalidArgument, match="model must be a built"):
        rc.prune(keras.Sequential([layers.Dense(2)]), 0.5)


def test_an_error_on_the_way_leaves_all_weights(rng, monkeypatch):
    model, x = small_cnn(), rng.normal(size=(20, 8, 8, 2)).astype("float32")
    before = [values(v) for v in model.weights]
    calls = []

    class Fails(rc.OneShotMethod):
        needs_data = True

        def scores(self, weights, moments):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("on purpose")
            return abs(weights)

    with pytest.raises(RuntimeError, match="on purpose"):
        rc.prune(model, 0.5, Fails(), x)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(values(variable), value)
    assert not any("call" in vars(layer) for layer in model.layers)
