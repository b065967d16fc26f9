"""Sparse files: exact, small, and refused when damaged."""

import csv
import json
import zipfile
import zlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_robustcomp as rc
from tests.pruning import zoo
from tests.pruning.models import compiled, dense_net, small_data
from tf_robustcomp.coding import sparse_tensors as coding


def pruned_net(sparsity=0.9):
    model = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(256), keras.layers.BatchNormalization(), keras.layers.Dense(64)]
    )
    compiled(model, rc.MagnitudePruning("sgd", rc.ConstantSparsity(sparsity, 0)))
    x = np.random.default_rng(0).normal(size=(32, 32)).astype("float32")
    model.fit(x, np.zeros(32, int), verbose=0)
    return model, x


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5), max_size=3), st.floats(0, 1), st.integers(0, 2**32))
def test_every_bit_of_every_float_comes_back(shape, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**32, tuple(shape), dtype=np.uint64).astype(np.uint32)  # NaN, inf, -0.0, denormals
    values = np.where(rng.random(tuple(shape)) < density, values, 0).astype(np.uint32).reshape(shape)
    data = coding.encode(values.view(np.float32))
    np.testing.assert_array_equal(coding.decode(data, tuple(shape)).view(np.uint32), values)


def test_the_size_is_near_the_entropy_of_mask_and_values(rng):
    values = np.where(rng.random(100_000) < 0.05, rng.normal(size=100_000), 0).astype("float32")
    entropy = 1e5 * -(0.05 * np.log2(0.05) + 0.95 * np.log2(0.95)) / 8
    kept = np.count_nonzero(values)
    assert entropy + 3 * kept * 0.95 < len(coding.encode(values)) < entropy + 4 * kept + 2500
    assert len(coding.encode(values, "codebook", bits=4)) < entropy + 0.5 * kept + 500


@pytest.mark.parametrize("coding_name", ["float32", "float16", "codebook"])
def test_a_model_comes_back_as_its_coding_promises(coding_name, tmp_path):
    model, x = pruned_net()
    rc.save_sparse(model, tmp_path / "m.rcsm", coding_name, bits=4)
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        one, two = a.numpy(), b.numpy()
        if coding_name == "float32" or one.ndim < 2:
            np.testing.assert_array_equal(one, two)
            continue
        np.testing.assert_array_equal(one == 0, two == 0)
        if coding_name == "float16":
            np.testing.assert_array_equal(np.float32(np.float16(one)), two)
        else:
            assert len(np.unique(two[two != 0])) <= 16
            assert np.abs(one - two).max() < 0.25 * np.abs(one).max()
    if coding_name == "float32":
        np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


def test_a_codebook_is_as_good_as_k_means_gets(rng):
    from sklearn.cluster import KMeans

    values = rng.normal(size=4000).astype("float32")
    found = coding.decode(coding.encode(values, "codebook", bits=3), (4000,))
    best = KMeans(8, n_init=10, random_state=0).fit(values[:, None])
    assert np.mean((values - found) ** 2) < 1.05 * best.inertia_ / 4000


@pytest.mark.parametrize("name", ["subclassed", "nested", "attention", "embedding", "custom_layer", "separable"])
def test_models_of_every_kind_come_back_exactly(name, tmp_path):
    model, x = zoo.SMALL[name]()
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


@pytest.mark.slow
def test_the_file_falls_with_the_sparsity(tmp_path):
    sizes = []
    for sparsity in (0.5, 0.8, 0.95):
        rc.save_sparse(pruned_net(sparsity)[0], tmp_path / "m.rcsm")
        sizes.append((tmp_path / "m.rcsm").stat().st_size)
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.25 * sizes[0]


def test_the_report_says_what_is_there(tmp_path):
    model, _ = pruned_net()
    report = rc.sparsity_report(model)
    rows = {row.path.split("/")[-2]: row for row in report.rows}
    for row in report.rows:
        variable = next(v for v in model.weights if v.path == row.path)
        values = variable.numpy()
        assert (row.parameters, row.nonzero) == (values.size, np.count_nonzero(values))
        assert row.dense_bytes == 4 * values.size
        assert row.gzip_bytes == len(zlib.compress(values.tobytes(), 6))
        assert row.sparse_bytes == len(coding.encode(values)) < row.gzip_bytes
    total = report.total
    assert len(rows) == 2 and total.parameters == 32 * 256 + 256 * 64
    assert total.sparse_bytes == sum(row.sparse_bytes for row in report.rows)
    assert str(report).count("\n") == 3 and f"{total.gzip_bytes:,}" in str(report)
    report.to_csv(tmp_path / "r.csv")
    written = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [int(row["sparse_bytes"]) for row in written] == [*(r.sparse_bytes for r in report.rows), total.sparse_bytes]
    assert rc.sparsity_report(model, sizes=False).total.gzip_bytes is None


@pytest.mark.slow
def test_damaged_files_are_refused_or_exact(tmp_path):
    model = compiled(dense_net(), rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0)))
    model.fit(*small_data(), verbose=0)
    path = tmp_path / "m.rcsm"
    rc.save_sparse(model, path)
    data = path.read_bytes()
    rng, refused = np.random.default_rng(3), 0
    for number in range(600):
        wrong = bytearray(data)
        at = int(rng.integers(len(data)))
        kind = number % 4
        if kind == 0:
            wrong[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            del wrong[at:]
        elif kind == 2:
            wrong[at:at] = rng.bytes(3)
        else:
            wrong[at : at + 4] = b"\xff" * 4
        if bytes(wrong) == data:
            continue
        path.write_bytes(wrong)
        try:
            loaded = rc.load_sparse(path)
        except rc.DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
        else:  # a date or a comment of the zip was hit
            for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
    assert refused > 450


def rewritten(path, **members):
    """The file's members by name, some of them replaced, as a zip."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    found.update({name.replace("_", "."): data for name, data in members.items()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in found.items():
            archive.writestr(name, data)


def test_each_fault_is_named(tmp_path):
    path = tmp_path / "m.rcsm"
    rc.save_sparse(dense_net(), path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("weights.bin")
    for members, message in (
        ({"other_txt": b""}, "must hold config.json and weights.bin"),
        ({"config_json": json.dumps({**config, "version": 7})}, "version 7; this package reads version 3"),
        ({"config_json": "[" * 100_000}, "config.json cannot be read"),
        ({"config_json": json.dumps({**config, "variables": 3})}, "has 4 variables, the file 3"),
        ({"weights_bin": weights[:-1]}, "cut"),
        ({"weights_bin": weights + b"\0"}, "bytes are left"),
        ({"weights_bin": b"\xff" * len(weights)}, "cut"),
        ({"weights_bin": bytes(50_000_000)}, "another variable|cut|cannot have"),
    ):
        path.write_bytes(data)
        rewritten(path, **members)
        with pytest.raises(rc.DataError, match=message):
            rc.load_sparse(path)
    for wrong in (b"RCSM" + data[4:40], data[:-1], data[: len(data) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(rc.DataError, match="not a whole sparse model"):
            rc.load_sparse(path)
    with pytest.raises(rc.DataError, match=r"none\.rcsm: no such file"):
        rc.load_sparse(tmp_path / "none.rcsm")
    with pytest.raises(rc.InvalidArgument, match="coding must be 'float32' or"):
        rc.save_sparse(dense_net(), path, "float8")
    with pytest.raises(rc.InvalidArgument, match="bits must lie in"):
        rc.save_sparse(dense_net(), path, "codebook", bits=9)


def test_the_file_is_a_zip_and_the_same_for_the_same_model(tmp_path):
    model = dense_net()
    for name in ("a", "b"):
        rc.save_sparse(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert zipfile.ZipFile(tmp_path / "a").namelist() == ["config.json", "weights.bin"]


def test_a_file_runs_no_code(tmp_path):
    """A configuration with a lambda layer is refused, as Keras' safe mode has it."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(2)])
    rc.save_sparse(model, tmp_path / "m.rcsm")
    with pytest.raises(rc.DataError, match="its model cannot be made"):
        rc.load_sparse(tmp_path / "m.rcsm")


def test_weights_that_are_no_floats_come_back(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    rc.save_sparse(model, tmp_path / "m.rcsm")
    assert json.dumps(rc.load_sparse(tmp_path / "m.rcsm").get_config()) == json.dumps(model.get_config())
