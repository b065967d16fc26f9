"""The file of a checkpoint: a .keras archive with one more member, the position of the training."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import RunError

PROGRESS_MEMBER = "progress.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Position of a checkpoint: steps made, and the metric sums of the unfinished row."""

    step: int = 0
    metrics: tuple = ()


def add_progress(path: Path, progress: Progress) -> None:
    """Make a checkpoint of a saved model."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(PROGRESS_MEMBER, json.dumps(dataclasses.asdict(progress)))


def progress_of(path: Path) -> Progress:
    """Return the position in a checkpoint; damage raises in whatever layer meets it first."""
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read(PROGRESS_MEMBER))
    return Progress(step=int(fields["step"]), metrics=tuple(fields["metrics"]))


def check_archive(path: Path) -> None:
    """Raise RunError where the checksum of a member is wrong."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise RunError(f"{damaged} is damaged")


def keep_as(path: Path, older: Path) -> None:
    """Put ``path`` in the place of ``older`` and keep it: an evaluation may be about to read it."""
    try:
        with files.replacing(older) as temporary:
            os.link(path, temporary)
    except OSError:  # a file system without hard links
        path.replace(older)
