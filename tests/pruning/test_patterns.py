"""Patterns and distributions, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, small_data
from tests.sampling import sampled

RULES = [rc.MagnitudePruning, rc.DNS, rc.RigL, rc.MovementPruning, rc.RandomPruning]


def pruned(rule, weights, sparsity, steps=1, **options):
    variable = keras.Variable(np.asarray(weights, "float32"), name="kernel")
    optimizer = rule(keras.optimizers.SGD(1e-6), rc.ConstantSparsity(sparsity, 0, frequency=1), **options)
    optimizer.build([variable])
    rng = np.random.default_rng(2)
    for _ in range(steps):
        optimizer.apply([ops.convert_to_tensor(rng.normal(size=variable.shape).astype("float32"))], [variable])
    return ops.convert_to_numpy(variable)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(8, 6), (3, 3, 8, 5)])
def test_two_of_four_along_the_input_stay(rule, shape, rng):
    found = pruned(rule, rng.normal(size=shape), 0.5, steps=4, pattern=rc.NM(2, 4)) != 0
    groups = np.moveaxis(found, -2, -1).reshape(-1, 4)
    if rule is rc.RigL:  # what has just grown is still zero
        assert (groups.sum(axis=1) <= 2).all()
    else:
        assert (groups.sum(axis=1) == 2).all()


def test_two_of_four_keeps_the_largest_of_each_group(rng):
    weights = rng.normal(size=(8, 3)).astype("float32")
    found = pruned(rc.MagnitudePruning, weights, 0.5, pattern=rc.NM(2, 4))
    for column in range(3):
        for group in range(2):
            part = np.abs(weights[4 * group : 4 * group + 4, column])
            kept = np.flatnonzero(found[4 * group : 4 * group + 4, column])
            assert set(kept) == set(np.argsort(part)[2:])


def test_n_of_m_is_reached_in_steps_and_never_passed(rng):
    weights = rng.normal(size=(8, 8)).astype("float32")
    for sparsity, cut in ((0.1, 0), (0.2, 1), (0.5, 2), (0.9, 2)):
        kept = np.asarray(rc.NM(2, 4).select(np.abs(weights), sparsity))
        assert np.sum(~kept) == cut * 16
        assert (kept.reshape(2, 4, 8).sum(axis=1) == 4 - cut).all()


@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.DNS])
def test_blocks_go_as_a_whole_the_weakest_first(rule, rng):
    weights = rng.normal(size=(2, 8, 6)).astype("float32")
    found = pruned(rule, weights, 0.5, pattern=rc.Blocks(4, 2))
    means = np.abs(weights).reshape(2, 2, 4, 3, 2).mean(axis=(2, 4))
    alive = (found != 0).reshape(2, 2, 4, 3, 2)
    assert (alive.all(axis=(2, 4)) == alive.any(axis=(2, 4))).all()
    expected = np.ones(12, bool)
    expected[np.argsort(means.ravel())[:6]] = False
    np.testing.assert_array_equal(alive.any(axis=(2, 4)).ravel(), expected)


@pytest.mark.parametrize(("axis", "channels"), [(-1, 8), (-2, 4)])
@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.DNS, rc.RandomPruning, rc.MovementPruning])
def test_whole_channels_go(rule, axis, channels, rng):
    found = pruned(rule, rng.normal(size=(3, 3, 4, 8)), 0.5, steps=3, pattern=rc.Channels(axis)) != 0
    alive = np.moveaxis(found, axis, 0).reshape(channels, -1)
    assert (alive.all(axis=1) == alive.any(axis=1)).all()
    assert alive.any(axis=1).sum() == channels // 2


def three_layers():
    return keras.Sequential(
        [
            layers.Input((8,)),
            layers.Dense(64, name="wide"),
            layers.Dense(16, name="middle"),
            layers.Dense(4, name="last"),
        ]
    )


def sparsities(model):
    return {row.path.split("/")[-2]: row.sparsity for row in rc.sparsity_report(model, sizes=False).rows}


def trained(distribution, sparsity=0.8, rule=rc.MagnitudePruning, **options):
    schedule = rc.PolynomialDecay(0.0, sparsity, 0, 3, frequency=1)
    model = compiled(three_layers(), rule("sgd", schedule, distribution=distribution, **options))
    model.fit(*small_data(), batch_size=16, epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.DNS, rc.RigL])
def test_a_mapping_by_path_sets_each_variable(rule):
    found = sparsities(trained({"wide": 0.5, "last": 0.0}, rule=rule))
    if rule is rc.RigL:  # what has just grown is still zero
        assert found["last"] == 0 and found["wide"] >= 0.5
    else:
        assert found == {"wide": 0.5, "middle": pytest.approx(0.8, abs=1e-3), "last": 0.0}


def test_erk_meets_the_whole_and_keeps_small_kernels_denser():
    found = sparsities(trained("erk"))
    sizes = {"wide": 8 * 64, "middle": 64 * 16, "last": 16 * 4}
    raw = {"wide": (8 + 64) / 512, "middle": (64 + 16) / 1024, "last": (16 + 4) / 64}
    whole = sum(found[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert whole == pytest.approx(0.8, abs=2e-3)
    density = {name: 1 - value for name, value in found.items()}
    assert density["wide"] / raw["wide"] == pytest.approx(density["middle"] / raw["middle"], rel=0.03)
    assert density["last"] == pytest.approx(min(1, density["wide"] / raw["wide"] * raw["last"]), abs=0.02)


def test_erk_leaves_kernels_dense_that_would_be_denser_than_one():
    finals = rc.ERK().final(0.5, ["a", "b"], [(2, 2), (100, 100)])
    assert finals[0] == 0
    assert (finals[0] * 4 + finals[1] * 10_000) / 10_004 == pytest.approx(0.5)


@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.DNS])
def test_global_cuts_the_lowest_of_all_wherever_they_are(rule, rng):
    values = [rng.normal(size=(6, 6)), 0.1 * rng.normal(size=(4, 9)), 3 * rng.normal(size=(5, 5))]
    variables = [keras.Variable(v.astype("float32"), name="kernel") for v in values]
    optimizer = rule(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.6, 0), distribution="global")
    optimizer.build(variables)
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    # The largest of each stays, so that no layer vanishes; of the others the lowest go.
    magnitudes = [np.where(np.abs(v) == np.abs(v).max(), np.inf, np.abs(v)) for v in values]
    everything = np.sort(np.concatenate([one.ravel() for one in magnitudes]))
    border = everything[round(0.6 * len(everything)) - 1]
    for variable, one in zip(variables, magnitudes, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable) == 0, one <= border)


def test_global_counts_weights_not_units(rng):
    values = [rng.normal(size=(2, 10)), rng.normal(size=(20, 10))]
    variables = [keras.Variable(v.astype("float32"), name="kernel") for v in values]
    optimizer = rc.MagnitudePruning(
        keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0), distribution="global", pattern=rc.Channels()
    )
    optimizer.build(variables)
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    zeros = sum(np.sum(ops.convert_to_numpy(v) == 0) for v in variables)
    assert 90 <= zeros <= 110  # half of 220, up to half a channel of 20


@pytest.mark.parametrize("distribution", sampled(["uniform", "erk", "global", {"wide": 0.5}], 0, 2))
@pytest.mark.parametrize("pattern", [None, rc.Channels(), rc.Blocks(4, 4), rc.NM(2, 4)])
def test_every_pattern_goes_with_every_distribution(distribution, pattern, tmp_path):
    if isinstance(pattern, rc.NM) and distribution in ("global", "erk"):
        with pytest.raises(ValueError, match="exclude each other" if distribution == "global" else "a multiple of 1/4"):
            trained(distribution, 0.5, pattern=pattern)
        return
    model = trained(distribution, 0.5, pattern=pattern)
    whole = rc.sparsity_report(model, sizes=False).total.sparsity
    assert whole == pytest.approx(0.5, abs=0.1)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trained("even"), "distribution must be one of uniform, erk, global"),
        (lambda: trained({"wide": 1.0}), r"sparsity must lie in \[0, 1\)"),
        (lambda: trained({"nothing": 0.5}), "matches none"),
        (lambda: trained("uniform", pattern="2:4"), "pattern must be"),
        (lambda: trained("uniform", pattern=rc.NM(2, 3)), "groups of 3 must divide axis -2.*wide/kernel"),
        (lambda: trained("uniform", pattern=rc.Blocks(3, 3)), "blocks of 3 x 3 must divide.*wide/kernel"),
        (lambda: trained("uniform", pattern=rc.Channels(5)), "axis must be one of .*wide/kernel"),
        (lambda: trained("uniform", 0.9, pattern=rc.NM(2, 4)), "must be a multiple of 1/4, at most 0.5"),
        (lambda: trained("uniform", 0.3, pattern=rc.NM(2, 4)), "must be a multiple of 1/4, at most 0.5"),
        (lambda: trained("global", rule=rc.RigL), "those of RigL do not"),
        (lambda: trained("uniform", rule=rc.DNS, pattern=rc.Blocks(), exact=False), "exact must be True for a pattern"),
        (lambda: rc.ConstantSparsity(0.5, 0.5), "begin_step must be an integer"),
        (lambda: rc.NM(4, 4), "0 < n < m"),
        (lambda: rc.Blocks(0, 1), "rows and columns must be >= 1"),
        (lambda: trained("uniform", cut_slots="drop"), "cut_slots must be"),
        (lambda: rc.PolynomialDecay(0.0, 0.5, 9, 3), "end_step must not lie before begin_step"),
        (lambda: rc.ConstantSparsity(1.0, 0), r"target_sparsity must lie in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_one_clear_value_error(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
