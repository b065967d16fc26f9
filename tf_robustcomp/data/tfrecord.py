"""CIFAR-10 as TFRecords: one ``tf.train.Example`` an image, written by the tools, read whole into memory."""

import dataclasses
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_robustcomp.utils import documents, files
from tf_robustcomp.utils.errors import DataError

IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = 10
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
READ_BATCH = 512
# Its first chunk is the header, which begins with width and height.
PNG_BEGINNING = PNG_SIGNATURE + struct.pack(">I4sII", 13, b"IHDR", IMAGE_SHAPE[1], IMAGE_SHAPE[0])
FRAME_BYTES = 16  # length, its checksum, and that of the data

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/format": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    "image/height": tf.io.FixedLenFeature((), tf.int64),
    "image/width": tf.io.FixedLenFeature((), tf.int64),
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Contents of a record file: its number of records, and its size in bytes."""

    records: int
    bytes: int


def manifest_path(path: str | Path) -> Path:
    """Return the path of the manifest of a record file: its number of records and bytes."""
    return Path(f"{path}.json")


def write_records(
    path: str | Path, images: np.ndarray, labels: Sequence[int] | np.ndarray, progress: Callable = iter
) -> None:
    """Write images and labels as TFRecords, whole or not at all.

    Written to a temporary name and renamed; then the manifest (record count and size in bytes) is written the same
    way, by which a reader notices a file that lost its end.

    Args:
        path: of the file.
        images: uint8 (n, 32, 32, 3).
        labels: integers (n,) in [0, 10).
        progress: wraps the iteration over records, such as ``tqdm.tqdm``.
    """
    encoded = tf.data.Dataset.from_tensor_slices(images).map(tf.io.encode_png, num_parallel_calls=tf.data.AUTOTUNE)
    with files.replacing(path) as temporary:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for png, label in progress(zip(encoded.as_numpy_iterator(), labels, strict=True)):
                writer.write(_example(png, int(label)))
        size = temporary.stat().st_size
    files.write_json(manifest_path(path), dataclasses.asdict(Manifest(len(labels), size)))


def is_complete(path: str | Path) -> bool:
    """Return whether ``path`` and its manifest exist and agree in size."""
    try:
        return documents.read(manifest_path(path), Manifest).bytes == Path(path).stat().st_size
    except (FileNotFoundError, DataError):
        return False


def read_records(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
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
    count = _count_frames(path)
    batches = tf.data.TFRecordDataset(str(path)).batch(READ_BATCH).map(_parse, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        parts = list(batches.as_numpy_iterator())
    except tf.errors.OpError:
        raise _first_fault(path) from None
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(columns[0]) != count or not _all_valid(*columns):
        raise _first_fault(path)
    images, labels = columns[:2]
    _check_count(path, len(labels))
    return images, labels.astype(np.int32)


def _count_frames(path):
    """Number of records by their length fields alone: TensorFlow takes a tail that is cut off for the end."""
    size, place, count = path.stat().st_size, 0, 0
    if not size:
        raise DataError(f"{path}: holds no record; make it again with `python tools/download_and_convert_cifar10.py`")
    with open(path, "rb") as file:
        while place < size:
            file.seek(place)
            place += FRAME_BYTES + int.from_bytes(file.read(8), "little")
            if place > size or size - place in range(1, FRAME_BYTES):
                count += place <= size
                raise DataError(f"{path}: record {count}: truncated or corrupt. Make the file again")
            count += 1
    return count


def _check_count(path, found):
    try:
        expected = documents.read(manifest_path(path), Manifest).records
    except FileNotFoundError:
        return  # a file by another converter
    except DataError as error:
        raise DataError(f"{error}; delete it or make {path} again") from None
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
    """Columns of a batch of records: image, label, height, width.

    A picture whose header states another size is not decoded: what it would unpack to may be large.
    """
    example = tf.io.parse_example(serialized, FEATURES)
    stated = tf.strings.substr(example["image/encoded"], 0, len(PNG_BEGINNING))
    with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_all(stated == PNG_BEGINNING), True)]):
        encoded = tf.identity(example["image/encoded"])
    images = tf.map_fn(
        lambda png: tf.ensure_shape(tf.io.decode_png(png), IMAGE_SHAPE),
        encoded,
        fn_output_signature=tf.TensorSpec(IMAGE_SHAPE, tf.uint8),
    )
    return images, example["image/class/label"], example["image/height"], example["image/width"]


def _all_valid(images, labels, heights, widths):
    return bool(
        ((labels >= 0) & (labels < NUM_CLASSES)).all()
        and (heights == IMAGE_SHAPE[0]).all()
        and (widths == IMAGE_SHAPE[1]).all()
    )


def _first_fault(path):
    """The slow way through a file that is known to be bad: record by record, to say which one and why."""
    records, index = iter(tf.data.TFRecordDataset(str(path))), 0
    while True:
        try:
            reason = _fault(next(records).numpy())
        except StopIteration:
            return DataError(f"{path}: changed while it was read; start again")
        except tf.errors.OpError:
            reason = "truncated or corrupt"
        if reason:
            return DataError(f"{path}: record {index}: {reason}. Make the file again")
        index += 1


def _fault(record):
    """The fault of one serialised record, or None."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError, whose module is private
        return "not a tf.train.Example"
    for key, spec in FEATURES.items():
        values = (feature[key].int64_list if spec.dtype == tf.int64 else feature[key].bytes_list).value
        if len(values) != 1:
            return f"{key} is missing or of another type"
    label = feature["image/class/label"].int64_list.value[0]
    sides = tuple(feature[f"image/{side}"].int64_list.value[0] for side in ("height", "width"))
    if not 0 <= label < NUM_CLASSES:
        return f"image/class/label {label} is not in [0, {NUM_CLASSES})"
    if sides != IMAGE_SHAPE[:2]:
        return f"image/height and image/width are {sides}, not {IMAGE_SHAPE[:2]}"
    return _png_fault(feature["image/encoded"].bytes_list.value[0])


def _png_fault(png):
    if not png.startswith(PNG_SIGNATURE):
        return "image/encoded is not a PNG"
    if png[12:16] != b"IHDR":
        return "image/encoded is a damaged PNG"
    if not png.startswith(PNG_BEGINNING):
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        return f"image/encoded is a PNG of shape {(height, width)}, not {IMAGE_SHAPE}"
    try:
        shape = tuple(tf.io.decode_png(png).shape)
    except tf.errors.OpError:
        return "image/encoded is a damaged PNG"
    return None if shape == IMAGE_SHAPE else f"image/encoded is a PNG of shape {shape}, not {IMAGE_SHAPE}"
