"""Sources of labelled images: MNIST, scikit-learn's digits, .npz files."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_robustcomp.errors import DataError

SOURCES = ("mnist", "digits")
DIGITS_TRAINING = 1497  # of 1,797; the last 300 are the test set
NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")
RESIZE_BATCH = 4096
DEFLATE_LIMIT = 1100  # no deflated member unpacks to more than this many times its size


class LabelledImages(NamedTuple):
    """Images uint8 (n, height, width, channels) and labels int32 (n,), for training and for test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def is_source(name):
    """Whether `load_images` takes this name (otherwise it may be a path of TFRecords)."""
    return name in SOURCES or str(name).endswith(".npz")


def load_images(source):
    """Images and labels of a source.

    Args:
        source: ``mnist`` (60,000 + 10,000 of 28 x 28, downloaded once by Keras), ``digits`` (scikit-learn's 1,797 real
            handwritten digits of 8 x 8, comes with its wheel), or the path of a ``.npz`` file with ``x_train``,
            ``y_train``, ``x_test``, ``y_test``: images (n, h, w) or (n, h, w, c), bytes or floats in [0, 1].

    Returns:
        LabelledImages

    Raises:
        DataError: the source is missing or not of this form.
    """
    if source == "digits":
        return _digits()
    if source == "mnist":
        return _checked("mnist", _mnist())
    if not str(source).endswith(".npz"):
        raise DataError(f"{source}: not a source of images; use mnist, digits or a .npz file")
    return _checked(source, read_npz(source, NPZ_NAMES))


def resized(images, side):
    """Bytes (n, h, w, c) as float32 in [0, 1] of (n, side, side, c): bilinear, antialiased.

    Args:
        images: uint8.
        side: pixels; images of that size are only scaled.
    """
    from keras import ops

    if images.shape[1:3] == (side, side):
        return images.astype(np.float32) / 255
    parts = []
    for first in range(0, len(images), RESIZE_BATCH):
        part = images[first : first + RESIZE_BATCH].astype(np.float32) / 255
        part = ops.image.resize(part, (side, side), "bilinear", antialias=True, data_format="channels_last")
        parts.append(ops.convert_to_numpy(part))
    return np.clip(np.concatenate(parts), 0, 1)


def read_npz(path, names):
    """Arrays of a .npz file, without pickle, and without trusting what its headers ask of the memory.

    Args:
        path: of the file.
        names: of the arrays wanted.

    Returns:
        list of arrays, in the order of the names.

    Raises:
        DataError: the file is missing, damaged, or lacks a name.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return [_member(path, archive, name) for name in names]
    except DataError:
        raise
    except Exception as error:  # damage surfaces in zipfile, zlib, numpy or a decoder, each with errors of its own
        raise DataError(f"{path}: not a .npz file that can be read ({str(error)[:120]})") from None


def _member(path, archive, name):
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"{path}: lacks the array {name}; it must hold {', '.join(NPZ_NAMES)}") from None
    if info.file_size > DEFLATE_LIMIT * max(info.compress_size, 1):
        raise DataError(f"{path}: {name}: its size of {info.file_size} bytes cannot be true")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise DataError(f"{path}: {name}: array format {version} is not supported")
        shape, _, dtype = read_header[version](file)
        if dtype.hasobject or dtype.kind not in "buif":
            raise DataError(f"{path}: {name}: must hold numbers, holds {dtype}")
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if expected != info.file_size - file.tell():
            raise DataError(
                f"{path}: {name}: its header says {expected} bytes, the file has {info.file_size - file.tell()}"
            )
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    n = DIGITS_TRAINING
    return LabelledImages(images[:n], labels[:n], images[n:], labels[n:])


def _mnist():
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras passes on whatever the download met
        raise DataError(
            f"mnist: the download failed ({str(error).splitlines()[0][:120]}); try again, or fetch mnist.npz and give "
            "its path"
        ) from None
    return x_train, y_train, x_test, y_test


def _checked(source, arrays):
    x_train, y_train, x_test, y_test = arrays
    for name, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or not len(images):
            raise DataError(
                f"{source}: x_{name} must be (n, h, w) or (n, h, w, c) with n > 0 and y_{name} (n,); they are "
                f"{images.shape} and {labels.shape}"
            )
        if labels.dtype.kind not in "ui":
            raise DataError(f"{source}: y_{name} must hold integers, holds {labels.dtype}")
    return LabelledImages(
        _bytes(source, "x_train", x_train),
        y_train.astype(np.int32),
        _bytes(source, "x_test", x_test),
        y_test.astype(np.int32),
    )


def _bytes(source, name, images):
    if images.dtype != np.uint8:
        if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
            raise DataError(
                f"{source}: {name} must hold bytes, or floats in [0, 1]; it holds {images.dtype} from "
                f"{images.min()} to {images.max()}"
            )
        images = np.round(images * 255).astype(np.uint8)
    return images if images.ndim == 4 else images[..., None]
