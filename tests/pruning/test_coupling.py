"""Coupled channels: which go together, what they score, and that they go whole."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning import zoo
from tests.pruning.models import EAGERLY
from tests.sampling import sampled
from tf_robustcomp.pruning import patterns
from tf_robustcomp.pruning.coupling import Coupling

RULES = {
    "magnitude": rc.MagnitudePruning,
    "dns": rc.DNS,
    "random": rc.RandomPruning,
    "movement": rc.MovementPruning,
    "rigl": rc.RigL,
}


def numbers(variable):
    return np.array(ops.convert_to_numpy(variable))


def residual(channels=8):
    """Two convolutions that are added, one behind a batch norm, and two dense layers."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(channels, 3, padding="same", name="left")(inputs)
    y = layers.BatchNormalization()(layers.Conv2D(channels, 1, name="right")(layers.ReLU()(x)))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Dense(6, name="hidden")(x)))


def data(count=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 6, 6, 3)).astype("float32"), rng.integers(0, 2, count)


def trained(rule, steps=4, run_eagerly=False, **options):
    model = residual()
    schedule = options.pop("schedule", rc.PolynomialDecay(0.0, 0.5, 0, 4, frequency=2))
    optimizer = rule(keras.optimizers.Adam(0.01), schedule, pattern=rc.Channels(coupled=True), **options)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=run_eagerly)
    x, y = data(8 * (steps + 1))
    model.fit(x, y, batch_size=8, verbose=0)
    return model


def used(model, name, axis):
    """Which channels of a kernel have a weight that is not zero."""
    kernel = numbers(model.get_layer(name).kernel)
    return np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1).any(axis=1)


def check_channels(model, kept=4):
    """Every kernel agrees on the channels that are left."""
    left = used(model, "left", -1)
    assert left.sum() == kept
    for name, axis in (("right", -1), ("right", -2), ("hidden", -2)):
        np.testing.assert_array_equal(used(model, name, axis), left)
    np.testing.assert_array_equal(used(model, "hidden", -1), used(model, "logits", -2))
    assert used(model, "left", -2).all()
    assert used(model, "logits", -1).all()


@pytest.mark.parametrize("aggregate", ["mean", "sum", "norm"])
def test_scores_are_those_of_the_formula_over_all_members(aggregate):
    model = residual()
    left, right, hidden, logits = (
        np.abs(numbers(model.get_layer(name).kernel)) for name in ("left", "right", "hidden", "logits")
    )

    def along(kernel, axis):
        others = tuple(one for one in range(kernel.ndim) if one != axis % kernel.ndim)
        if aggregate == "sum":
            return kernel.sum(others)
        mean = kernel.mean(others)
        return mean / np.linalg.norm(mean) if aggregate == "norm" else mean

    wanted = [
        [along(left, -1), along(right, -1), along(right, -2), along(hidden, -2)],
        [along(hidden, -1), along(logits, -2)],
    ]
    wanted = [np.sum(one, axis=0) / (1 if aggregate == "sum" else len(one)) for one in wanted]
    kernels = [model.get_layer(name).kernel for name in ("left", "right", "hidden", "logits")]
    coupling = Coupling(model, kernels, rc.Channels(coupled=True, aggregate=aggregate))
    scores = coupling.pool([ops.abs(ops.convert_to_tensor(kernel)) for kernel in kernels])
    for ours, one in zip(scores, wanted, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), one, rtol=1e-5)


def test_pruning_at_once_cuts_the_channels_of_lowest_score():
    model = residual()
    kernels = {name: np.abs(numbers(model.get_layer(name).kernel)) for name in ("left", "right", "hidden")}
    scores = kernels["left"].mean((0, 1, 2)) + kernels["right"].mean((0, 1, 2)) + kernels["right"].mean((0, 1, 3))
    scores += kernels["hidden"].mean(1)
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True))
    np.testing.assert_array_equal(used(model, "left", -1), scores >= np.sort(scores)[4])
    check_channels(model)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_methods_with_data_score_channels_too(method):
    model = residual()
    rc.prune(model, 0.5, method, data()[0], pattern=rc.Channels(coupled=True))
    check_channels(model)


@pytest.mark.parametrize("rule", sampled(RULES, 1))
def test_every_rule_cuts_whole_groups_and_the_model_shrinks(rule):
    model = trained(RULES[rule])
    check_channels(model)
    small = rc.shrink(model)
    assert [small.get_layer(name).kernel.shape[-1] for name in ("left", "right", "hidden", "logits")] == [4, 4, 3, 2]
    x = data()[0]
    np.testing.assert_allclose(*(ops.convert_to_numpy(one(x, training=False)) for one in (small, model)), atol=1e-5)


@pytest.mark.parametrize("distribution", ["global", "lamp", "erk", {"hidden": 0.0}])
def test_every_distribution(distribution):
    model = trained(rc.MagnitudePruning, distribution=distribution, run_eagerly=EAGERLY and distribution != "global")
    left, hidden = used(model, "left", -1), used(model, "hidden", -1)
    np.testing.assert_array_equal(used(model, "right", -1), left)
    assert left.any()
    assert hidden.any()
    if isinstance(distribution, dict):  # both blocks touch this kernel
        assert left.all()
        assert hidden.all()
    else:
        assert not (left.all() and hidden.all())


@pytest.mark.parametrize("round_to, kept", [(1, 3), (4, 4), (3, 3), (5, 5), (8, 8)])
def test_what_stays_is_rounded_up_to_a_multiple(round_to, kept):
    model = residual()
    rc.prune(model, 0.6, pattern=rc.Channels(coupled=True, round_to=round_to))
    assert used(model, "left", -1).sum() == kept


def test_only_channels_inside_of_residual_blocks_go_where_the_residual_stream_is_kept():
    model = rc.resnet_v2(8, (8, 8, 3), fused=False)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, size) for size in [one.shape for one in layer.get_weights()]])
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True, keep_residual=True))
    for layer in model.layers:
        for inbound in layer.input if isinstance(layer, layers.Add) else ():
            kernel = numbers(inbound._keras_history.operation.kernel)
            assert kernel.any(axis=(0, 1, 2)).all()
    small = rc.shrink(model)
    assert [one.output.shape[-1] for one in small.layers if isinstance(one, layers.Add)] == [16, 32, 64]
    convolutions = [layer for layer in small.layers if isinstance(layer, layers.Conv2D)]
    stem, *blocks = [layer.filters for layer in convolutions]
    assert stem == 8
    assert sorted(blocks) == sorted([8, 16, 16, 16, 32, 32, 32, 64, 64])
    x = rng.normal(size=(8, 8, 8, 3)).astype("float32")
    shrunk, masked = (ops.convert_to_numpy(one(x, training=False)) for one in (small, model))
    np.testing.assert_allclose(shrunk, masked, atol=1e-5 * abs(masked).max())


@pytest.mark.parametrize("add", [lambda x, y: layers.Add()([x, y]), lambda x, y: x + y])
def test_a_kept_residual_stream_is_whole_in_training_too(add):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="stem")(inputs)
    y = layers.Conv2D(8, 1, name="out")(layers.Conv2D(6, 1, name="inner")(x))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(add(x, y))))
    pattern = rc.Channels(coupled=True, keep_residual=True)
    optimizer = rc.MagnitudePruning("sgd", rc.PolynomialDecay(0.0, 0.5, 0, 4, frequency=2), pattern=pattern)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=EAGERLY)
    x, y = data(48)
    model.fit(x, y, batch_size=8, verbose=0)
    inner = used(model, "inner", -1)
    assert inner.sum() == 3
    np.testing.assert_array_equal(used(model, "out", -2), inner)
    assert all(used(model, name, -1).all() for name in ("stem", "out", "logits"))
    assert patterns.get(keras.saving.serialize_keras_object(pattern)) == pattern


def test_rounding_works_without_coupling():
    model = residual()
    rc.prune(model, 0.6, pattern=rc.Channels(round_to=4), include="left|right")
    assert used(model, "left", -1).sum() == used(model, "right", -1).sum() == 4


def test_channels_that_other_kernels_touch_stay_whole():
    model = residual()
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True), include="left|right|hidden")
    assert used(model, "left", -1).sum() == 4
    assert used(model, "hidden", -1).all()  # `logits` reads them


def test_surgery_brings_a_group_back_whole():
    """DNS keeps dense weights: a group that is cut comes back when they have grown."""
    model = trained(rc.DNS, schedule=rc.ConstantSparsity(0.5, 0, frequency=1), band=0.0)
    optimizer = model.optimizer
    cut = ~used(model, "left", -1)
    for p in optimizer.pruned:
        dense = numbers(p.dense)
        if "left" in p.variable.path:
            dense[..., cut] = 10.0
        p.dense.assign(dense)
    x, y = data(8)
    model.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(used(model, "left", -1), cut)
    check_channels(model)


@pytest.mark.slow
def test_a_model_that_is_loaded_goes_on_bit_for_bit(tmp_path):
    model = trained(rc.DNS)
    model.save(tmp_path / "model.keras")
    loaded = rc.load_model(tmp_path / "model.keras")
    x, y = data()
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numbers(one), numbers(other))


@pytest.mark.slow
def test_zeros_that_are_there_stay_with_masks_from_zeros():
    model = residual()
    rc.prune(model, 0.5, pattern=rc.Channels(coupled=True))
    left = used(model, "left", -1)
    schedule = rc.ConstantSparsity(0.25, 0, frequency=1)
    model.compile(
        rc.DNS("adam", schedule, pattern=rc.Channels(coupled=True), initial_masks="from_zeros"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = data()
    model.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(used(model, "left", -1), left)


def test_the_callback_prunes_coupled_channels():
    model = residual()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data(48)
    surgery = rc.DynamicNetworkSurgery(
        rc.PolynomialDecay(0.0, 0.5, 0, 4, frequency=2), pattern=rc.Channels(coupled=True)
    )
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[surgery])
    check_channels(model)


def test_training_without_fit_finds_the_model():
    model = residual()
    optimizer = rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0, 1), pattern=rc.Channels(coupled=True))
    optimizer.build(model.trainable_variables)
    optimizer.apply([ops.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    check_channels(model)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: rc.Channels(axis=0, coupled=True), "axis must be None"),
        (lambda: rc.Channels(round_to=0), "round_to"),
        (lambda: rc.Channels(keep_residual=True), "keep_residual must go with coupled=True"),
        (lambda: rc.Channels(coupled=True, aggregate="max"), "aggregate"),
        (lambda: rc.prune(zoo.subclassed()[0], 0.5, pattern=rc.Channels(coupled=True)), "functional or Sequential"),
        (lambda: rc.prune(residual(), 0.5, pattern=rc.Channels(coupled=True), include="left"), "channels that may go"),
        (lambda: rc.prune(residual(), 0.95, pattern=rc.Channels(coupled=True)), "leave a channel of every layer"),
        (lambda: rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), pattern=rc.Channels(coupled=True), exact=False), "exact"),
    ],
)
def test_bad_input_is_refused_in_a_line(make, reason):
    with pytest.raises(rc.InvalidArgument, match=reason):
        make()
