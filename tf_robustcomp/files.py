"""Files that are whole or not there: written beside, flushed to disk, renamed."""

import contextlib
import errno
import glob
import json
import os
import platform
from pathlib import Path

from tf_robustcomp.errors import InvalidArgument


@contextlib.contextmanager
def replacing(path):
    """Give a temporary path with the same suffix; when the block ends well it replaces ``path``, else it goes.

    Args:
        path: final path, in a folder that exists.
    """
    path = Path(path)
    if not path.name:
        raise InvalidArgument(f"{path} is not the name of a file; give one")
    temporary = path.with_name(f".tmp-{platform.node()}-{os.getpid()}-{path.name}")
    _remove_dead(path)
    try:
        with naming(path):
            yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path):
    """Let an OSError say which file it is about: libraries that write through handles do not know (a full disk)."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def write_text(path, text):
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path, value):
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def remove_leftovers(folder):
    """Delete what killed writers left in ``folder``."""
    for path in Path(folder).glob(".tmp-*"):
        path.unlink(missing_ok=True)


def _remove_dead(path):
    """Delete what writers of ``path`` left that were killed on this machine."""
    beginning, end = f".tmp-{platform.node()}-", f"-{path.name}"
    for left in path.parent.glob(f"{glob.escape(beginning)}*{glob.escape(end)}"):
        number = left.name.removeprefix(beginning).removesuffix(end)
        if number.isdigit() and not _runs(int(number)):
            left.unlink(missing_ok=True)


def _runs(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
