"""Faults that users of pruning reported, B1, E8: sparse files and documents."""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc

pytestmark = pytest.mark.slow


# B1: a sparse file holds what layers keep outside of their variables.


@keras.saving.register_keras_serializable("tests")
class Table(layers.Layer):
    """A user's layer with a table that is no variable, and a number in an asset."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table, self.offset = np.zeros(6, "float32"), 0.0

    def build(self, shape):
        self.kernel = self.add_weight(shape=(6, 6), name="kernel")
        super().build(shape)

    def call(self, x):
        return ops.matmul(x, self.kernel) * self.table + self.offset

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["table"] = self.table

    def load_own_variables(self, store):
        self.table = np.array(store["table"])
        super().load_own_variables({"0": store["0"]})

    def save_assets(self, dir_path):
        with open(f"{dir_path}/offset.txt", "w") as file:
            file.write(str(self.offset))

    def load_assets(self, dir_path):
        with open(f"{dir_path}/offset.txt") as file:
            self.offset = float(file.read())


def with_normalization():
    x = np.random.default_rng(1).normal(50, 20, size=(16, 6)).astype("float32")
    inner = layers.Normalization()
    inner.adapt(x)
    nested = keras.Sequential([layers.Input((6,)), layers.Normalization(mean=1.0, variance=4.0), layers.Dense(6)])
    return keras.Sequential([layers.Input((6,)), inner, nested, layers.Dense(3)]), x


def with_discretization():
    x = np.random.default_rng(1).normal(50, 20, size=(16, 6)).astype("float32")
    layer = layers.Discretization(num_bins=4)
    layer.adapt(x)
    return keras.Sequential([layers.Input((6,)), layer, layers.Embedding(4, 3)]), x


def with_table():
    model, x = keras.Sequential([layers.Input((6,)), Table(), layers.Dense(3)]), np.ones((2, 6), "float32")
    model.layers[0].table, model.layers[0].offset = np.arange(6, dtype="float32"), 2.5
    return model, x


def with_integers(**options):
    x = np.array([[3, 7, 9], [7, 7, 3], [5, 1, 1]])
    layer = layers.IntegerLookup(**options)
    layer.adapt(x)
    return keras.Sequential([layers.Input((3,), dtype="int64"), layer, layers.Dense(3)]), x


def with_strings(layer):
    import tensorflow as tf

    x = tf.constant([["a b"], ["c d b"], ["é b"]])
    if not isinstance(layer, layers.Hashing) and not layer.get_config()["vocabulary"]:
        layer.adapt(x)
    return keras.Sequential([layers.Input((1,), dtype="string"), layer, layers.Dense(3)]), x


STATES = {
    "normalization": with_normalization,
    "discretization": with_discretization,
    "table": with_table,
}
STRINGS = {
    "integers": lambda: with_integers(output_mode="multi_hot"),
    "idf": lambda: with_integers(output_mode="tf_idf"),
    "strings": lambda: with_strings(layers.StringLookup(output_mode="multi_hot")),
    "text": lambda: with_strings(layers.TextVectorization(output_mode="tf_idf")),
    "given": lambda: with_strings(layers.TextVectorization(vocabulary=["b", "a"], output_mode="multi_hot")),
    "hashing": lambda: with_strings(layers.Hashing(4, output_mode="multi_hot")),
}


def comes_back_as_from_keras(made, tmp_path):
    model, x = made()
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(rc.load_model(tmp_path / "m.keras").predict(x, verbose=0), expected)
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    rc.save_sparse(loaded, tmp_path / "again.rcsm")
    np.testing.assert_array_equal(rc.load_sparse(tmp_path / "again.rcsm").predict(x, verbose=0), expected)


@pytest.mark.parametrize("name", STATES)
def test_b1_a_sparse_file_gives_the_predictions_of_a_keras_file(name, tmp_path):
    comes_back_as_from_keras(STATES[name], tmp_path)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", STRINGS)
def test_b1_vocabularies_come_back(name, tmp_path):
    comes_back_as_from_keras(STRINGS[name], tmp_path)


def test_b1_a_kernel_is_not_stored_twice_and_adapters_stay_as_they_are(tmp_path):
    model, x = with_table()
    model.layers[1].enable_lora(2)
    model.layers[1].lora_kernel_b.assign(np.ones((2, 3)))
    rc.save_sparse(model, tmp_path / "m.rcsm")
    with zipfile.ZipFile(tmp_path / "m.rcsm") as archive:
        states = json.loads(archive.read("config.json"))["states"]
    (state,) = states.values()
    assert state["own"]["0"] == 0 and state["own"]["table"][:2] == ["<f4", [6]]
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_b1_a_state_that_cannot_be_written_is_refused_and_its_layer_named(tmp_path):
    model, _ = with_table()
    model.layers[0].table = np.array([{"a": 1}], object)
    with pytest.raises(rc.InvalidArgument, match=f"layer {model.layers[0].name} must keep its state in arrays"):
        rc.save_sparse(model, tmp_path / "m.rcsm")
    assert not (tmp_path / "m.rcsm").exists()


@pytest.mark.parametrize("change", ["name", "absolute", "shape", "missing", "kind"])
def test_b1_a_damaged_state_is_refused_in_one_line_and_leads_nowhere(change, tmp_path):
    model, _ = with_table()
    path = tmp_path / "m.rcsm"
    rc.save_sparse(model, path)
    with zipfile.ZipFile(path) as archive:
        head, weights = json.loads(archive.read("config.json")), archive.read("weights.bin")
    (state,) = head["states"].values()
    data = state["assets"].pop("offset.txt")
    outside = tmp_path / "outside.txt"
    if change == "missing":
        head["states"] = {}
    elif change == "kind":
        state["own"] = 3
    elif change == "shape":
        state["own"]["table"][1] = [10**12]
    else:
        state["assets"][str(outside) if change == "absolute" else "../outside.txt"] = data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(head))
        archive.writestr("weights.bin", weights)
    with pytest.raises(rc.DataError, match=f"the state of layer {model.layers[0].name} cannot be read") as error:
        rc.load_sparse(path)
    assert "\n" not in str(error.value) and not outside.exists()


# E8: every public name of pruning and networks is in its document, and what loading needs is said ---------------------


def test_e8_every_public_name_is_documented():
    import tf_robustcomp.pruning as pruning

    docs = pathlib.Path(__file__).parents[2] / "docs"
    text = "".join((docs / f"{name}.md").read_text() for name in ("pruning", "recipes", "smaller", "extending"))
    names = [*pruning.__all__, "resnet_v2", "random_labels", "load_model", "Error", "InvalidArgument", "DataError"]
    assert all(hasattr(rc, name) for name in names)
    assert [name for name in names if f"rc.{name}" not in text] == []
