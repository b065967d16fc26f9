"""CIFAR-10 as TFRecords: one ``tf.train.Example`` an image, written by the tools, read whole into memory."""

import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_robustcomp.errors import DataError

IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 10
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
READ_BATCH = 512

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/format": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    "image/height": tf.io.FixedLenFeature((), tf.int64),
    "image/width": tf.io.FixedLenFeature((), tf.int64),
}


def manifest_path(path):
    """The file beside a record file that says how many records and bytes it was written with."""
    return Path(f"{path}.json")


def write_records(path, images, labels, progress=iter):
    """Write images and labels as TFRecords, whole or not at all.

    Written to a temporary name and renamed; then the manifest (record count and size in bytes) is written the same
    way, by which a reader notices a file that lost its end.

    Args:
        path: of the file.
        images: uint8 (n, 32, 32, 3).
        labels: integers (n,) in [0, 10).
        progress: wraps the iteration over records, such as ``tqdm.tqdm``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoded = tf.data.Dataset.from_tensor_slices(images).map(tf.io.encode_png, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for png, label in progress(zip(encoded.as_numpy_iterator(), labels, strict=True)):
                writer.write(_example(png, int(label)))
        manifest = {"records": len(labels), "bytes": temporary.stat().st_size}
        os.replace(temporary, path)
        temporary.write_text(json.dumps(manifest) + "\n")
        os.replace(temporary, manifest_path(path))
    finally:
        temporary.unlink(missing_ok=True)


def is_complete(path):
    """Whether ``path`` and its manifest exist and agree in size."""
    try:
        return json.loads(manifest_path(path).read_text())["bytes"] == Path(path).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_records(path):
    """Read and validate every record of a file.

    Args:
        path: of a file of ``tf.train.Example`` with the keys in `FEATURES`, by `write_records` or another converter.

    Returns:
        ``(images, labels)``: uint8 (n, 32, 32, 3) and int32 (n,), in the order of the file.

    Raises:
        DataError: the file is missing or empty, or names the first record that is truncated, corrupt or invalid.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with `python tools/download_and_convert_cifar10.py`")
    batches = tf.data.TFRecordDataset(str(path)).batch(READ_BATCH).map(_parse, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        parts = list(batches.as_numpy_iterator())
    except tf.errors.OpError:
        raise _first_fault(path) from None
    if not parts:
        raise DataError(f"{path}: holds no record; make it again with `python tools/download_and_convert_cifar10.py`")
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    _check_count(path, len(labels))
    return images, labels.astype(np.int32)


def _check_count(path, found):
    try:
        expected = json.loads(manifest_path(path).read_text())["records"]
    except FileNotFoundError:
        return  # a file by another converter
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{manifest_path(path)}: cannot be read; delete it or make {path} again") from None
    if expected != found:
        raise DataError(f"{path}: record {found}: missing; {expected} records were written. Make the file again")


def _example(png, label):
    def ints(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def texts(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "image/encoded": texts(png),
        "image/format": texts(b"png"),
        "image/class/label": ints(label),
        "image/height": ints(IMAGE_SHAPE[0]),
        "image/width": ints(IMAGE_SHAPE[1]),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _parse(serialized):
    example = tf.io.parse_example(serialized, FEATURES)
    label = example["image/class/label"]
    checks = [
        tf.debugging.assert_equal(tf.strings.substr(example["image/encoded"], 0, 8), PNG_SIGNATURE, "not a PNG image"),
        tf.debugging.assert_equal(example["image/height"], tf.constant(IMAGE_SHAPE[0], tf.int64), "image/height not 32"),
        tf.debugging.assert_equal(example["image/width"], tf.constant(IMAGE_SHAPE[1], tf.int64), "image/width not 32"),
        tf.debugging.assert_non_negative(label, "label below 0"),
        tf.debugging.assert_less(label, tf.constant(NUM_CLASSES, tf.int64), "label above 9"),
    ]
    with tf.control_dependencies(checks):
        images = tf.map_fn(_decode, example["image/encoded"], fn_output_signature=tf.uint8)
    return tf.ensure_shape(images, (None, *IMAGE_SHAPE)), label


def _decode(png):
    image = tf.io.decode_png(png)
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(image), IMAGE_SHAPE, "PNG is not 32x32x3")]):
        return tf.ensure_shape(image, IMAGE_SHAPE)


def _first_fault(path):
    """The slow way through a file that is known to be bad: record by record, to say which one and why."""
    records = iter(tf.data.TFRecordDataset(str(path)))
    index = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return DataError(f"{path}: could not be read; make the file again")
        except tf.errors.OpError as error:
            return DataError(f"{path}: record {index}: truncated or corrupt ({_reason(error)}). Make the file again")
        try:
            _parse(record[None])
        except (tf.errors.OpError, ValueError) as error:
            return DataError(f"{path}: record {index}: {_reason(error)}. Make the file again")
        index += 1


def _reason(error):
    text = str(getattr(error, "message", error)).strip().splitlines()[0]
    return text.split("} ", 1)[-1].split(" [Op:")[0].rstrip(".")[:160]
