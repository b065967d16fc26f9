#!/usr/bin/env python3
"""Write CIFAR-10 as TFRecords: cifar10_train.tfrecord, cifar10_test.tfrecord and labels.txt.

    python tools/download_and_convert_cifar10.py [--source tfds|FILE] [--out-dir data]

--source tfds downloads through tensorflow-datasets; FILE is the official cifar-10-binary.tar.gz.
"""

import dataclasses
import fcntl
import os
import sys
import tarfile
from pathlib import Path

LOADS_KERAS_LATER = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, installed or not

from tf_robustcomp import flags  # noqa: E402
from tf_robustcomp.errors import DataError, RunError  # noqa: E402

RECORD_BYTES = 1 + 3072
FOLDER = "cifar-10-batches-bin"
TRAIN_MEMBERS = tuple(f"{FOLDER}/data_batch_{i}.bin" for i in range(1, 6))
TEST_MEMBERS = (f"{FOLDER}/test_batch.bin",)
NAMES_MEMBER = f"{FOLDER}/batches.meta.txt"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The official members hold 10,000 records; nothing larger is read into memory.
MEMBER_LIMIT = 10_000 * RECORD_BYTES


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to convert and where to."""

    source: str = flags.field("tfds", "`tfds` to download through tensorflow-datasets, or cifar-10-binary.tar.gz")
    out_dir: str = flags.field("data", "folder to write to")


def convert(settings):
    """Write the three files, unless all are there."""
    out = Path(settings.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".conversion.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{out}: another conversion writes to this folder; wait for it to end") from None
        _convert_into(settings, out)
    return 0


def _convert_into(settings, out):
    flags.import_backend_quietly()
    from tf_robustcomp.datasets import tfrecord

    targets = {"train": out / "cifar10_train.tfrecord", "test": out / "cifar10_test.tfrecord"}
    labels_file = out / "labels.txt"
    if labels_file.is_file() and all(tfrecord.is_complete(path) for path in targets.values()):
        print(f"{out}: all is there ({', '.join(p.name for p in (*targets.values(), labels_file))}); nothing to do")
        return
    read = _read_tfds if settings.source == "tfds" else _read_archive
    splits, names = read(settings.source)
    for split, path in targets.items():
        images, labels = splits[split]
        tfrecord.write_records(path, images, labels, progress=_bar(split, len(labels)))
        print(f"{path}: {len(labels)} records")
    temporary = labels_file.with_suffix(".tmp")
    temporary.write_text("".join(f"{i}:{name}\n" for i, name in enumerate(names)))
    os.replace(temporary, labels_file)
    print(f"{labels_file}: {len(names)} names")


def _bar(split, count):
    import functools

    from tqdm import tqdm

    return functools.partial(tqdm, total=count, desc=split, unit=" images", disable=None)


def _read_archive(source):
    import numpy as np

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
    import numpy as np

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
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(source if source != "tfds" else "cifar10")
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


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run("download_and_convert_cifar10", __doc__, Settings, convert, argv)


if __name__ == "__main__":
    sys.exit(main())
