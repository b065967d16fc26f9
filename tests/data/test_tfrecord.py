"""CIFAR-10 records: what is written is read, and what is damaged is named."""

import numpy as np
import pytest

import tf_robustcomp as rc

pytestmark = pytest.mark.tensorflow_only


@pytest.fixture
def written(tmp_path, rng):
    from tf_robustcomp.data.tfrecord import write_records

    images = rng.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, size=20)
    path = tmp_path / "cifar10_train.tfrecord"
    write_records(path, images, labels)
    return path, images, labels


def offsets(data):
    """Where each record begins: length (8 bytes), its CRC (4), data, its CRC (4)."""
    places, place = [], 0
    while place < len(data):
        places.append(place)
        place += 16 + int.from_bytes(data[place : place + 8], "little")
    return places


def example(**changes):
    """A record as another converter may write it: more keys, any order."""
    import tensorflow as tf

    values = {
        "image/encoded": tf.io.encode_png(np.zeros((32, 32, 3), np.uint8)).numpy(),
        "image/format": b"png",
        "image/class/label": 3,
        "image/height": 32,
        "image/width": 32,
        "image/filename": b"x.png",
    } | {key.replace("_", "/"): value for key, value in changes.items()}
    feature = {
        key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if isinstance(value, int)
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in values.items()
        if value is not None
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_raw(path, records):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def read(path):
    from tf_robustcomp.data.tfrecord import read_records

    return read_records(path)


def test_images_and_labels_come_back_in_order(written):
    path, images, labels = written
    read_images, read_labels = read(path)
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)
    assert (read_images.dtype, read_labels.dtype) == (np.uint8, np.int32)


def test_records_of_another_converter_are_read(tmp_path):
    images, labels = read(write_raw(tmp_path / "other.tfrecord", [example(), example(**{"image_class_label": 9})]))
    assert images.shape == (2, 32, 32, 3)
    assert labels.tolist() == [3, 9]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_class_label": 10}, "image/class/label 10"),
        ({"image_class_label": -1}, "image/class/label -1"),
        ({"image_class_label": None}, "image/class/label"),
        ({"image_encoded": b"JFIF, not a PNG"}, "not a PNG"),
        ({"image_encoded": b"\x89PNG\r\n\x1a\n broken"}, "damaged PNG"),
        ({"image_height": 31}, "image/height"),
        ({"image_width": 64}, "image/width"),
    ],
)
def test_an_invalid_record_is_named_with_its_index_and_reason(tmp_path, changes, reason):
    path = write_raw(tmp_path / "bad.tfrecord", [example(), example(), example(**changes), example()])
    with pytest.raises(rc.DataError, match=rf"bad.tfrecord: record 2: .*{reason}"):
        read(path)


@pytest.mark.parametrize("shape", [(32, 31, 3), (32, 32, 1), (32, 32, 4)])
def test_a_png_of_another_shape_is_named(tmp_path, shape):
    import tensorflow as tf

    png = tf.io.encode_png(np.zeros(shape, np.uint8)).numpy()
    path = write_raw(tmp_path / "bad.tfrecord", [example(), example(**{"image_encoded": png})])
    with pytest.raises(rc.DataError, match="record 1: .*PNG of shape"):
        read(path)


def test_every_truncation_is_noticed(written):
    path, _, _ = written
    data = path.read_bytes()
    places = offsets(data)
    for cut in (places[0] + 5, places[7], places[7] + 1, places[7] + 100, places[19], len(data) - 1):
        path.write_bytes(data[:cut])
        index = sum(place < cut for place in places) - (cut not in places)
        with pytest.raises(rc.DataError, match=f"cifar10_train.tfrecord: record {index}: "):
            read(path)


def test_a_flipped_bit_anywhere_is_noticed(written, rng):
    path, _, _ = written
    data = path.read_bytes()
    places = offsets(data)
    for bit in rng.integers(0, 8 * len(data), size=12):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        index = sum(place <= bit // 8 for place in places) - 1
        with pytest.raises(rc.DataError, match=f"record {index}: truncated or corrupt"):
            read(path)


def test_missing_and_empty_files_say_what_to_do(tmp_path):
    (tmp_path / "empty.tfrecord").touch()
    for name in ("missing.tfrecord", "empty.tfrecord"):
        with pytest.raises(rc.DataError, match=f"{name}: .*download_and_convert_cifar10"):
            read(tmp_path / name)


def test_an_interrupted_writing_leaves_nothing(tmp_path, rng):
    from tf_robustcomp.data.tfrecord import write_records

    def stop(pairs):
        for i, pair in enumerate(pairs):
            if i == 5:
                raise KeyboardInterrupt
            yield pair

    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "x.tfrecord", np.zeros((10, 32, 32, 3), np.uint8), np.zeros(10, int), progress=stop)
    assert list(tmp_path.iterdir()) == []
