"""Iterative pruning with rewinding against a loop in NumPy; resuming; distillation into a pruned model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import EAGERLY, compiled, dense_net, kernels, small_data


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def by_numpy(w, x, y, rewind, rewind_epoch, sparsity, rounds, epochs):
    """Weights at the end of every round: gradient descent with momentum 0.5 and the rate 0.3 * 0.9^step."""
    mask, velocity, step = np.ones_like(w), np.zeros_like(w), 0
    kept, ends = (w.copy(), velocity.copy(), step), []
    for number in range(rounds + 1):
        if number:
            left = (1 - sparsity) ** (number / rounds)
            order = np.argsort(abs(w).ravel(), kind="stable")
            mask.ravel()[order[: round((1 - left) * w.size)]] = 0
            if rewind == "weights":
                w, velocity, step = kept[0].copy(), kept[1].copy(), kept[2]
            if rewind == "learning_rate":
                step = kept[2]
        w = w * mask
        for epoch in range(epochs if number == 0 else epochs - rewind_epoch):
            gradient = 2 * x.T @ (x @ w - y) / y.size
            velocity = 0.5 * velocity - 0.3 * 0.9**step * gradient
            w = (w + velocity) * mask
            step += 1
            if number == 0 and epoch + 1 == rewind_epoch:
                kept = w.copy(), velocity.copy(), step
        ends.append(w)
    return ends


@pytest.mark.parametrize(("rewind", "rewind_epoch"), [("weights", 0), ("weights", 2), ("learning_rate", 1), (None, 1)])
def test_rounds_are_those_of_numpy(rewind, rewind_epoch, rng):
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 4)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, use_bias=False)])
    rate = keras.optimizers.schedules.ExponentialDecay(0.3, 1, 0.9)
    model.compile(keras.optimizers.SGD(rate, momentum=0.5), "mse", run_eagerly=rewind_epoch != 2, jit_compile=False)
    first = values(model.weights[0]).astype("float64")
    expected = by_numpy(first, x, y, rewind, rewind_epoch, 0.75, 2, 4)
    options = {"rewind": rewind, "rewind_epoch": rewind_epoch, "batch_size": 32, "verbose": 0}
    report = rc.iterative_pruning(model, (x, y), 0.75, rounds=2, epochs=4, **options)
    np.testing.assert_allclose(values(model.weights[0]), expected[-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(values(model.weights[0]) == 0, expected[-1] == 0)
    assert [one.sparsity for one in report.rounds] == pytest.approx([0.0, 0.5, 0.75])
    assert [len(one.history["loss"]) for one in report.rounds] == [4, 4 - rewind_epoch, 4 - rewind_epoch]
    assert str(report).splitlines()[0].split() == ["round", "sparsity", "loss"]
    assert len(str(report).splitlines()) == 4


def dropout_net(optimizer="adam"):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(12, "relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(4)]
    )
    return compiled(model, optimizer, run_eagerly=EAGERLY, metrics=["accuracy"])


class Stop(keras.callbacks.Callback):
    """Ends with an error at the given beginning of an epoch, counted over all rounds."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def on_epoch_begin(self, epoch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_call_that_goes_on_ends_in_the_same_bits(tmp_path):
    """Rewinding the learning rate takes from both files that are kept, that of the epoch and that of the round."""
    data, options = small_data(), {"rewind": "learning_rate", "rewind_epoch": 1, "seed": 3, "batch_size": 16}
    options |= {"verbose": 0, "validation_data": data}
    whole = dropout_net()
    expected = rc.iterative_pruning(whole, data, 0.8, 2, 2, **options)
    stopped = dropout_net()
    before = [values(v) for v in stopped.variables]
    with pytest.raises(KeyboardInterrupt):
        rc.iterative_pruning(stopped, data, 0.8, 2, 2, folder=tmp_path, callbacks=[Stop(3)], **options)
    for old, variable in zip(before, stopped.variables, strict=True):
        np.testing.assert_array_equal(values(variable), old)
    assert isinstance(stopped.optimizer, keras.optimizers.Adam)
    assert sorted(path.name for path in tmp_path.glob("round-*")) == [
        f"round-{r}.{s}" for r in (0, 1) for s in ("json", "npz")
    ]
    for _ in range(2):  # goes on, and then finds all finished
        model = dropout_net()
        found = rc.iterative_pruning(model, data, 0.8, 2, 2, folder=tmp_path, **options)
        for one, other in zip(whole.variables, model.variables, strict=True):
            np.testing.assert_array_equal(values(one), values(other))
        assert found == expected
        assert all(0 <= one.metrics["accuracy"] <= 1 for one in found.rounds)


def test_zeros_stay_exact_when_the_model_is_trained_further():
    data = small_data()
    model = dropout_net()
    rc.iterative_pruning(model, data, 0.6, 2, 1, verbose=0)
    before = kernels(model)
    model.fit(*data, epochs=2, verbose=0)
    for old, new in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(new == 0, old == 0)
    assert rc.sparsity_report(model, sizes=False).total.sparsity == pytest.approx(0.6, abs=0.01)


def test_epochs_are_numbered_from_the_one_rewound_to():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    options = {"batch_size": 64, "verbose": 0, "callbacks": [callback]}
    rc.iterative_pruning(dropout_net(), small_data(), 0.5, 2, 3, rewind_epoch=1, **options)
    assert seen == [0, 1, 2, 1, 2, 1, 2]
    seen.clear()
    rc.iterative_pruning(dropout_net(), small_data(), 0.5, 1, 2, rewind=None, **options)
    assert seen == [0, 1, 2, 3]


def test_folders_of_others_are_refused(tmp_path):
    data, options = small_data(), {"batch_size": 64, "verbose": 0}
    rc.iterative_pruning(dropout_net(), data, 0.5, 1, 1, folder=tmp_path / "a", **options)
    with pytest.raises(rc.RunError, match="holds rounds with another epochs, sparsities; choose another folder"):
        rc.iterative_pruning(dropout_net(), data, 0.6, 1, 2, folder=tmp_path / "a", **options)
    with pytest.raises(rc.RunError, match="another optimizer;"):
        rc.iterative_pruning(dropout_net("sgd"), data, 0.5, 1, 1, folder=tmp_path / "a", **options)
    (tmp_path / "a" / "round-1.npz").write_bytes(b"no archive")
    with pytest.raises(rc.DataError, match=r"round-1.npz: cannot be read"):
        rc.iterative_pruning(dropout_net(), data, 0.5, 1, 1, folder=tmp_path / "a", **options)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "round-0.json").write_text("{}")
    with pytest.raises(rc.RunError, match="something else made it"):
        rc.iterative_pruning(dropout_net(), data, 0.5, 1, 1, folder=tmp_path / "b", **options)


BAD = [
    ({"sparsity": 1.0}, r"^sparsity must lie in \[0, 1\). Received: 1.0$"),
    ({"rounds": 0}, "^rounds must be an integer >= 1. Received: rounds=0$"),
    ({"epochs": 0}, "^epochs must be an integer >= 1. Received: epochs=0$"),
    ({"rewind": "all"}, "^rewind must be 'weights', 'learning_rate' or None. Received: rewind='all'$"),
    ({"rewind_epoch": 2}, "^rewind_epoch must be below epochs=2. Received: rewind_epoch=2$"),
    ({"initial_epoch": 1}, "^initial_epoch must be left to the recipe. Received: initial_epoch=1$"),
    ({"include": "nothing"}, "^include must choose at least one variable."),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused(options, message):
    arguments = {"sparsity": 0.5, "rounds": 1, "epochs": 2} | options
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.iterative_pruning(dropout_net(), small_data(), **arguments)


def test_models_of_no_plain_optimizer_are_refused():
    with pytest.raises(rc.InvalidArgument, match="^model must be compiled with an optimizer and a loss. Received: one"):
        rc.iterative_pruning(dense_net(), small_data(), 0.5, 1, 1)
    model = compiled(dense_net(), rc.MagnitudePruning("adam", rc.ConstantSparsity(0.5, 0)))
    with pytest.raises(rc.InvalidArgument, match="Received: a pruning optimizer"):
        rc.iterative_pruning(model, small_data(), 0.5, 1, 1)


def test_a_pruned_student_is_distilled_and_zeros_stay():
    x, y = small_data()
    teacher, student = dense_net(), dense_net()
    student.set_weights(teacher.get_weights())
    rc.prune(student, 0.75, distribution="global")
    before, of_teacher = kernels(student), kernels(teacher)
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation(temperature=3.0), student_loss_weight=0.3
    )
    keep = rc.MagnitudePruning("adam", rc.ConstantSparsity(0.0, 0), initial_masks="from_zeros")
    distiller.compile(keep, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    distiller.fit(x, y, batch_size=16, epochs=3, verbose=0)
    for old, new in zip(before, kernels(student), strict=True):
        np.testing.assert_array_equal(new == 0, old == 0)
        assert not np.array_equal(old, new)
    frozen = [values(v) for v in teacher.weights if v.name == "kernel"]
    assert kernels(teacher) == [] and len(of_teacher) == len(frozen)
    for old, new in zip(of_teacher, frozen, strict=True):
        np.testing.assert_array_equal(new, old)
    assert rc.sparsity_report(student, sizes=False).total.sparsity == 0.75


def test_a_distiller_prunes_its_student_on_the_way():
    x, y = small_data()
    student = dense_net()
    distiller = keras.distillation.Distiller(dense_net(), student, keras.distillation.LogitsDistillation())
    distiller.compile(rc.DNS("adam", rc.PolynomialDecay(0.0, 0.5, 0, 6, frequency=2)), "mse", run_eagerly=True)
    distiller.fit(x, keras.utils.to_categorical(y, 4), batch_size=16, epochs=2, verbose=0)
    assert rc.sparsity_report(student, sizes=False).total.sparsity > 0.3
