"""Write CIFAR-10 as TFRecords: cifar10_train.tfrecord, cifar10_test.tfrecord and labels.txt.

    python tools/download_and_convert_cifar10.py [--source tfds|FILE] [--out-dir data]
    robustcomp convert_cifar10 --source=cifar-10-binary.tar.gz

--source tfds downloads through tensorflow-datasets; FILE is the official cifar-10-binary.tar.gz.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tf_robustcomp.cli import flags, outputs, startup
from tf_robustcomp.utils.settings import field

COMMAND = "convert_cifar10"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this command."""

    source: str = field("tfds", "`tfds` to download through tensorflow-datasets, or cifar-10-binary.tar.gz")
    out_dir: str = field("data", "folder to write to")
    force: bool = outputs.force()


def command(parsed: flags.Parsed) -> None:
    """Write the three files, unless all exist."""
    settings = parsed.settings
    written: list[tuple[Path, bytes | None]] = [(Path(settings.out_dir, "labels.txt"), b"0:airplane\n1:automobile")]
    for name in ("cifar10_train.tfrecord", "cifar10_test.tfrecord"):
        path = Path(settings.out_dir, name)
        written += [] if path.with_name(f"{name}.json").exists() else [(path, None)]  # beside what this command wrote
    inputs = [] if settings.source == "tfds" else [settings.source]
    outputs.check(written, inputs, settings.force)
    startup.load("experiments.conversion").convert(settings.source, Path(settings.out_dir))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    code = flags.run(COMMAND, __doc__, Settings, command, argv)
    if code > 128 and argv is None:
        sys.stdout.flush()
        os._exit(code)  # stopped: a download's threads would keep the process for minutes
    return code


if __name__ == "__main__":
    sys.exit(main())
