"""Sources of images, and .npz files that lie."""

import io
import struct
import zipfile

import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.data.images import load_images, read_npz


def arrays(rng, **changes):
    return {
        "x_train": rng.integers(0, 256, size=(6, 8, 8), dtype=np.uint8),
        "y_train": np.arange(6),
        "x_test": rng.random((3, 8, 8, 1)).astype("float32"),
        "y_test": np.arange(3),
    } | changes


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load_digits()
    loaded = load_images("digits")
    assert loaded.x_train.shape == (1497, 8, 8, 1)
    both = np.concatenate([loaded.x_train, loaded.x_test])[..., 0]
    np.testing.assert_allclose(both / 255, digits.images / 16, atol=0.5 / 255 + 1e-9)
    np.testing.assert_array_equal(np.concatenate([loaded.y_train, loaded.y_test]), digits.target)


def test_npz_files_are_read_as_bytes_with_channels(tmp_path, rng):
    given = arrays(rng)
    np.savez_compressed(tmp_path / "a.npz", **given)
    loaded = load_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.x_train[..., 0], given["x_train"])
    np.testing.assert_allclose(loaded.x_test / 255, given["x_test"], atol=0.5 / 255 + 1e-6)
    assert loaded.x_test.dtype == np.uint8


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x_train": np.zeros((6, 8), np.uint8)}, "x_train"),
        ({"y_train": np.zeros(5, int)}, "y_train"),
        ({"x_test": np.full((3, 8, 8), 1.5)}, "x_test"),
        ({"x_test": np.full((3, 8, 8), np.nan)}, "x_test"),
        ({"y_test": np.zeros(3)}, "y_test"),
        ({"x_train": np.zeros((0, 8, 8)), "y_train": np.zeros(0, int)}, "x_train"),
    ],
)
def test_arrays_of_another_form_are_named(tmp_path, rng, changes, named):
    np.savez(tmp_path / "a.npz", **arrays(rng, **changes))
    with pytest.raises(rc.DataError, match=f"a.npz: .*{named}"):
        load_images(tmp_path / "a.npz")


def test_missing_files_and_names_and_other_sources_are_named(tmp_path, rng):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((1, 8, 8)))
    for source, named in (("none.npz", "no such file"), ("a.npz", "lacks the array y_train"), ("cats", "not a source")):
        with pytest.raises(rc.DataError, match=named):
            load_images(tmp_path / source if source.endswith("npz") else source)


def npy(shape, data, descr="|u1"):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize("shape", [(10**12, 8, 8), (10**6, 10**6), (5,), (2**62, 4)])
def test_a_header_that_asks_for_more_than_the_file_holds_is_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", npy(shape, b"abc"))
    with pytest.raises(rc.DataError, match=r"a\.npz: not a \.npz file that can be read"):
        read_npz(tmp_path / "a.npz", ["x_train"])


def test_pickles_are_never_loaded(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", buffer.getvalue())
    with pytest.raises(rc.DataError, match="allow_pickle=False"):
        read_npz(tmp_path / "a.npz", ["x_train"])


def test_damaged_archives_are_refused_or_read_exactly(tmp_path, rng):
    given = arrays(rng)
    np.savez_compressed(tmp_path / "a.npz", **given)
    data = (tmp_path / "a.npz").read_bytes()
    for _ in range(150):
        damaged = bytearray(data)
        if rng.random() < 0.5:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(data)) :]
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            read = read_npz(tmp_path / "b.npz", list(given))
        except rc.DataError:
            continue
        for array, expected in zip(read, given.values(), strict=True):
            np.testing.assert_array_equal(array, expected)
