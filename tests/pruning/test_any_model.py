"""One suite over models of every kind: what pruning promises holds for each."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tests.pruning import zoo
from tests.pruning.models import EAGERLY
from tests.sampling import sampled
from tf_robustcomp.pruning import is_kernel

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def decay(final=0.5):
    return rc.PolynomialDecay(0.0, final, 0, 3, frequency=1)


def fit(model, x, epochs=2, **options):
    model.fit(x, zoo.labels()[: len(x)], batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options)


def all_but_the_last(path, variable):
    return is_kernel(path, variable) and "logits" not in path


def values(variables):
    return [ops.convert_to_numpy(v) for v in variables]


@pytest.mark.parametrize("name", zoo.SMALL)
@pytest.mark.parametrize("rule", sampled([rc.DNS, rc.MagnitudePruning], 0))
def test_the_target_is_met_and_nothing_else_is_touched(name, rule):
    model, x = zoo.SMALL[name]()
    names, parameters = [layer.name for layer in model.layers], model.count_params()
    optimizer = rule(keras.optimizers.SGD(0.01), decay(), include=all_but_the_last)
    model.compile(optimizer, LOSS, run_eagerly=EAGERLY and rule is not rc.DNS)
    fit(model, x)
    assert [layer.name for layer in model.layers] == names and model.count_params() == parameters
    pruned = {id(p.variable) for p in model.optimizer.pruned}
    assert pruned
    for p in model.optimizer.pruned:
        kernel = ops.convert_to_numpy(p.variable)
        assert np.sum(kernel == 0) == round(0.5 * kernel.size), p.variable.path
    for variable in model.variables:
        value = ops.convert_to_numpy(variable)
        if id(variable) not in pruned and value.ndim >= 2 and "bias" not in variable.path:
            assert np.count_nonzero(value) == value.size, variable.path


@pytest.mark.parametrize("name", sampled(zoo.SMALL, 0, 4, 8))
def test_saving_and_resuming_is_exact(name, tmp_path):
    model, x = zoo.SMALL[name]()
    start = model.get_weights()
    model.compile(rc.DNS(keras.optimizers.Adam(0.01), decay()), LOSS, run_eagerly=EAGERLY)
    fit(model, x, epochs=1)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    # Keras does not keep the seeds of recurrent layers without dropout, which nobody draws from.
    for one, two in (
        (model.trainable_variables, loaded.trainable_variables),
        (model.optimizer.variables, loaded.optimizer.variables),
    ):
        for a, b in zip(values(one), values(two), strict=True):
            np.testing.assert_array_equal(a, b)
    fit(loaded, x, epochs=1)
    model.set_weights(start)
    model.compile(rc.DNS(keras.optimizers.Adam(0.01), decay()), LOSS, run_eagerly=EAGERLY)
    fit(model, x, epochs=1)
    fit(model, x, epochs=1)
    for a, b in zip(values(model.trainable_variables), values(loaded.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sampled(zoo.SMALL, 1, 5, 9))
def test_zero_sparsity_is_unpruned_training(name):
    model, x = zoo.SMALL[name]()
    start = model.get_weights()
    outputs = []
    for wrap in (lambda inner: inner, lambda inner: rc.DNS(inner, rc.ConstantSparsity(0.0, 0, frequency=1))):
        model.set_weights(start)
        model.compile(wrap(keras.optimizers.SGD(0.05, momentum=0.9)), LOSS, run_eagerly=EAGERLY)
        fit(model, x)
        outputs.append(model.predict(x, verbose=0))
    np.testing.assert_allclose(*outputs, atol=1e-5)
