"""Whatever Keras does in training, done with a pruning optimizer."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, small_data
from tests.sampling import sampled
from tf_robustcomp.pruning.optimizer import as_optimizer

NAMES = (
    "SGD",
    "RMSprop",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "Adafactor",
    "Nadam",
    "Ftrl",
    "Lion",
    "Lamb",
    "Muon",
    "ScheduleFreeAdamW",
)


def decay(final=0.75, end=6):
    return rc.PolynomialDecay(0.0, final, 0, end, frequency=2)


def make(name, **options):
    if name == "Muon":
        return keras.optimizers.Muon(0.01, **options)
    return getattr(keras.optimizers, name)(0.01, **options)


def test_no_optimizer_of_keras_is_forgotten():
    found = {
        name
        for name in dir(keras.optimizers)
        if isinstance(getattr(keras.optimizers, name), type)
        and issubclass(getattr(keras.optimizers, name), keras.optimizers.Optimizer)
    }
    assert found - {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"} <= set(NAMES)


@pytest.mark.parametrize("cut_slots", ["keep", "zero"])
def test_several_optimizers_in_one_train_inside(cut_slots):
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        return  # since Keras 3.15
    adam = keras.optimizers.Adam(0.01)
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    inner = keras.optimizers.MultiOptimizer(lambda variable: adam if "dense_1" in variable.path else sgd)
    model = compiled(dense_net(), rc.MagnitudePruning(inner, decay(), cut_slots=cut_slots))
    model.fit(*small_data(), batch_size=16, epochs=2, verbose=0)
    assert rc.sparsity_report(model, sizes=False).total.sparsity == 0.75
    slots = [ops.convert_to_numpy(slot) for slot in (*adam._momentums, *sgd.momentums) if len(slot.shape) == 2]
    assert len(slots) == 2
    for slot in slots:
        assert np.mean(slot == 0) == 0.75 if cut_slots == "zero" else np.count_nonzero(slot)


@pytest.mark.parametrize("cut_slots", ["keep", "zero"])
@pytest.mark.parametrize("name", sampled([name for name in NAMES if hasattr(keras.optimizers, name)], 0, 1, 2))
def test_every_optimizer_of_keras_trains_inside(name, cut_slots):
    model = compiled(dense_net(), rc.DNS(make(name), decay(), cut_slots=cut_slots))
    model.fit(*small_data(), batch_size=16, epochs=2, verbose=0)
    assert rc.sparsity_report(model, sizes=False).total.sparsity == 0.75
    assert all(np.isfinite(kernel).all() for kernel in kernels(model))


@pytest.mark.parametrize(
    "options", [{"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"clipvalue": 0.01}, {"weight_decay": 0.1}]
)
def test_clipping_and_decay_are_the_inner_optimizer_s(options):
    x, y = small_data()
    plain = compiled(dense_net(), keras.optimizers.SGD(0.1, **options))
    start = plain.get_weights()
    wrapped = compiled(dense_net(), rc.DNS(keras.optimizers.SGD(0.1, **options), rc.ConstantSparsity(0.0, 0)))
    wrapped.set_weights(start)
    for model in (plain, wrapped):
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(plain.get_weights(), wrapped.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    pruned = compiled(dense_net(), rc.MagnitudePruning(keras.optimizers.SGD(0.1, **options), decay()))
    pruned.fit(x, y, batch_size=16, epochs=2, verbose=0)
    assert rc.sparsity_report(pruned, sizes=False).total.sparsity == 0.75


@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.RigL])
def test_masks_change_only_when_accumulated_gradients_are_applied(rule):
    x, y = small_data()
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = compiled(dense_net(), rule(inner, rc.ConstantSparsity(0.5, 0, frequency=1)))
    used = []
    for step in range(8):
        model.train_on_batch(x[8 * step : 8 * step + 8], y[8 * step : 8 * step + 8])
        used.append([ops.convert_to_numpy(p.mask) for p in model.optimizer.pruned])
    assert all(mask.all() for step in used[:3] for mask in step)
    assert all(np.mean(mask) == 0.5 for step in used[3:] for mask in step)
    for step in (4, 5, 6):
        assert all(np.array_equal(a, b) for a, b in zip(used[3], used[step], strict=True))


def test_several_steps_per_execution_are_several_steps():
    x, y = small_data()
    results = []
    several = 1 if keras.backend.backend() == "torch" else 4  # Keras on PyTorch knows but one
    for steps in (1, several):
        keras.utils.set_random_seed(2)
        model = compiled(dense_net(), rc.DNS("sgd", decay()), steps_per_execution=steps)
        model.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("outside", [True, False])
def test_loss_scaling_outside_or_inside(outside):
    scale = keras.optimizers.LossScaleOptimizer
    inner = keras.optimizers.SGD(0.05)
    optimizer = scale(rc.DNS(inner, decay())) if outside else rc.DNS(scale(inner), decay())
    model = compiled(dense_net(), optimizer)
    model.fit(*small_data(), batch_size=16, epochs=2, verbose=0)
    assert rc.sparsity_report(model, sizes=False).total.sparsity == 0.75


@pytest.mark.parametrize("rule", [rc.DNS, rc.RigL, rc.MovementPruning])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_every_kind_of_rule_in_mixed_precision(rule, policy):
    keras.config.set_dtype_policy(policy)
    model = compiled(dense_net(), rule("sgd", rc.ConstantSparsity(0.5, 0, frequency=1)))
    model.fit(*small_data(), batch_size=16, verbose=0)
    for p in as_optimizer(model.optimizer).pruned:
        assert ops.convert_to_numpy(p.mask).mean() == 0.5


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("compiled_step", [False, True])
def test_a_custom_loop_with_a_gradient_tape(compiled_step):
    import tensorflow as tf

    x, y = small_data()
    model = dense_net()
    optimizer = rc.DNS(keras.optimizers.Adam(0.01), decay())
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=True)
        )

    run = tf.function(step) if compiled_step else step
    for _ in range(8):
        run(tf.constant(x), tf.constant(y))
    assert [np.mean(kernel == 0) for kernel in kernels(model)] == [0.75, 0.75]


@pytest.mark.tensorflow_only
def test_the_monitor_writes_what_happens(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    x, y = small_data()
    model = compiled(dense_net(), keras.optimizers.SGD(0.5))
    surgery = rc.DynamicNetworkSurgery(rc.ConstantSparsity(0.5, 0, frequency=1), update_probability=1.0)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[surgery, rc.PruningMonitor(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for p in model.optimizer.pruned:
        path = p.variable.path

        def scalars(name, path=path):
            return [make_ndarray(event.tensor_proto).item() for event in events.Tensors(f"{name}/{path}")]

        assert scalars("sparsity")[-1] == 0.5
        assert scalars("threshold")[-1] == pytest.approx(float(ops.convert_to_numpy(p.threshold)))
        cut, spliced, size = np.cumsum(scalars("cut")), np.cumsum(scalars("spliced")), np.prod(p.variable.shape)
        np.testing.assert_allclose(cut - spliced, np.array(scalars("sparsity")) * size)
        assert cut[0] >= size / 2
    with pytest.raises(ValueError, match="PruningMonitor needs"):
        compiled(dense_net(), "sgd").fit(x, y, verbose=0, callbacks=[rc.PruningMonitor(tmp_path / "other")])


@pytest.mark.parametrize("train_unpruned", [True, False])
@pytest.mark.parametrize("scaled", [False, True])
def test_averages_are_those_of_the_variables_that_train(train_unpruned, scaled):
    """With a learning rate of 0 the average of a weight is the weight: nothing may change but what is cut."""
    x, y = small_data()
    inner = keras.optimizers.SGD(0.0, use_ema=True)
    inner = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    optimizer = rc.MagnitudePruning(
        inner, rc.ConstantSparsity(0.5, 0), include="dense_1/kernel", train_unpruned=train_unpruned
    )
    model = compiled(dense_net(), optimizer)
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    for one, two in zip(before, model.get_weights(), strict=True):
        changed = ~np.isclose(one, two, atol=1e-6)
        assert not changed.any() if one.shape != (16, 4) else (two[changed] == 0).all()
    assert rc.sparsity_report(model, sizes=False).total.sparsity == 0.5


def test_averages_reach_the_weights_through_loss_scaling():
    x, y = small_data()
    weights = []
    for use_ema in (True, False):
        keras.utils.set_random_seed(3)
        inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5, use_ema=use_ema, ema_momentum=0.9))
        model = compiled(dense_net(), rc.MagnitudePruning(inner, rc.ConstantSparsity(0.5, 0)))
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*weights, strict=True))


def test_a_step_that_overflows_leaves_the_scores_of_movement_pruning_finite():
    variable = keras.Variable(np.ones((4, 4), "float32"), name="kernel")
    scaler = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
    optimizer = rc.MovementPruning(scaler, rc.ConstantSparsity(0.5, 0, frequency=1))
    optimizer.build([variable])
    for value in (np.inf, 8.0):  # the second is a gradient of 1, if the scale is still 8, of 2 if it was halved
        optimizer.apply([ops.convert_to_tensor(np.full((4, 4), value, "float32"))], [variable])
    state = ops.convert_to_numpy(optimizer.pruned[0].state)
    assert np.isfinite(state).all()
    assert -2.0 <= state.min() <= state.max() <= -0.8


@pytest.mark.parametrize("cut_slots", ["keep", "zero"])
def test_accumulated_gradients_are_whole_for_cut_weights_and_for_rules(cut_slots):
    variable = keras.Variable(np.ones((2, 2), "float32"), name="kernel")

    class Seen(rc.PruningOptimizer):
        needs_gradient = True
        gradients = []

        def update_mask(self, weights, mask, threshold, context):
            self.gradients.append(ops.convert_to_numpy(context.gradient).copy())
            return ops.convert_to_tensor([[True, False], [True, False]]), threshold

    inner = keras.optimizers.SGD(1.0, gradient_accumulation_steps=4)
    optimizer = Seen(inner, rc.ConstantSparsity(0.5, 0, frequency=1), cut_slots=cut_slots)
    optimizer.build([variable])
    for value in (1.0, 2.0, 3.0, 6.0):
        optimizer.apply([ops.full((2, 2), value)], [variable])
    np.testing.assert_allclose(optimizer.gradients[-1], 3.0)
    np.testing.assert_allclose(ops.convert_to_numpy(optimizer.pruned[0].dense), 1.0 - 3.0)
