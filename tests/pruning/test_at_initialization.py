"""Pruning before training, against closed forms in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, numpy_state, small_data
from tf_robustcomp.pruning.at_initialization import SNIP, GraSP, SynFlow
from tf_robustcomp.pruning.kernels import rising_sparsities

METHODS = ["snip", "grasp", "synflow"]


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def scores(method, model, *batches):
    return [np.asarray(one) for one in method.scorer(model, model.trainable_weights, list(batches))()]


def linear(*sizes):
    first, *others = sizes
    return keras.Sequential([keras.Input((first,)), *(layers.Dense(size, use_bias=False) for size in others)])


def regression(rng, count=20, inputs=5, outputs=3):
    return rng.normal(size=(count, inputs)).astype("float32"), rng.normal(size=(count, outputs)).astype("float32")


def test_snip_and_grasp_of_least_squares(rng):
    """With the loss |XW - Y|^2 / nm the gradient is 2 X'(XW - Y) / nm and the Hessian V -> 2 X'XV / nm."""
    x, y = regression(rng)
    model = linear(5, 3)
    w = values(model.weights[0]).astype("float64")
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]  # of different sizes
    gradient = 2 * x.T @ (x @ w - y) / y.size
    (snip,) = scores(SNIP("mse"), model, *batches)
    np.testing.assert_allclose(snip, abs(gradient * w), rtol=1e-4, atol=1e-6)
    (grasp,) = scores(GraSP("mse"), model, *batches)
    np.testing.assert_allclose(grasp, w * (2 * x.T @ (x @ gradient) / y.size), rtol=1e-4, atol=1e-6)


def test_grasp_is_what_the_flow_of_gradients_loses(rng):
    """The squared norm of the gradient changes by -2 score where a weight shrinks, by differences of NumPy's."""
    x, y = regression(rng)
    model = linear(5, 4, 3)
    a, b = (values(v).astype("float64") for v in model.weights)

    def flow(a, b):
        residual = 2 * (x @ a @ b - y) / y.size
        return np.sum((x.T @ residual @ b.T) ** 2) + np.sum(((x @ a).T @ residual) ** 2)

    found = scores(GraSP("mse"), model, (x, y))
    for number, kernel in enumerate((a, b)):
        for place in np.ndindex(kernel.shape):
            change = np.zeros_like(kernel)
            change[place] = 1e-5 * kernel[place]
            more, less = ([a + change, b], [a - change, b]) if number == 0 else ([a, b + change], [a, b - change])
            expected = (flow(*more) - flow(*less)) / 2e-5 / 2
            assert found[number][place] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_synflow_is_the_sum_over_paths():
    model = linear(5, 4, 3)
    a, b = (abs(values(v).astype("float64")) for v in model.weights)
    flow = (a @ b).sum()
    first, second = scores(SynFlow(), model)
    np.testing.assert_allclose(first, a * b.sum(axis=1)[None] / flow, rtol=1e-5)
    np.testing.assert_allclose(second, a.sum(axis=0)[:, None] * b / flow, rtol=1e-5)


def test_synflow_in_a_deep_network_does_not_overflow():
    """All layers carry the whole flow, which is far above the largest float32."""
    model = linear(*[40] * 31)
    for variable in model.weights:
        variable.assign(10.0 * abs(values(variable)))
    flow = np.ones(40)
    for variable in model.weights:
        flow = flow @ values(variable).astype("float64")
    assert flow.sum() > np.finfo("float32").max
    for score in scores(SynFlow(), model):
        assert score.sum() == pytest.approx(1.0, rel=1e-3)


def test_rising_sparsities_cut_the_same_fraction_of_what_is_left():
    left = 1.0 - np.array([0.0, *rising_sparsities(0.9, 10)])
    np.testing.assert_allclose(left[1:] / left[:-1], 0.1**0.1)
    assert rising_sparsities(0.3, 1) == [0.3] and rising_sparsities(0.0, 2) == [0.0, 0.0]


def test_synflow_empties_no_layer_that_one_round_empties():
    """Unequal layers at high sparsity: the rounds spread the weights that stay (the theorem of the paper)."""
    paths = {}
    for rounds in (1, 20):
        keras.utils.set_random_seed(3)
        model = linear(20, 60, 60, 5)
        rc.prune(model, 0.98, SynFlow(rounds), distribution="global")
        assert rc.sparsity_report(model, sizes=False).total.sparsity == pytest.approx(0.98, abs=1e-3)
        masks = [(values(v) != 0).astype(float) for v in model.weights]
        paths[rounds] = np.linalg.multi_dot(masks).sum()
    assert paths[20] > 2 * paths[1]


@pytest.mark.parametrize("method", METHODS)
def test_global_scores_cut_the_lowest_of_all(method):
    x, y = small_data()
    model = compiled(dense_net(), "sgd")
    chosen = SynFlow(rounds=1) if method == "synflow" else method
    made = {"snip": SNIP(), "grasp": GraSP(), "synflow": chosen}[method]
    before = kernels(model)
    found = made.scorer(model, [v for v in model.weights if v.name == "kernel"], [(x, y)])()
    rc.prune(model, 0.75, chosen, (x, y), distribution="global", batch_size=64)
    found = [np.where(s == s.max(), np.inf, s) for s in map(np.asarray, found)]  # the highest of each kernel stays
    threshold = np.sort(np.concatenate([s.ravel() for s in found]))[144]
    for old, new, score in zip(before, kernels(model), found, strict=True):
        np.testing.assert_array_equal(new, np.where(score >= threshold, old, 0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", [None, rc.NM(2, 4), rc.Channels()])
def test_patterns_and_networks(method, pattern, rng):
    """A network with batch norm and dropout keeps its moving statistics and seeds."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.DepthwiseConv2D(3),
            layers.GlobalMaxPooling2D(),
            layers.Dense(8, name="last"),
        ]
    )
    compiled(model, "adam")
    x, y = rng.normal(size=(20, 6, 6, 4)).astype("float32"), rng.integers(0, 8, size=20)
    include = None if pattern is None else "(first|last)/kernel"
    others = [v for v in model.variables if "kernel" not in v.path]
    before = [values(v) for v in others]
    rc.prune(model, 0.5, SynFlow(rounds=5) if method == "synflow" else method, (x, y), include, "uniform", pattern)
    pruned = [values(v) for v in model.weights if v.name == "kernel" and (pattern is None or "depthwise" not in v.path)]
    assert np.mean([np.mean(v == 0) for v in pruned]) == pytest.approx(0.5, abs=0.03)
    for old, variable in zip(before, others, strict=True):
        np.testing.assert_array_equal(values(variable), old)


KEEP, REACH = rc.ConstantSparsity(0.0, 0), rc.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2)


@pytest.mark.parametrize(("method", "schedule"), [(m, KEEP) for m in METHODS] + [("snip", REACH)])
def test_zeros_stay_while_a_rule_trains_from_them(method, schedule):
    x, y = small_data()
    model = compiled(
        dense_net(), rc.MagnitudePruning("adam", schedule, initial_masks="from_zeros"), run_eagerly=method != "snip"
    )
    rc.prune(model, 0.75, SynFlow(rounds=5) if method == "synflow" else method, (x, y), distribution="global")
    before = kernels(model)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    for old, new in zip(before, kernels(model), strict=True):
        if schedule.final == 0:
            np.testing.assert_array_equal(new == 0, old == 0)
        assert (new[old == 0] == 0).all() and not np.array_equal(new, old)


def test_several_inputs_and_outputs(rng):
    x = [rng.normal(size=(10, n)).astype("float32") for n in (3, 4)]
    y = [rng.normal(size=(10, n)).astype("float32") for n in (2, 1)]
    for method in METHODS:
        first, second = keras.Input((3,)), keras.Input((4,))
        joined = layers.Concatenate()([layers.Dense(6)(first), layers.Dense(6)(second)])
        model = keras.Model([first, second], [layers.Dense(2)(joined), layers.Dense(1)(joined)])
        model.compile("sgd", ["mse", "mse"])
        rc.prune(model, 0.5, SynFlow(5) if method == "synflow" else method, (x, y), distribution="global")
        assert rc.sparsity_report(model, sizes=False).total.sparsity == pytest.approx(0.5, abs=0.02)


X, Y = small_data(count=8)
BAD = [
    ({"method": "snip"}, r"^data must be given for method SNIP. Received: None$"),
    ({"method": "snip", "data": X}, "^data must be a pair .inputs, targets.. Received: ndarray$"),
    ({"method": "grasp", "data": (X, Y[:3])}, r"^data must be as many inputs as targets. Received: lengths \[\(3,\)"),
    ({"method": "snip", "data": (X, Y)}, r"^model must be compiled with a loss, or method be SNIP\(loss=...\)."),
    ({"method": SynFlow(input_shape=(7,))}, "incompatible"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_and_nothing_changes(options, message):
    model = dense_net()
    before = kernels(model)
    with pytest.raises(ValueError, match=message):
        rc.prune(model, 0.5, **options)
    for old, new in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_softmax_hides_the_flow():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.Dense(3, activation="softmax")])
    with pytest.raises(rc.InvalidArgument, match="such as logits. Received: constant ones, as of a softmax"):
        rc.prune(model, 0.5, "synflow")


def test_inputs_of_no_fixed_shape_need_one():
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(4, 3), layers.GlobalAveragePooling1D()])
    with pytest.raises(rc.InvalidArgument, match=r"or method be SynFlow\(input_shape=...\). Received: "):
        rc.prune(model, 0.5, "synflow")
    rc.prune(model, 0.5, SynFlow(input_shape=(8, 3)))
    assert np.mean(values(model.weights[0]) == 0) == pytest.approx(0.5, abs=0.02)


def test_losses_that_are_not_finite_are_refused():
    model = compiled(dense_net(), "sgd")
    x, y = small_data(count=8)
    model.weights[0].assign(np.full((8, 16), np.nan))
    state = numpy_state(model)
    with pytest.raises(rc.InvalidArgument, match="^model must give finite scores by method SNIP. Received: NaN"):
        rc.prune(model, 0.5, "snip", (x, y))
    for old, new in zip(state, numpy_state(model), strict=True):
        np.testing.assert_array_equal(new, old)
