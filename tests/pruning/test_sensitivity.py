"""Sensitivity of a model to the pruning of single kernels, against NumPy."""

import csv
import json
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, numpy_state, small_data
from tf_robustcomp.pruning.sensitivity_report import SensitivityRow

SPARSITIES = (0.25, 0.5, 0.9)


def ready(optimizer="adam"):
    """A dense net with weights of all kinds, compiled with accuracy, and its data."""
    model = compiled(dense_net(), optimizer, metrics=["accuracy"])
    rng = np.random.default_rng(5)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    return model, small_data()


def values(variable):
    return np.array(ops.convert_to_numpy(variable))


def cut(kernel, sparsity):
    """A kernel without its round(sparsity * size) weights of smallest magnitude."""
    flat = kernel.ravel().copy()
    flat[np.argsort(np.abs(flat), kind="stable")[: round(sparsity * flat.size)]] = 0
    return flat.reshape(kernel.shape)


def measured_by_numpy(weights, x, y):
    """Accuracy and mean cross-entropy of the dense net."""
    first, first_bias, second, second_bias = (w.astype("float64") for w in weights)
    logits = np.tanh(x @ first + first_bias) @ second + second_bias
    chosen = logits[np.arange(len(y)), y]
    losses = np.log(np.exp(logits).sum(axis=1)) - chosen
    return {"accuracy": np.mean(logits.argmax(axis=1) == y), "loss": losses.mean()}


class Counted:
    """Count the calls of ``model.evaluate``; raise ``error`` in the call of number ``at``."""

    def __init__(self, monkeypatch, model, error=None, at=0):
        self.calls, evaluate = 0, model.evaluate

        def counted(*args, **kwargs):
            self.calls += 1
            if self.calls == at:
                raise error
            return evaluate(*args, **kwargs)

        monkeypatch.setattr(model, "evaluate", counted)


def sensitivity(model, data, sparsities=SPARSITIES, **options):
    return rc.sensitivity(model, data, sparsities, verbose=0, **options)


def test_every_point_is_numpys():
    model, (x, y) = ready()
    weights = [values(v) for v in model.weights]
    report = sensitivity(model, (x, y))
    assert report.unpruned == pytest.approx(measured_by_numpy(weights, x, y), rel=1e-5)
    assert report.examples == 64
    expected = [(model.weights[i].path, s, weights[i].size) for i in (0, 2) for s in SPARSITIES]
    assert [(row.path, row.sparsity, row.parameters) for row in report.rows] == expected
    for number, row in enumerate(report.rows):
        pruned = list(weights)
        place = 2 * (number // len(SPARSITIES))
        pruned[place] = cut(weights[place], row.sparsity)
        assert row.values == pytest.approx(measured_by_numpy(pruned, x, y), rel=1e-5)


def test_sample_weights_count():
    model, (x, y) = ready()
    model.compile("adam", model.loss, weighted_metrics=["accuracy"])
    counted = (y == 1).astype("float32")
    report = sensitivity(model, (x, y, counted), [0.5])
    weights = [values(v) for v in model.weights]
    weights[0] = cut(weights[0], 0.5)
    expected = measured_by_numpy(weights, x[y == 1], y[y == 1])["accuracy"]
    assert report.rows[0].values["accuracy"] == pytest.approx(expected, rel=1e-5)


def test_a_pattern_cuts_in_its_units():
    model, (x, y) = ready()
    report = sensitivity(model, (x, y), [0.5], pattern=rc.NM(2, 4), include="dense_1/kernel")
    weights = [values(v) for v in model.weights]
    groups = weights[2].reshape(4, 4, 4)  # four inputs in a row compete
    lowest = np.argsort(np.abs(groups), axis=1)[:, :2]
    np.put_along_axis(groups, lowest, 0, axis=1)
    weights[2] = groups.reshape(16, 4)
    assert report.rows[0].values == pytest.approx(measured_by_numpy(weights, x, y), rel=1e-5)


def test_a_method_that_looks_at_data_sees_the_unpruned_model():
    model, (x, y) = ready()
    seen = x[:40]
    report = sensitivity(model, (x, y), [0.25, 0.5], method="wanda", calibration=seen)
    weights = [values(v) for v in model.weights]
    inputs = {0: seen, 2: np.tanh(seen @ weights[0] + weights[1])}
    for row, place in zip(report.rows, (0, 0, 2, 2), strict=True):
        pruned = [w.copy() for w in weights]
        score = np.abs(weights[place]) * np.linalg.norm(inputs[place], axis=0)[:, None]
        count = round(row.sparsity * len(score))
        np.put_along_axis(pruned[place], np.argsort(score, axis=0)[:count], 0, axis=0)
        assert row.values == pytest.approx(measured_by_numpy(pruned, x, y), rel=1e-5)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.x[16 * index : 16 * index + 16], self.y[16 * index : 16 * index + 16]


def tensorflow_dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


@pytest.mark.parametrize("dataset", [Batches, tensorflow_dataset])
def test_a_dataset_gives_the_same_as_its_arrays(dataset):
    model, data = ready()
    report, expected = sensitivity(model, dataset(*data)), sensitivity(model, data, batch_size=16)
    assert report == expected and report.examples == 64


def schedule():
    return rc.ConstantSparsity(0.5, 0, frequency=1)


@pytest.mark.parametrize("optimizer", [lambda: keras.optimizers.Adam(), lambda: rc.DNS("adam", schedule())])
def test_weights_and_optimizer_are_bit_equal_afterwards(optimizer):
    model, data = ready(optimizer())
    model.fit(*data, epochs=2, verbose=0)
    before = numpy_state(model)
    sensitivity(model, data)
    for one, other in zip(numpy_state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


class NoisyAndCounting(layers.Layer):
    """Adds noise in inference, too, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign(self.calls + 1)
        return x + keras.random.normal(ops.shape(x), seed=self.seed_generator) + self.calls


def noisy_net():
    model = keras.Sequential([layers.Input((8,)), layers.Dense(16), NoisyAndCounting(), layers.Dense(4, name="last")])
    return compiled(model, "sgd")


def test_no_value_depends_on_those_measured_before():
    model, data = noisy_net(), small_data()
    before = [values(v) for v in model.variables]
    both = sensitivity(model, data)
    second = sensitivity(model, data, [0.5], include="last/kernel")
    assert second.rows == (both.rows[4],) and second.unpruned == both.unpruned
    for one, other in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(values(one), other)


class Broken(Batches):
    """Raises at its batch of a number, counted over all passes."""

    def __init__(self, x, y, at, error):
        super().__init__(x, y)
        self.left, self.error = at, error

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().__getitem__(index)


class Looking(keras.callbacks.Callback):
    """Asks for the model, to which Keras then brings what an interrupted evaluation left, under JAX."""

    def on_test_begin(self, logs=None):
        assert self.model.built


@pytest.mark.parametrize(
    "at, error",
    [(3, RuntimeError("disk")), (6, RuntimeError("disk")), (17, RuntimeError("disk")), (18, KeyboardInterrupt())],
)
def test_an_error_in_the_middle_leaves_the_model_as_it_was(at, error):
    """Wherever it comes: while the data are read, in the first evaluation, at any batch of a later one."""
    model, data = ready()
    expected = model.evaluate(*data, verbose=0)  # which may build the optimizer
    before = numpy_state(model)
    with pytest.raises((Exception, KeyboardInterrupt)):  # TensorFlow makes its own error of it
        sensitivity(model, Broken(*data, at, error))
    for one, other in zip(numpy_state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.evaluate(*data, verbose=0, callbacks=[Looking()]) == expected
    model.fit(*data, epochs=1, verbose=0)


def test_an_interrupted_call_goes_on_and_ends_in_the_same(monkeypatch, tmp_path):
    model, data = ready()
    whole = sensitivity(model, data)
    path = tmp_path / "points.json"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counted(patch, model, KeyboardInterrupt(), at=4)  # the model as it is, two points, and this one
        sensitivity(model, data, cache=path)
    assert len(json.loads(path.read_text())["rows"]) == 2
    count = Counted(monkeypatch, model)
    resumed = sensitivity(model, data, cache=path)
    assert count.calls == 4 and resumed == whole and str(resumed) == str(whole)
    assert sensitivity(model, data, cache=str(path)) == whole and count.calls == 4
    more = sensitivity(model, data, (0.25, 0.75), cache=path)
    assert count.calls == 6 and [row.sparsity for row in more.rows] == [0.25, 0.75] * 2
    assert sensitivity(model, data, cache=path) == whole and count.calls == 6


def test_the_first_metric_is_no_loss_after_reading_either(tmp_path):
    model = keras.Sequential([layers.Input((8,)), layers.Dense(3, name="d")])
    model.compile("sgd", "mse", metrics=["mse", "mae"])
    x, _ = small_data()
    for _ in range(2):
        report = sensitivity(model, (x, x[:, :3]), [0.5], cache=tmp_path / "points.json")
        assert list(report.unpruned)[-1] == "loss" and not any(report.greater_is_better.values())


def other_weights(model):
    model.weights[1].assign(values(model.weights[1]) + 1)


CHANGES = {
    "model": lambda model, data: (other_weights(model), {"data": data})[1],
    "data": lambda model, data: {"data": (data[0], data[1][::-1].copy())},
    "arguments": lambda model, data: {"data": data, "pattern": rc.NM(1, 2)},
    "arguments and": lambda model, data: (model.compile("adam", model.loss), {"data": data})[1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_of_something_else_is_refused_and_stays(change, tmp_path, monkeypatch):
    model, data = ready()
    path = tmp_path / "points.json"
    sensitivity(model, data, [0.5], cache=path)
    content = path.read_bytes()
    options = CHANGES[change](model, data)
    count = Counted(monkeypatch, model)
    with pytest.raises(rc.InvalidArgument, match=f"points.json, with other {change.split()[0]}$") as caught:
        sensitivity(model, sparsities=[0.5], cache=path, **options)
    assert "\n" not in str(caught.value) and path.read_bytes() == content and count.calls == 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"key": {}, "rows": [1]}'])
def test_a_file_that_is_no_cache_is_refused_and_stays(content, tmp_path):
    model, data = ready()
    path = tmp_path / "points.json"
    path.write_text(content)
    with pytest.raises(rc.Error, match=re.escape(str(path))) as caught:
        sensitivity(model, data, cache=path)
    assert "\n" not in str(caught.value) and path.read_text() == content


def report_of(table, unpruned, greater_is_better, sparsities=SPARSITIES):
    rows = [
        SensitivityRow(path, sparsity, 8, {"m": value})
        for path, line in table.items()
        for sparsity, value in zip(sparsities, line, strict=True)
    ]
    return rc.SensitivityReport(tuple(rows), {"m": unpruned}, {"m": greater_is_better}, 64, "magnitude")


@pytest.mark.parametrize("greater", [True, False])
def test_an_allocation_is_that_of_brute_force(rng, greater):
    for drop in (0.0, 0.05, 0.2, 0.5):
        table = {f"layer_{i}/kernel": rng.integers(0, 11, size=3) / 10 for i in range(30)}
        chosen = report_of(table, 0.5, greater).allocation(drop).sparsities
        assert len(chosen) == 30
        for path, line in table.items():
            expected = 0.0
            for sparsity, value in zip(SPARSITIES, line, strict=True):
                tenths = round(10 * (0.5 - value if greater else value - 0.5))  # exact, in whole tenths
                if tenths <= 10 * drop:
                    expected = sparsity
            assert [v for pattern, v in chosen.items() if re.search(pattern, path)] == [expected]


def test_a_loss_of_exactly_the_drop_is_borne():
    """Metrics are float32, where 0.97 - 0.96 is more than 0.01."""
    for percent in range(1, 101):
        before, after = (float(np.float32(value / 100)) for value in (percent, percent - 1))
        report = report_of({"a/kernel": [after, 0.0 if percent > 2 else -1.0, -1.0]}, before, True)
        assert list(report.allocation(0.01).sparsities.values()) == [0.25]


def test_an_allocation_meets_no_other_path_and_takes_no_nan():
    report = report_of({"a.b/kernel": [1, 1, 1], "a+b/kernel": [1, np.nan, np.nan], "xa.b/kernel": [0, 0, 1]}, 1, True)
    allocation = report.allocation(0.5)
    paths = ["a.b/kernel", "a+b/kernel", "xa.b/kernel", "acb/kernel", "a.b/kernel_1"]
    assert allocation.final(0.3, paths, [()] * 5) == [0.9, 0.25, 0.9, 0.3, 0.3]


def test_an_allocation_is_a_distribution_of_prune_and_of_rules():
    model, data = ready()
    report = sensitivity(model, data)
    allocation = report.allocation(0.1)
    expected = [allocation.sparsities[f"^{re.escape(path)}$"] for path in report.kernels]
    rc.prune(model, 0.5, distribution=allocation)
    kernels = [values(model.weights[i]) for i in (0, 2)]
    assert [round(float(np.mean(k == 0)), 2) for k in kernels] == pytest.approx(expected, abs=0.02)
    model = compiled(model, rc.MagnitudePruning("sgd", schedule(), distribution=allocation))
    model.fit(*data, epochs=1, verbose=0)
    kernels = [values(model.weights[i]) for i in (0, 2)]
    assert [round(float(np.mean(k == 0)), 2) for k in kernels] == pytest.approx(expected, abs=0.02)


def own_score(y_true, y_pred):
    return ops.mean(y_pred, axis=-1)


def test_a_metric_that_keras_does_not_know_needs_a_direction():
    model = compiled(dense_net(), "sgd", metrics=[own_score])
    report = sensitivity(model, small_data())
    with pytest.raises(rc.InvalidArgument, match="greater_is_better must be given"):
        report.allocation(0.1)
    assert report.allocation(1e9, greater_is_better=True).sparsities.keys() == {
        f"^{re.escape(path)}$" for path in report.kernels
    }
    assert report.allocation(1e9, "loss") == report.allocation(1e9, greater_is_better=False)


@pytest.mark.parametrize("drop", [-0.1, np.nan, np.inf, "0.1", True, None])
def test_a_drop_outside_its_range_is_refused(drop):
    with pytest.raises(rc.InvalidArgument, match="drop must be"):
        report_of({"a/kernel": [1, 1, 1]}, 1, True).allocation(drop)


def test_unknown_metrics_and_unpruned_nan_are_refused(tmp_path):
    report = report_of({"a/kernel": [1, 1, 1]}, np.nan, True)
    for call in (report.table, lambda m: report.draw(tmp_path / "f.png", m), lambda m: report.allocation(0, m)):
        with pytest.raises(rc.InvalidArgument, match="metric must be 'm'"):
            call("accuracy")
    with pytest.raises(rc.InvalidArgument, match="metric must be finite before pruning"):
        report.allocation(0.1)


def test_the_table_has_kernels_as_rows_and_sparsities_as_columns():
    lines = str(report_of({"a/kernel": [0.75, 0.5, 0.25], "longer/kernel": [1, 2, 3]}, 0.8, True)).splitlines()
    assert lines[0] == "m with one kernel pruned by magnitude, n = 64, unpruned 0.8000"
    assert [line.split() for line in lines[1:]] == [
        ["kernel", "parameters", "0.25", "0.5", "0.9"],
        ["a/kernel", "8", "0.7500", "0.5000", "0.2500"],
        ["longer/kernel", "8", "1.000", "2.000", "3.000"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_csv_holds_every_value(tmp_path):
    model, data = ready()
    report = sensitivity(model, data)
    report.to_csv(tmp_path / "points.csv")
    with open(tmp_path / "points.csv", newline="") as file:
        first, *rows = csv.DictReader(file)
    assert first["path"] == "unpruned" and float(first["accuracy"]) == report.unpruned["accuracy"]
    assert len(rows) == 6
    for row, expected in zip(rows, report.rows, strict=True):
        assert (row["path"], float(row["sparsity"]), int(row["parameters"])) == (
            expected.path,
            expected.sparsity,
            expected.parameters,
        )
        assert {name: float(row[name]) for name in expected.values} == expected.values


def drawn(monkeypatch, report, path):
    """The axes of a figure, and whether its file was written."""
    from tf_robustcomp.utils import drawing

    figures, save = [], drawing.save
    monkeypatch.setattr(drawing, "save", lambda figure, *paths: (figures.append(figure), save(figure, *paths)))
    report.draw(path)
    return figures[0].axes[0]


@pytest.mark.parametrize("count", [3, 40])
def test_a_figure_names_the_kernels_that_lose_most(count, monkeypatch, tmp_path):
    """Lines differ by marker or dashes, not by colour alone; the unpruned value is a line of its own."""
    table = {f"layer_{i}/kernel": [0.8, 0.8 - i / 100, 0.8 - i / 50] for i in range(count)}
    axis = drawn(monkeypatch, report_of(table, 0.85, True), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    named = [f"layer_{i}/kernel" for i in range(max(0, count - 16), count)]
    assert set(labels) == {"unpruned", *named} | ({"24 others, which lose less"} if count > 16 else set())
    assert len(axis.get_lines()) == 1 + count and "n = 64" in axis.get_title()
    assert list(axis.get_lines()[0].get_ydata()) == [0.85, 0.85]
    styles = [(one.get_marker(), one.get_linestyle()) for one in axis.get_lines() if one.get_label() in named]
    assert len(set(styles)) == len(named)


def test_a_bar_shows_how_far_it_is(capsys):
    model, data = ready()
    rc.sensitivity(model, data, SPARSITIES, verbose=1)
    assert "6/6" in capsys.readouterr().out
    rc.sensitivity(model, data, SPARSITIES, verbose=0)
    assert not capsys.readouterr().out


def endless(x, y):
    return tensorflow_dataset(x, y).repeat()


def unknown_length(x, y):
    return tensorflow_dataset(x, y).filter(lambda a, b: True)


def two_of_a_path():
    parts = [keras.Sequential([layers.Input((8,)), layers.Dense(8, name="d")], name="part") for _ in range(2)]
    return compiled(keras.Sequential([layers.Input((8,)), parts[0], layers.Flatten(), renamed(parts[1])]), "sgd")


def renamed(part):
    part.name = "other"
    return part


BAD = {
    "model must be a built": lambda m, x, y: {"model": keras.Sequential([layers.Dense(2)])},
    "model must be compiled": lambda m, x, y: {"model": dense_net()},
    r"sparsities must be numbers in \(0, 1\)": lambda m, x, y: {"sparsities": [0.5, 1.0]},
    r"sparsities must be numbers in \(0, 1\), each": lambda m, x, y: {"sparsities": [0.0]},
    "sparsities must be numbers": lambda m, x, y: {"sparsities": []},
    "sparsities must be": lambda m, x, y: {"sparsities": 0.5},
    "sparsities must": lambda m, x, y: {"sparsities": [0.5, 0.5]},
    "sparsities": lambda m, x, y: {"sparsities": [np.nan]},
    "method must be one of": lambda m, x, y: {"method": "best"},
    "calibration must be given for method wanda": lambda m, x, y: {"method": "wanda"},
    "calibration must have the model's input shapes": lambda m, x, y: {"method": "wanda", "calibration": x[:, 1:]},
    "pattern must cut single kernels": lambda m, x, y: {"pattern": rc.Channels(coupled=True)},
    "include must choose at least one": lambda m, x, y: {"include": "nothing"},
    "include must choose variables of different paths": lambda m, x, y: {"model": two_of_a_path()},
    "sparsity must leave a unit": lambda m, x, y: {"pattern": rc.Channels(), "sparsities": [0.5, 0.99]},
    "batch_size must be": lambda m, x, y: {"batch_size": 0},
    r"data must be \(x, y\), \(x, y, sample_weight\) or a dataset. Received: ndarray": lambda m, x, y: {"data": x},
    "data must be .* Received: list": lambda m, x, y: {"data": [x, y]},
    "data must be .* Received: tuple": lambda m, x, y: {"data": (x, y, y, y)},
    "data must be .* Received: NoneType": lambda m, x, y: {"data": None},
    "data must be .* Received: generator without": lambda m, x, y: {"data": (i for i in [(x, y)])},
    "data must be .* Received: _?RepeatDataset without": lambda m, x, y: {"data": endless(x, y)},
    "data must be .* Received: _?FilterDataset without": lambda m, x, y: {"data": unknown_length(x, y)},
    "data must hold at least one example": lambda m, x, y: {"data": (x[:0], y[:0])},
    "data must hold at least": lambda m, x, y: {"data": tensorflow_dataset(x[:0], y[:0])},
    "data must be arrays of equal length": lambda m, x, y: {"data": (x, y[1:])},
    "cache must lie in a folder that exists": lambda m, x, y: {"cache": "no/such/folder/points.json"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_before_any_evaluation(message, monkeypatch):
    model, (x, y) = ready()
    arguments = {"model": model, "data": (x, y)} | BAD[message](model, x, y)
    count = Counted(monkeypatch, arguments["model"])
    before = numpy_state(model)
    with pytest.raises(rc.InvalidArgument, match=message) as caught:
        sensitivity(**arguments)
    assert "\n" not in str(caught.value) and count.calls == 0
    for one, other in zip(numpy_state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_of_another_shape_is_one_line():
    model, (x, y) = ready()
    for data in ((x[:, 1:], y), (x, np.stack([y, y, y], axis=1))):
        with pytest.raises(rc.InvalidArgument, match="data must fit the model. Received: ") as caught:
            sensitivity(model, data)
        assert "\n" not in str(caught.value)
