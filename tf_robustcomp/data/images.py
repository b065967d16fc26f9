"""Sources of labelled images: MNIST, scikit-learn's digits, .npz files."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_robustcomp.utils import quiet
from tf_robustcomp.utils.errors import DataError

SOURCES = ("mnist", "digits")
DIGITS_TRAINING = 1497  # of 1,797; the last 300 are the test set
NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test")
RESIZE_BATCH = 4096
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # by which Keras knows it


class LabelledImages(NamedTuple):
    """Images uint8 (n, height, width, channels) and labels int32 (n,), for training and for test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def is_source(name: Any) -> bool:
    """Return whether `load_images` takes this name (otherwise it may be a path of TFRecords)."""
    return name in SOURCES or str(name).endswith(".npz")


def check_source(name: str, remedy: str = "") -> None:
    """Refuse a source of images that is no name and no file, before anything is read.

    Raises:
        DataError: there is no such file.
    """
    if name not in SOURCES and not Path(name).exists():
        raise DataError(f"{name}: no such file{remedy and f'; {remedy}'}")


def load_images(source: Any, labels: bool = True) -> Any:
    """Return images and labels of a source.

    Args:
        source: ``mnist`` (60,000 + 10,000 of 28 x 28, downloaded once by Keras), ``digits`` (scikit-learn's 1,797 real
            handwritten digits of 8 x 8, comes with its wheel), or the path of a ``.npz`` file with ``x_train``,
            ``y_train``, ``x_test``, ``y_test``: images (n, h, w) or (n, h, w, c), integers 0 to 255 or floats in
            [0, 1].
        labels: whether a file must hold labels; without, they are zeros.

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
    if labels:
        return _checked(source, read_npz(source, NPZ_NAMES))
    x_train, x_test = read_npz(source, NPZ_NAMES[::2])
    return _checked(source, [x_train, _zeros(x_train), x_test, _zeros(x_test)])


def resized(images: Any, size: int | Sequence[int]) -> Any:
    """Resize bytes (n, h, w, c) to float32 (n, height, width, c) in [0, 1]: bilinear, antialiased.

    Args:
        images: uint8.
        size: (height, width) in pixels, or both in one; images of that size are only scaled.
    """
    quiet.import_keras()
    from keras import ops

    size = (size, size) if isinstance(size, int) else tuple(size)
    if images.shape[1:3] == size:
        return images.astype(np.float32) / 255
    parts = []
    for first in range(0, len(images), RESIZE_BATCH):
        part = images[first : first + RESIZE_BATCH].astype(np.float32) / 255
        part = ops.image.resize(part, size, "bilinear", antialias=True, data_format="channels_last")
        parts.append(ops.convert_to_numpy(part))
    return np.clip(np.concatenate(parts), 0, 1)


def read_npz(path: str | Path, names: Sequence[str]) -> list[np.ndarray]:
    """Return arrays of numbers of a .npz file, in the order of ``names``.

    Raises:
        DataError: the file is missing, damaged, lacks a name, or holds no numbers.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            arrays = [] if missing else [archive[name] for name in names]
    except Exception as error:  # damage surfaces in zipfile, zlib or numpy, each with its own errors
        raise DataError(f"{path}: not a .npz file that can be read ({str(error)[:120]})") from None
    if missing:
        raise DataError(f"{path}: lacks the array {missing[0]}; it must hold {', '.join(names)}")
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "buif":
            raise DataError(f"{path}: {name}: must hold numbers, holds {array.dtype}")
    return arrays


def as_bytes(name: str, images: np.ndarray) -> np.ndarray:
    """Return images as bytes (n, h, w, c).

    Args:
        name: what an error calls them.
        images: (n, h, w) or (n, h, w, c): integers 0 to 255, or floats in [0, 1], which are rounded.

    Raises:
        DataError: neither of these.
    """
    if images.ndim not in (3, 4) or not images.size:
        raise DataError(f"{name} must hold images (n, h, w) or (n, h, w, c). Found: shape {images.shape}")
    if images.dtype != np.uint8:
        greatest = {"u": 255, "i": 255, "f": 1}.get(images.dtype.kind)
        if greatest is None:
            raise DataError(f"{name} must hold numbers. Found: {images.dtype}")
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= greatest):
            raise DataError(
                f"{name} must hold integers 0 to 255, or floats in [0, 1]. Found: {images.dtype} from {low} to {high}"
            )
        images = np.round(images * (255 / greatest)).astype(np.uint8)
    return images if images.ndim == 4 else images[..., None]


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    n = DIGITS_TRAINING
    return LabelledImages(images[:n], labels[:n], images[n:], labels[n:])


def _mnist():
    quiet.import_keras()
    import keras

    kept = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), "datasets", "mnist.npz")
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() != MNIST_SHA256:
        raise DataError(f"{kept}: not the file that Keras downloads and would put there; rename it, or give its path")
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
        as_bytes(f"{source}: x_train", x_train),
        y_train.astype(np.int32),
        as_bytes(f"{source}: x_test", x_test),
        y_test.astype(np.int32),
    )


def _zeros(images):
    return np.zeros(images.shape[:1], np.int32)
