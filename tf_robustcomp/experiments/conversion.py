"""CIFAR-10, from tensorflow-datasets or the official archive, to TFRecords."""

import contextlib
import functools
import logging
import os
import socket
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tf_robustcomp.data import tfrecord
from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import DataError

HOST = "www.cs.toronto.edu"  # from where tensorflow-datasets fetches CIFAR-10
RECORD_BYTES = 1 + 3072
FOLDER = "cifar-10-batches-bin"
TRAIN_MEMBERS = tuple(f"{FOLDER}/data_batch_{i}.bin" for i in range(1, 6))
TEST_MEMBERS = (f"{FOLDER}/test_batch.bin",)
NAMES_MEMBER = f"{FOLDER}/batches.meta.txt"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The official members hold 10,000 records; nothing larger is read into memory.
MEMBER_LIMIT = 10_000 * RECORD_BYTES


def convert(source: str, folder: Path) -> None:
    """Write the three files, unless all exist.

    Args:
        source: "tfds", or the path of cifar-10-binary.tar.gz.
        folder: to write to; made when missing.

    Raises:
        DataError: the source cannot be read.
        RunError: another conversion writes there.
    """
    files.folder(folder)
    busy = f"{folder}: another conversion writes to this folder; wait for it to end"
    files.check_no_links(folder, (".conversion.lock",))
    with files.locked(folder / ".conversion.lock", busy):
        _convert_into(source, folder)


def _convert_into(source, out):
    targets = {"train": out / "cifar10_train.tfrecord", "test": out / "cifar10_test.tfrecord"}
    labels_file = out / "labels.txt"
    if labels_file.is_file() and all(tfrecord.is_complete(path) for path in targets.values()):
        print(f"{out}: all is there ({', '.join(p.name for p in (*targets.values(), labels_file))}); nothing to do")
        return
    read = _read_tfds if source == "tfds" else _read_archive
    splits, names = read(source)
    for split, path in targets.items():
        images, labels = splits[split]
        bar = functools.partial(tqdm, total=len(labels), desc=split, unit=" images", disable=None)
        tfrecord.write_records(path, images, labels, progress=bar)
        print(f"{path}: {len(labels)} records")
    files.write_text(labels_file, "".join(f"{i}:{name}\n" for i, name in enumerate(names)))
    print(f"{labels_file}: {len(names)} names")


def _read_archive(source):
    path = Path(source)
    if not path.is_file():
        raise DataError(f"--source {path}: no such file; give the path of cifar-10-binary.tar.gz, or `tfds`")
    try:
        with tarfile.open(path) as archive:
            parts = {
                split: np.concatenate([_read_member(path, archive, name) for name in names])
                for split, names in (("train", TRAIN_MEMBERS), ("test", TEST_MEMBERS))
            }
            names = _member_bytes(path, archive, NAMES_MEMBER).decode("ascii").split()
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(":- ")  # the rest is what each kind of compression has to say
        raise DataError(f"{path}: not a whole .tar.gz archive ({reason}); fetch it again") from None
    if len(names) != len(NAMES):
        raise DataError(f"{path}: {NAMES_MEMBER}: must name {len(NAMES)} classes, names {len(names)}; fetch it again")
    return {split: (_images(records), records[:, 0]) for split, records in parts.items()}, names


def _read_member(path, archive, name):
    data = _member_bytes(path, archive, name)
    whole = len(data) // RECORD_BYTES * RECORD_BYTES
    if not data or whole != len(data):
        raise DataError(
            f"{path}: {name}: offset {whole}: a record of {RECORD_BYTES} bytes ends early ({len(data)} bytes in all); "
            "fetch the archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
    bad = np.flatnonzero(records[:, 0] >= len(NAMES))
    if bad.size:
        offset, label = int(bad[0]) * RECORD_BYTES, int(records[bad[0], 0])
        raise DataError(f"{path}: {name}: offset {offset}: label {label} is above 9; fetch the archive again")
    return records


def _member_bytes(path, archive, name):
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(f"{path}: {name}: offset 0: the archive lacks this member; fetch it again") from None
    if not member.isfile() or member.size > MEMBER_LIMIT:
        raise DataError(
            f"{path}: {name}: offset {min(member.size, MEMBER_LIMIT)}: must be a file of at most {MEMBER_LIMIT} bytes, "
            f"has {member.size}; fetch the archive again"
        )
    return archive.extractfile(member).read()


def _images(records):
    """Planes of red, green, blue, row by row, to (n, 32, 32, 3)."""
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_tfds(source):
    _check_network()
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            builder = tfds.builder("cifar10")
            builder.download_and_prepare()
            splits = {}
            for split in ("train", "test"):
                data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
                splits[split] = (data["image"], data["label"])
            return splits, builder.info.features["label"].names
    except Exception as error:  # its many kinds of download errors have no common base
        raise DataError(
            f"--source tfds: the download failed ({type(error).__name__}: {str(error).splitlines()[0][:120]}); try "
            "again, or fetch cifar-10-binary.tar.gz and pass its path as --source"
        ) from None


def _check_network():
    """Say at once that there is no network; tensorflow-datasets tries again for minutes."""
    proxies = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]
    prepared = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"), "cifar10").exists()
    if proxies or prepared:
        return
    try:
        socket.create_connection((HOST, 443), timeout=10).close()
    except OSError as error:
        raise DataError(
            f"--source tfds: no network reaches {HOST} ({error.strerror or error}); fetch cifar-10-binary.tar.gz on "
            "another machine and pass its path as --source"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of tensorflow-datasets and of what it uses off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
