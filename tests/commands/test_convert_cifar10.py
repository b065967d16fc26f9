"""The converter, through its command line, on small archives made here."""

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tf_robustcomp.experiments import conversion

pytestmark = pytest.mark.tensorflow_only

TOOL = Path(__file__).parents[2] / "tools" / "download_and_convert_cifar10.py"
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("download_and_convert_cifar10", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def members(rng, records=3):
    parts = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        data = rng.integers(0, 256, size=(records, 3073), dtype=np.uint8)
        data[:, 0] %= 10
        parts[name] = data.tobytes()
    return parts | {"batches.meta.txt": "\n".join(NAMES).encode() + b"\n\n"}


def write_archive(path, parts):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def convert(tool, tmp_path, archive):
    return tool.main([f"--source={archive}", f"--out-dir={tmp_path / 'data'}"])


def test_records_hold_the_planes_of_the_archive_in_its_order(tool, tmp_path, rng):
    from tf_robustcomp.data.tfrecord import read_records

    parts = members(rng)
    assert convert(tool, tmp_path, write_archive(tmp_path / "a.tar.gz", parts)) == 0
    for split, names in (("train", [f"data_batch_{i}.bin" for i in range(1, 6)]), ("test", ["test_batch.bin"])):
        images, labels = read_records(tmp_path / "data" / f"cifar10_{split}.tfrecord")
        raw = np.frombuffer(b"".join(parts[name] for name in names), np.uint8).reshape(-1, 3073)
        np.testing.assert_array_equal(labels, raw[:, 0])
        for channel in range(3):  # red, green, blue planes of 32 rows of 32
            plane = raw[:, 1 + 1024 * channel : 1025 + 1024 * channel].reshape(-1, 32, 32)
            np.testing.assert_array_equal(images[..., channel], plane)
    assert (tmp_path / "data" / "labels.txt").read_text() == "".join(f"{i}:{n}\n" for i, n in enumerate(NAMES))


def test_run_again_it_says_that_all_is_there_and_a_damaged_file_is_made_again(tool, tmp_path, rng, capsys):
    archive = write_archive(tmp_path / "a.tar.gz", members(rng))
    convert(tool, tmp_path, archive)
    target = tmp_path / "data" / "cifar10_train.tfrecord"
    whole = target.read_bytes()
    capsys.readouterr()
    assert convert(tool, tmp_path, archive) == 0
    assert "all is there" in capsys.readouterr().out
    target.write_bytes(whole[:-10])
    assert convert(tool, tmp_path, archive) == 0
    assert target.read_bytes() == whole


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda parts: parts.pop("data_batch_3.bin"), "data_batch_3.bin: offset 0: .*lacks"),
        (lambda parts: parts.update({"test_batch.bin": parts["test_batch.bin"][:-1]}), "test_batch.bin: offset 6146: "),
        (lambda parts: parts.update({"test_batch.bin": b""}), "test_batch.bin: offset 0: "),
        (
            lambda parts: parts.update({"data_batch_2.bin": parts["data_batch_2.bin"][:3073] + b"\x0a" + b"\0" * 3072}),
            "data_batch_2.bin: offset 3073: label 10",
        ),
        (lambda parts: parts.update({"batches.meta.txt": b"cat\n"}), "batches.meta.txt: .*10 classes"),
    ],
)
def test_a_bad_archive_is_one_line_with_member_and_offset(tool, tmp_path, rng, capsys, damage, named):
    parts = members(rng)
    damage(parts)
    assert convert(tool, tmp_path, write_archive(tmp_path / "a.tar.gz", parts)) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert __import__("re").search(named, error), error
    assert not list((tmp_path / "data").glob("*.tfrecord"))


def test_missing_truncated_and_foreign_files_are_one_line(tool, tmp_path, rng, capsys):
    whole = write_archive(tmp_path / "a.tar.gz", members(rng)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar.gz").write_text("hello")
    for name in ("none.tar.gz", "cut.tar.gz", "text.tar.gz"):
        assert convert(tool, tmp_path, tmp_path / name) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and name in error and "method" not in error


def test_tfds_is_the_default_source(tool, tmp_path, monkeypatch, rng):
    # No download can happen here: a builder with the interface of tensorflow-datasets stands in for it.
    import tensorflow_datasets as tfds

    from tf_robustcomp.data.tfrecord import read_records

    images = rng.integers(0, 256, size=(4, 32, 32, 3), dtype=np.uint8)

    class Builder:
        info = type("Info", (), {"features": {"label": type("Label", (), {"names": NAMES})}})

        def download_and_prepare(self):
            pass

        def as_dataset(self, split, batch_size, shuffle_files):
            return {"image": images, "label": np.arange(4)}

    monkeypatch.setattr(conversion, "_check_network", lambda: None)
    monkeypatch.setattr(tfds, "builder", lambda name: Builder())
    monkeypatch.setattr(tfds, "as_numpy", lambda data: data)
    assert tool.main([f"--out-dir={tmp_path}"]) == 0
    np.testing.assert_array_equal(read_records(tmp_path / "cifar10_test.tfrecord")[0], images)


def test_a_failed_download_is_one_line(tool, tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds

    def fail(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(conversion, "_check_network", lambda: None)
    monkeypatch.setattr(tfds, "builder", fail)
    assert tool.main([f"--out-dir={tmp_path}"]) == 2
    assert "no route to host" in capsys.readouterr().err
