"""What each rule cuts, against NumPy; and that a rule of one's own is a few lines."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, small_data


def stepper(rule, weights, **options):
    """A variable and a function that makes one step with given gradients (SGD of rate 0.1)."""
    variable = keras.Variable(np.asarray(weights, "float32"), name="kernel")
    optimizer = rule(keras.optimizers.SGD(0.1), **options)
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([ops.convert_to_tensor(np.asarray(gradient, "float32"))], [variable])
        return ops.convert_to_numpy(variable)

    return variable, optimizer, step


def test_movement_pruning_cuts_what_moves_towards_zero(rng):
    weights = rng.normal(size=(4, 6)).astype("float32")
    schedule = rc.ConstantSparsity(0.5, 2, frequency=1)
    _, _, step = stepper(rc.MovementPruning, weights, schedule=schedule)
    movement, dense, masked = np.zeros_like(weights), weights.copy(), weights.copy()
    for number in range(4):
        gradient = rng.normal(size=weights.shape).astype("float32")
        dense = dense - 0.1 * gradient
        movement -= gradient * dense  # at the dense weights after the step
        if number >= 2:
            lowest = np.argsort(movement.ravel(), kind="stable")[:12]
            masked = dense.copy()
            masked.ravel()[lowest] = 0
        found = step(gradient)
        np.testing.assert_allclose(found, masked if number >= 2 else dense, atol=1e-5)


def test_rigl_drops_small_weights_and_grows_where_the_gradient_is_large(rng):
    weights = rng.normal(size=(5, 8)).astype("float32")
    schedule = rc.ConstantSparsity(0.5, 0, end_step=100, frequency=2)
    _, _, step = stepper(rc.RigL, weights, schedule=schedule, drop_fraction=0.4)
    current, in_use = weights.copy(), np.ones(weights.shape, bool)
    for number in range(6):
        gradient = rng.normal(size=weights.shape).astype("float32")
        current = np.where(in_use, current - 0.1 * gradient, 0)
        if number % 2 == 0:
            share = 0.2 * (1 + np.cos(np.pi * number / 100))
            cut_first = 40 - round((0.5 + share * 0.5) * 40)
            order = np.argsort(np.where(in_use, np.abs(current), -1).ravel(), kind="stable")[::-1]
            stays = np.zeros(40, bool)
            stays[order[:cut_first]] = True
            stays &= in_use.ravel()
            rest = np.where(stays, -1, np.abs(gradient).ravel())
            grown = np.argsort(rest, kind="stable")[::-1][: 20 - stays.sum()]
            new = stays.copy()
            new[grown] = True
            new = new.reshape(weights.shape)
            current = np.where(new & in_use, current, 0)  # what grows begins at zero
            in_use = new
        np.testing.assert_allclose(step(gradient), current, atol=1e-5)
        assert in_use.sum() == 20


def test_random_pruning_cuts_for_good_and_by_its_seed():
    def zeros(seed):
        _, _, step = stepper(
            rc.RandomPruning, np.ones((8, 8)), schedule=rc.PolynomialDecay(0.0, 0.75, 0, 4, frequency=2), seed=seed
        )
        return [step(np.zeros((8, 8))) == 0 for _ in range(6)]

    one, same, other = zeros(1), zeros(1), zeros(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[-1], other[-1])
    assert all((after | ~before).all() for before, after in zip(one[:-1], one[1:], strict=True))
    assert one[-1].sum() == 48


def test_kernels_of_one_shape_are_cut_in_different_places():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(8)])
    model.compile(rc.RandomPruning(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0)), loss="mse")
    model.train_on_batch(np.ones((4, 8)), np.ones((4, 8)))  # one trace serves both kernels
    first, second = (ops.convert_to_numpy(layer.kernel) == 0 for layer in model.layers)
    assert first.sum() == second.sum() == 32
    assert 8 < (first != second).sum() < 56  # of 64: half, if the draws are independent


@pytest.mark.slow
def test_magnitude_beats_random_on_a_model_that_has_learned(rng):
    x = rng.normal(size=(256, 8)).astype("float32")
    y = (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)
    base = compiled(dense_net(), keras.optimizers.Adam(0.02))
    base.fit(x, y, epochs=20, verbose=0)
    losses = {}
    for rule in (rc.MagnitudePruning, rc.RandomPruning):
        model = compiled(dense_net(), rule(keras.optimizers.SGD(1e-6), rc.ConstantSparsity(0.7, 0)))
        model.set_weights(base.get_weights())
        model.fit(x, y, verbose=0)
        losses[rule] = model.evaluate(x, y, verbose=0)
    assert losses[rc.MagnitudePruning] < losses[rc.RandomPruning]


class SmallestGradient(rc.PruningOptimizer):
    """README's rule of one's own."""

    needs_gradient = True

    def scores(self, weights, mask, context):
        return ops.abs(context.gradient)


def test_a_rule_of_ones_own_is_one_hook(rng):
    weights, gradient = rng.normal(size=(2, 4, 4)).astype("float32")
    _, _, step = stepper(SmallestGradient, weights, schedule=rc.ConstantSparsity(0.25, 0, frequency=1))
    found = step(gradient)
    expected = weights - 0.1 * gradient
    expected.ravel()[np.argsort(np.abs(gradient).ravel())[:4]] = 0
    np.testing.assert_allclose(found, expected, atol=1e-6)
    model = compiled(
        dense_net(), SmallestGradient("adam", rc.ConstantSparsity(0.5, 0, frequency=1), pattern=rc.NM(2, 4))
    )
    model.fit(*small_data(), batch_size=16, verbose=0)
    assert rc.sparsity_report(model).total.sparsity == 0.5


@pytest.mark.parametrize("cut_slots", ["keep", "zero"])
def test_slots_of_cut_weights_go_on_or_are_emptied(cut_slots):
    x, y = small_data()
    inner = keras.optimizers.Adam(0.01)
    model = compiled(
        dense_net(), rc.MagnitudePruning(inner, rc.ConstantSparsity(0.5, 0, frequency=1), cut_slots=cut_slots)
    )
    model.fit(x, y, batch_size=16, verbose=0)
    optimizer = model.optimizer
    for p in optimizer.pruned:
        mask = ops.convert_to_numpy(p.mask)
        places = [v is p.variable for v in model.trainable_variables]
        for slots in (inner._momentums, inner._velocities):
            slot = ops.convert_to_numpy(slots[places.index(True)])
            assert np.count_nonzero(slot[mask])
            assert bool(np.count_nonzero(slot[~mask])) == (cut_slots == "keep")


def test_a_cut_weight_does_not_decay_back_to_life():
    """Weight decay moves the dense value of a cut weight towards zero; only the rule may bring the weight back."""
    for rule in (rc.MagnitudePruning, rc.DNS):
        _, optimizer, _ = stepper(rule, np.ones((4, 4)), schedule=rc.ConstantSparsity(0.5, 0, end_step=0))
        del optimizer
        weights = np.linspace(0.1, 1.6, 16).reshape(4, 4)
        variable = keras.Variable(weights.astype("float32"), name="kernel")
        optimizer = rule(keras.optimizers.SGD(0.1, weight_decay=0.5), rc.ConstantSparsity(0.5, 0, end_step=0))
        optimizer.build([variable])
        for _ in range(5):
            optimizer.apply([ops.zeros((4, 4))], [variable])
            found = ops.convert_to_numpy(variable)
            assert np.count_nonzero(found) == 8 and (found.ravel()[:8] == 0).all()
        assert found[3, 3] < 1.6  # those in use do decay


@pytest.mark.slow
def test_kernels_shapes_stay_the_same_for_every_rule():
    for rule in (rc.DNS, rc.RigL, rc.MovementPruning):
        model = compiled(dense_net(), rule("sgd", rc.ConstantSparsity(0.5, 0)))
        shapes = [kernel.shape for kernel in kernels(model)]
        model.fit(*small_data(), verbose=0)
        assert [kernel.shape for kernel in kernels(model)] == shapes


def test_a_drop_fraction_out_of_range_is_refused():
    with pytest.raises(ValueError, match="drop_fraction must lie in"):
        rc.RigL("sgd", rc.ConstantSparsity(0.5, 0), drop_fraction=1.0)
