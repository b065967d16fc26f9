"""Kind D: files from somebody else."""

import io
import json
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

import tf_robustcomp as rc
from tests.reports.conftest import SMALL
from tf_robustcomp import codec, plot_summary, reproduce, train_compressor
from tf_robustcomp.data import pictures
from tf_robustcomp.data.tfrecord import read_records, write_records
from tf_robustcomp.experiments import records
from tf_robustcomp.scheduling import worker
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import documents
from tf_robustcomp.utils.progress import read_progress

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


# D1: symbolic links in a folder lead out of it.


@pytest.mark.parametrize("name", [".lock", "tensorboard", "metrics.csv", "checkpoint.keras"])
def test_d1_a_run_directory_with_a_link_is_refused(name, tmp_path, refused):
    outside = tmp_path / "outside"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(outside)
    refused(train_compressor.main(["train", *SMALL, f"--train-dir={tmp_path / 'run'}"]), name, "symbolic link")
    assert not outside.exists()


@pytest.mark.parametrize("name", [".lock", "tasks", "figures", "runs", "report.md", "tasks/x.log"])
def test_d1_a_study_with_a_link_is_refused(name, tmp_path, refused):
    outside, link = tmp_path / "outside", tmp_path / "study" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    refused(reproduce.main(["robust", f"--out={tmp_path / 'study'}"]), name, "symbolic link")
    assert not outside.exists()


def test_d1_a_worker_writes_through_no_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/one.log").symlink_to(tmp_path / "outside")
    with pytest.raises(rc.RunError, match="symbolic link"):
        worker.perform(lambda: None, str(tmp_path), "one", "key", "codec", [["info"]])
    assert not (tmp_path / "outside").exists()


def test_d1_pictures_are_decoded_into_the_folder_only(trained, tmp_path, refused):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("L", (16, 16), 90).save(tmp_path / folder / "p.png")
    words = [str(tmp_path / "a/p.png"), str(tmp_path / "b/p.png")]
    assert codec.main(["encode", f"--model={trained}", f"--out={tmp_path / 'o.rcbs'}", *words]) == 0
    (tmp_path / "back").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back/b").symlink_to(tmp_path / "elsewhere")
    decode = ["decode", f"--model={trained}", f"--out={tmp_path / 'back'}", str(tmp_path / "o.rcbs")]
    refused(codec.main([*decode, "--force"]), "leads out of the folder")
    assert not list((tmp_path / "elsewhere").iterdir())


# D2 (python-pillow/Pillow 515): a picture's header is looked at before it is decoded.


def _png(width, height):
    """A PNG of zeros, deflated."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width * 3 + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _records(path, png):
    import tensorflow as tf

    write_records(path, np.zeros((3, 32, 32, 3), np.uint8), [1, 2, 3])
    serialized = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(serialized[1])
    example.features.feature["image/encoded"].bytes_list.value[0] = png
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (serialized[0], example.SerializeToString(), serialized[2]):
            writer.write(record)


def test_d2_a_large_picture_in_records_is_refused_undecoded(tmp_path):
    import resource

    _records(tmp_path / "r", _png(12_000, 12_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(rc.DataError, match="record 1: image/encoded is a PNG of shape .12000, 12000."):
        read_records(tmp_path / "r")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; decoded it has 432 MB


def test_d2_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_png(10_000, 9_000))
    tracemalloc.start()
    with pytest.raises(rc.DataError, match="10000 x 9000 pixels are more than"):
        pictures.read(tmp_path / "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# D3: one damaged neighbour does not end the work.

DAMAGED = ["", "{", "null", "[1]", '"x"', "[" * 100_000, '{"a":' * 100_000, '{"settings": null, "command": []}', "\x00"]


def _run(path, proportion, target=None, evaluation=None):
    path.mkdir(parents=True)
    settings = {"proportion_random": proportion} | ({} if target is None else {"target_sparsity": target})
    command = "train_resnet_random" if target is None else "prune_resnet_dns"
    (path / "config.json").write_text(json.dumps({"command": command, "settings": settings}))
    figures = {"accuracy": 0.5, "top5_recall": 0.9}
    content = {"random_labels": figures, "true_labels": figures, "sparsity": target or 0.0}
    (path / "eval_train.json").write_text(evaluation or json.dumps(content))


@pytest.mark.parametrize("content", DAMAGED)
def test_d3_the_summary_goes_on_without_a_damaged_neighbour(content, tmp_path, capsys):
    _run(tmp_path / "a", 0.3)
    _run(tmp_path / "b", 0.3, 0.9)
    _run(tmp_path / "c", 0.3, 0.8, content or "{}")
    _run(tmp_path / "d", 0.3, 0.7)
    (tmp_path / "d/config.json").write_text(content)
    assert plot_summary.main([str(tmp_path), f"--output={tmp_path / 's'}"]) == 0
    said = capsys.readouterr().out
    assert "left out: " in said and "c/eval_train.json: cannot be read" in said and "d/config.json: cannot be" in said
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("value", ["null", "[0.3]", '"0.3"', "{}"])
def test_d3_a_value_of_another_type_is_left_out(value, tmp_path, capsys):
    _run(tmp_path / "a", 0.3, 0.9)
    _run(tmp_path / "b", 0.3, 0.8)
    config = '{"command": "prune_resnet_dns", "settings": {"proportion_random": VALUE, "target_sparsity": 0.8}}'
    (tmp_path / "b/config.json").write_text(config.replace("VALUE", value))
    assert plot_summary.main([str(tmp_path), f"--output={tmp_path / 's'}"]) == 0
    assert "b/config.json: cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("content", DAMAGED)
def test_d3_every_document_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(rc.DataError, match=r"x\.json: cannot be read") as error:
        documents.read(path, dict[str, int])
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    (tmp_path / "progress.json").write_text(content)
    assert read_progress(tmp_path) == 0.0
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/t.json").write_text(content)
    assert Task("t", "codec", {}).record(tmp_path) is None
    (tmp_path / records.NAME).write_text(content)
    with pytest.raises(rc.DataError):
        records.read(tmp_path)
    write_records(tmp_path / "r", np.zeros((1, 32, 32, 3), np.uint8), [0])
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(rc.DataError, match="delete it"):
        read_records(tmp_path / "r")


def test_d3_an_array_that_is_an_archive_is_refused(tmp_path):
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    with zipfile.ZipFile(tmp_path / "b.npy", "w") as archive:
        archive.writestr("x", "y")
    for name in ("a.npy", "b.npy"):
        with pytest.raises(rc.DataError, match="not a .npy file"):
            pictures.read(tmp_path / name)
