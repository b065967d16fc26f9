"""The private names of Keras and TensorFlow mean what the package takes them for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tf_robustcomp.backend import keras_private


def trained(optimizer, gradients=(1.0,)):
    """A variable of ones after steps with constant gradients."""
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([ops.full((3,), gradient)], [variable])
    return variable


def test_all_layers_holds_those_of_nested_models():
    inner = keras.Sequential([layers.Dense(2), layers.ReLU()])
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(1)])
    found = keras_private.all_layers(model)
    assert {id(layer) for layer in (model, inner, *inner.layers, *model.layers)} <= {id(layer) for layer in found}


def test_the_loss_tracker_holds_the_mean_loss_that_fit_reports():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    loss = model.evaluate(np.ones((4, 1)), np.zeros((4, 1)), verbose=0)
    assert float(keras_private.loss_tracker(model).result()) == pytest.approx(loss)


def test_a_seed_of_the_stated_type_draws():
    seed = ops.cast([1, 2], keras_private.random_seed_dtype())
    generator = keras.random.SeedGenerator(1)
    assert generator.state.dtype == keras.backend.standardize_dtype(seed.dtype)


def test_trained_and_own_variables_and_keys():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    variable = trained(optimizer)
    assert [id(one) for one in keras_private.trained_variables(optimizer)] == [id(variable)]
    own = keras_private.own_variables(optimizer)
    assert [one.path for one in own] == [one.path for one in optimizer.variables]
    other = keras.Variable(np.ones(3, "float32"))
    key = keras_private.variable_key(optimizer, variable)
    assert key == keras_private.variable_key(optimizer, variable) != keras_private.variable_key(optimizer, other)


def test_the_counter_of_steps_is_the_public_one():
    optimizer = keras.optimizers.SGD(0.1)
    trained(optimizer, [1.0, 1.0])
    keras_private.count_step(optimizer)
    assert int(optimizer.iterations) == 3


def test_adams_moments_are_those_of_its_formula():
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.8, beta_2=0.9)
    variable = trained(optimizer, [2.0])
    first, second = keras_private.adam_moments(optimizer, variable)
    np.testing.assert_allclose(ops.convert_to_numpy(first), 0.2 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(second), 0.1 * 4.0, rtol=1e-6)


def test_accumulated_gradients_are_the_sum_so_far():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    variable = trained(optimizer, [1.0, 2.0])
    np.testing.assert_allclose(ops.convert_to_numpy(keras_private.accumulated_gradient(optimizer, variable)), 3.0)
    assert keras_private.accumulated_gradient(keras.optimizers.SGD(0.1), variable) is None


@pytest.mark.parametrize(
    ("optimizer", "count"),
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 1),
        (lambda: keras.optimizers.Adam(0.1), 2),
        (lambda: keras.optimizers.RMSprop(0.1), 1),
        (lambda: keras.optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2), 2),
    ],
)
def test_slots_are_found_with_the_shape_of_their_variable(optimizer, count):
    optimizer = optimizer()
    variable = trained(optimizer)
    slots = [slot for slots in keras_private.slot_lists(optimizer).values() for slot in slots if hasattr(slot, "shape")]
    assert len([slot for slot in slots if slot.shape == variable.shape]) == count


def test_slots_begin_with_the_stated_value():
    optimizer = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.3)
    optimizer.build([keras.Variable(np.ones(3, "float32"))])
    for name, slots in keras_private.slot_lists(optimizer).items():
        for slot in slots:
            begin = keras_private.initial_slot_value(optimizer, name)
            np.testing.assert_allclose(ops.convert_to_numpy(slot), begin, rtol=1e-6)


@pytest.mark.tensorflow_only
def test_replicas_merge_once_outside_of_replicas():
    import tensorflow as tf

    seen = []
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    strategy.run(lambda: keras_private.merge_replicas(seen.append))
    assert seen == [strategy]


def test_the_holder_of_a_variable_is_the_layer_that_made_it():
    class Holds(layers.Layer):
        def build(self, shape):
            self.alone = self.add_weight(shape=(2,))
            self.several = [self.add_weight(shape=(2,)), self.add_weight(shape=(3,))]
            self.named = {"a": self.add_weight(shape=(2,))}

    dense, holds, lone = layers.Dense(2), Holds(), keras.Variable(np.ones(2), name="lone")
    dense.build((None, 3))
    holds.build(None)
    for variable, expected in (
        (dense.kernel, (dense, "kernel")),
        (holds.alone, (holds, "alone")),
        (holds.several[1], (holds, "several")),
        (holds.named["a"], (holds, "named")),
        (lone, (None, "lone")),
    ):
        assert keras_private.holder(variable) == expected
    other = Holds()
    other.shared = dense.kernel
    assert keras_private.holder(dense.kernel) == (dense, "kernel")


def test_a_built_optimizer_trains_its_variables_and_owns_none_of_them():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    variables = [keras.Variable(np.ones(3, "float32")), keras.Variable(np.ones(2, "float32"))]
    before = len(optimizer.variables)
    keras_private.mark_built(optimizer, variables)
    assert optimizer.built and len(optimizer.variables) == before
    assert [optimizer._get_variable_index(variable) for variable in variables] == [0, 1]
    assert keras_private.trained_variables(optimizer) == variables


def test_a_replaced_optimizer_is_the_saved_one():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    adam = keras.optimizers.Adam(0.25)
    keras_private.replace_optimizer(model, adam)
    assert model.optimizer is adam
    assert model.get_compile_config()["optimizer"]["config"]["learning_rate"] == 0.25


def test_the_average_is_that_of_its_variable():
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    variable = trained(optimizer, [1.0, 1.0])  # of 1: to 0, then to -1
    np.testing.assert_allclose(ops.convert_to_numpy(keras_private.average(optimizer, variable)), -0.5)
    assert keras_private.average(optimizer, keras.Variable(np.ones(3, "float32"))) is None
    assert keras_private.average(keras.optimizers.SGD(1.0), variable) is None


def test_a_variable_holds_a_value_until_it_is_taken():
    variable = keras.Variable(np.ones(3, "float32"))
    assert keras_private.holds_value(variable)
    variable._value = None  # as Keras' JAX trainer does
    assert not keras_private.holds_value(variable)


def own_score(y_true, y_pred):
    return ops.mean(y_pred, axis=-1)


def test_the_direction_of_a_metric_is_that_of_its_kind():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"a": layers.Dense(2, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    metrics = {"a": ["accuracy", own_score], "b": ["mae"]}
    model.compile("sgd", {"a": "categorical_crossentropy", "b": "mse"}, metrics=metrics)
    values = model.evaluate(
        np.ones((4, 3)), {"a": np.eye(2)[[0, 1, 0, 1]], "b": np.ones((4, 1))}, verbose=0, return_dict=True
    )
    known = {name: keras_private.metric_direction(model, name) for name in values if not name.endswith("loss")}
    assert known == {"a_accuracy": "up", "a_own_score": None, "b_mae": "down"}


@pytest.mark.parametrize("sequential", [False, True])
def test_calls_come_in_the_order_in_which_they_are_needed(sequential):
    first, second = keras.layers.Dense(2, name="first"), keras.layers.Dense(3, name="second")
    if sequential:
        model = keras.Sequential([keras.Input((4,)), first, second])
    else:
        x = keras.Input((4,))
        y = first(x)
        model = keras.Model(x, [second(y) * 2.0, y])
    calls = keras_private.graph_nodes(model)
    known = {id(tensor) for tensor in model.inputs}
    for call in calls:
        assert {id(tensor) for tensor in call.input_tensors} <= known
        known |= {id(tensor) for tensor in call.outputs}
    assert {id(tensor) for tensor in model.outputs} <= known
    assert [call.operation for call in calls if call.operation in (first, second)] == [first, second]
    assert len(calls) == (3 if sequential else 4)  # the input, the layers, and the product


def test_models_with_variables_are_all_built_models_that_hold_them():
    x = keras.Input((4,))
    y = keras.layers.Dense(2)(x)
    part = keras.Model(x, y)
    whole = keras.Model(x, keras.layers.Dense(1)(y))
    found = keras_private.models_with(part.trainable_variables)
    assert {id(part), id(whole)} == {id(model) for model in found}
    assert [id(whole)] == [id(model) for model in keras_private.models_with(whole.trainable_variables)]
