"""What every pruning optimizer promises, whatever its rule."""

import keras
import numpy as np
import pytest
from keras import layers

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, numpy_state, small_data
from tests.sampling import sampled
from tf_robustcomp.networks import resnet_v2
from tf_robustcomp.utils import registry

RULES = [variant.load() for variant in registry.variants("pruning rule").values()]


def sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def decay(final=0.75, end=8, frequency=2):
    return rc.PolynomialDecay(0.0, final, 0, end, frequency=frequency)


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_exactly_sparse_after_every_step_and_in_the_saved_file(rule, tmp_path):
    x, y = small_data()
    model = compiled(dense_net(), rule(sgd(), rc.ConstantSparsity(0.75, 0, frequency=1)))

    class Watch(keras.callbacks.Callback):
        counts = []

        def on_train_batch_end(self, batch, logs=None):
            # RigL's weights are zero when they have just grown: their masks count.
            used = [keras.ops.convert_to_numpy(p.mask) for p in self.model.optimizer.pruned]
            self.counts.append([np.count_nonzero(part) for part in (used if rule is rc.RigL else kernels(self.model))])

    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[watch := Watch()])
    assert watch.counts == [[32, 16]] * 8  # a quarter of 8 * 16 and of 16 * 4
    model.save(tmp_path / "model.keras")
    for kernel, loaded in zip(kernels(model), kernels(keras.saving.load_model(tmp_path / "model.keras")), strict=True):
        np.testing.assert_array_equal(kernel, loaded)


@pytest.mark.parametrize("rule", sampled(RULES, 0, 3))
def test_masks_and_dense_weights_are_identical_after_save_and_resume(rule, tmp_path):
    x, y = small_data()
    straight = compiled(dense_net(), rule(sgd(), decay()))
    straight.fit(x, y, batch_size=16, shuffle=False, epochs=3, verbose=0)
    keras.utils.set_random_seed(1)
    first = compiled(dense_net(), rule(sgd(), decay()))
    first.fit(x, y, batch_size=16, shuffle=False, epochs=1, verbose=0)
    first.save(tmp_path / "model.keras")
    second = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(numpy_state(first), numpy_state(second), strict=True):
        np.testing.assert_array_equal(a, b)
    second.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    for a, b in zip(numpy_state(straight), numpy_state(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", sampled(RULES, 1, 4))
def test_zero_sparsity_is_unpruned_training(rule):
    x, y = small_data()
    plain = compiled(dense_net(), sgd())
    keras.utils.set_random_seed(1)
    pruned = compiled(dense_net(), rule(sgd(), rc.ConstantSparsity(0.0, 0, frequency=1)))
    pruned.set_weights(plain.get_weights())
    for model in (plain, pruned):
        model.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    for a, b in zip(plain.get_weights(), pruned.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_magnitude_pruning_cuts_for_good_and_by_rank():
    x, y = small_data()
    model = compiled(dense_net(), rc.MagnitudePruning(sgd(), decay(end=12, frequency=3)))
    cut = [np.zeros(kernel.shape, bool) for kernel in kernels(model)]
    for _ in range(16):
        model.train_on_batch(x, y)
        zeros = [kernel == 0 for kernel in kernels(model)]
        assert all((after | ~before).all() for before, after in zip(cut, zeros, strict=True))
        cut = zeros
    assert [np.mean(zeros) for zeros in cut] == [0.75, 0.75]


def test_magnitude_pruning_of_equal_weights_still_meets_the_target():
    variable = keras.Variable(np.full((4, 4), 0.3, "float32"), name="kernel")
    optimizer = rc.MagnitudePruning(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.5, 0))
    optimizer.build([variable])
    optimizer.apply([keras.ops.zeros((4, 4))], [variable])
    assert np.count_nonzero(keras.ops.convert_to_numpy(variable)) == 8


def test_the_optimizers_variables_are_its_own():
    model = compiled(dense_net(), rc.DNS(sgd(), decay()))
    model.fit(*small_data(), verbose=0)
    assert not {id(v) for v in model.variables} & {id(v) for v in model.optimizer.variables}
    assert len({id(v) for v in model.optimizer.variables}) == len(model.optimizer.variables) == 2 + 3 * 2 + 2 + 4


@pytest.mark.parametrize("rule", RULES)
def test_only_kernels_train_when_the_rest_is_frozen(rule):
    x, y = small_data()
    model = keras.Sequential([layers.Input((8,)), layers.Dense(16), layers.BatchNormalization(), layers.Dense(4)])
    compiled(model, rule(sgd(), decay(), train_unpruned=False))
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    model.fit(x, y, batch_size=16, verbose=0)
    moved = {
        v.path.split("/")[-1]
        for v in model.variables
        if not np.array_equal(before[v.path], keras.ops.convert_to_numpy(v))
    }
    assert {"kernel", "moving_mean", "moving_variance"} <= moved
    assert not {"bias", "gamma", "beta"} & moved


def test_include_chooses_by_path_or_by_function():
    for include in ("dense_1", lambda path, variable: "dense_1" in path and len(variable.shape) == 2):
        keras.backend.clear_session()
        inputs = layers.Input((8,))
        hidden = layers.Dense(16, name="dense_0")(inputs)
        model = keras.Model(inputs, layers.Dense(4, name="dense_1", use_bias=False)(hidden))
        compiled(model, rc.DNS(sgd(), rc.ConstantSparsity(0.5, 0), include=include))
        model.fit(*small_data(), verbose=0)
        assert [row.path for row in rc.sparsity_report(model).rows] == ["dense_1/kernel"]
        assert np.count_nonzero(model.get_weights()[0]) == 8 * 16


def test_weights_set_from_outside_are_not_undone():
    x, y = small_data()
    model = compiled(dense_net(), rc.DNS(keras.optimizers.SGD(1e-8), rc.ConstantSparsity(0.5, 0, frequency=100)))
    model.train_on_batch(x, y)
    masks = [keras.ops.convert_to_numpy(p.mask) for p in model.optimizer.pruned]
    model.set_weights([2.0 * np.ones_like(w) for w in model.get_weights()])
    model.train_on_batch(x, y)
    for kernel, mask in zip(kernels(model), masks, strict=True):
        np.testing.assert_allclose(kernel[mask], 2.0, rtol=1e-5)


def test_weight_decay_does_not_bring_cut_weights_back():
    x, y = small_data()
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    model = compiled(dense_net(), rc.MagnitudePruning(inner, rc.ConstantSparsity(0.5, 0, end_step=0)))
    model.train_on_batch(x, y)
    zeros = [kernel == 0 for kernel in kernels(model)]
    for _ in range(10):
        model.train_on_batch(x, y)
    for before, kernel in zip(zeros, kernels(model), strict=True):
        np.testing.assert_array_equal(before, kernel == 0)


def test_moving_average_that_overwrites_the_weights_is_masked_again():
    x, y = small_data()
    model = compiled(
        dense_net(), rc.DNS(keras.optimizers.SGD(0.1, use_ema=True), rc.ConstantSparsity(0.5, 0, frequency=1))
    )
    model.fit(x, y, verbose=0)
    assert rc.sparsity_report(model).total.sparsity == 0.5


@pytest.mark.parametrize("jit_compile", sampled([False, True], 0))
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_precision_and_compilation_leave_the_sparsity_exact(policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    model = compiled(
        dense_net(), rc.DNS(sgd(), decay()), jit_compile=jit_compile and keras.backend.backend() != "torch"
    )
    model.fit(*small_data(), batch_size=16, epochs=3, verbose=0)
    assert rc.sparsity_report(model).total.sparsity == 0.75


def test_callback_prunes_a_model_that_is_already_compiled_and_keeps_its_momentum():
    x, y = small_data()
    reference = compiled(dense_net(), rc.DNS(sgd(), decay(), seed=4))
    start = reference.get_weights()
    reference.fit(x, y, batch_size=16, shuffle=False, epochs=3, verbose=0)
    model = compiled(dense_net(), sgd())
    model.set_weights(start)
    history = model.fit(
        x, y, batch_size=16, shuffle=False, epochs=3, verbose=0, callbacks=[rc.DynamicNetworkSurgery(decay(), seed=4)]
    ).history
    for a, b in zip(reference.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert history["sparsity"][-1] == rc.sparsity_report(model).total.sparsity > 0.7


def test_callback_continues_in_a_second_fit_and_after_dense_training():
    x, y = small_data()
    model = compiled(dense_net(), sgd())
    model.fit(x, y, batch_size=16, verbose=0)
    callback = rc.DynamicNetworkSurgery(decay(end=4))
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[callback])
    optimizer = model.optimizer
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert model.optimizer is optimizer
    assert rc.sparsity_report(model).total.sparsity == 0.75


@pytest.mark.slow
def test_resnet20_ends_within_a_point_of_its_target(rng):
    x = rng.random((64, 8, 8, 3), dtype="float32")
    y = rng.integers(0, 10, size=64)
    model = compiled(
        resnet_v2(20, (8, 8, 3)),
        rc.DNS(sgd(), rc.PolynomialDecay(0.0, 0.8, 0, 12, frequency=4), train_unpruned=False),
    )
    model.fit(x, y, batch_size=16, epochs=4, verbose=0)
    assert rc.sparsity_report(model).total.sparsity == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: rc.DNS(rc.DNS("sgd", rc.ConstantSparsity(0.5, 0)), rc.ConstantSparsity(0.5, 0)), "optimizer"),
        (lambda: rc.DNS("sgd", 0.5), "schedule"),
        (lambda: rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), include="nothing").build(dense_net().variables), "include"),
    ],
)
def test_bad_arguments_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_callback_refuses_a_model_without_optimizer_or_with_another_rule():
    callback = rc.DynamicNetworkSurgery(decay())
    callback.set_model(dense_net())
    with pytest.raises(ValueError, match="compiled"):
        callback.on_train_begin()
    callback.set_model(compiled(dense_net(), rc.MagnitudePruning(sgd(), decay())))
    with pytest.raises(ValueError, match="MagnitudePruning"):
        callback.on_train_begin()


@pytest.mark.parametrize("rule", RULES)
def test_every_argument_survives_the_config(rule):
    extra = {
        rc.DNS: {"update_probability": 0.3, "band": 0.2, "exact": True, "seed": 9},
        rc.RandomPruning: {"seed": 4},
        rc.RigL: {"drop_fraction": 0.1},
    }.get(rule, {})
    common = {"include": "dense", "train_unpruned": False, "name": "pruner", "cut_slots": "zero"}
    common |= {"distribution": {"dense": 0.25}, "pattern": rc.NM(1, 4)}
    optimizer = rule(sgd(), decay(), **common, **extra)
    config = optimizer.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert again.get_config() == config
    assert set(config) == {"inner_optimizer", "schedule", *common, *extra}
