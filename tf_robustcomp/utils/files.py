"""Files that are whole or not there: written beside, flushed to disk, renamed."""

import contextlib
import errno
import glob
import json
import os
import platform
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

from tf_robustcomp.utils.errors import InvalidArgument, RunError

TEMPORARY = ".tmp-"
LONGEST_NAME = 255  # bytes
MARKED_BYTES = 2**16
Written = Iterable[tuple[Path, bytes | None]]  # paths, and bytes by which their writer knows its own files


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path with the same suffix; when the block ends well it replaces ``path``, else it goes.

    Args:
        path: final path, in a folder that exists.
    """
    path = Path(path)
    if not path.name:
        raise InvalidArgument(f"{path} is not the name of a file; give one")
    temporary = _temporary(path)
    _remove_dead(temporary)
    try:
        with naming(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path, temporary: str | Path | None = None) -> Iterator[None]:
    """Let an OSError name ``path`` where it names ``temporary``, or no file, as libraries do that write to handles."""
    try:
        yield
    except OSError as error:
        if error.filename and (temporary is None or os.fsdecode(error.filename) != str(temporary)):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def check_outputs(outputs: Written, inputs: Iterable[str | Path] = (), force: bool = False) -> None:
    """Refuse outputs that would write over something that the user may want to keep.

    Args:
        outputs: the paths, each with bytes that stand near the beginning or the end of what the command itself
            writes there, by which it knows its own files; None where it cannot know them.
        inputs: paths that the command reads; those that are no files are passed over.
        force: whether other files may be written over; inputs never are.

    Raises:
        InvalidArgument: names the output, and what it would destroy.
    """
    read = [path for path in map(Path, inputs) if path.exists()]
    seen: set[str] = set()
    for path, mark in outputs:
        place = os.path.normcase(os.path.realpath(path))
        if place in seen:
            raise InvalidArgument(f"{path} would be written twice; give different names")
        seen.add(place)
        if not path.exists():
            continue
        if path.is_dir():
            raise InvalidArgument(f"{path} is a folder; give the name of a file")
        if any(path.samefile(other) for other in read):
            raise InvalidArgument(f"{path} is an input and would be written over; choose another name")
        if not force and not (mark and holds(path, mark)):
            raise InvalidArgument(f"{path} is there already; choose another name, or give --force to write over it")


def check_no_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse symbolic links under names that are going to be written, as they may lead out of the folder.

    Raises:
        RunError: names the link.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise RunError(f"{folder / name}: a symbolic link, which may lead elsewhere; delete it")


def check_ours(folder: Path, proof: str, names: Iterable[str]) -> None:
    """Refuse a folder that holds files of the names that are going to be written, and not the proof that it is ours.

    Raises:
        RunError: names the first of them.
    """
    foreign = [name for name in names if (folder / name).exists()]
    if foreign and not (folder / proof).exists():
        raise RunError(f"{folder}: holds {foreign[0]} and no {proof}, so something else made it; choose another folder")


def holds(path: Path, mark: bytes) -> bool:
    """Return whether there is such a file and the mark stands in its first or its last part."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        beginning = file.read(MARKED_BYTES)
        file.seek(max(0, path.stat().st_size - MARKED_BYTES))
        return mark in beginning or mark in file.read()


def folder(path: str | Path) -> Path:
    """Make a folder, and those above it, unless it exists.

    Raises:
        InvalidArgument: the path is an address such as s3://bucket/study, or not UTF-8, as libraries need it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"a folder's path must be UTF-8. Received: {path}") from None
    if "://" in str(path):
        raise InvalidArgument(f"a folder must be a path; mount what is elsewhere (docs/scaling.md). Received: {path}")
    Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextlib.contextmanager
def locked(path: str | Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file; a process that is killed loses it.

    Args:
        path: of the lock file, in a folder that exists.
        busy: message of the error when another process holds the lock.
        wait: whether to wait for it instead.

    Raises:
        RunError: another process holds the lock.
    """
    lock = filelock.FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(busy) from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def remove_leftovers(folder: str | Path) -> None:
    """Delete what killed writers left in a folder whose lock is held.

    Small ``.json`` files are written without the lock; those of other machines, where nobody can tell whether the
    writer lives, stay.
    """
    for left in Path(folder).glob(f"{TEMPORARY}*"):
        here = left.name.startswith(f"{TEMPORARY}{platform.node()}-")
        if not _alive(left) if here else left.suffix != ".json":
            left.unlink(missing_ok=True)


def _temporary(path):
    """A name beside ``path`` with its suffix; the longest name that a file system takes leaves no room for more."""
    beginning = f"{TEMPORARY}{platform.node()}-{os.getpid()}-"
    name = path.name
    if len(os.fsencode(beginning + name)) > LONGEST_NAME:
        name = f"{zlib.crc32(os.fsencode(name)):08x}{path.suffix[-16:]}"
    return path.with_name(beginning + name)


def _remove_dead(temporary):
    """Delete what writers of the same file left that were killed on this machine."""
    name = temporary.name.removeprefix(f"{TEMPORARY}{platform.node()}-{os.getpid()}-")
    for left in temporary.parent.glob(f"{TEMPORARY}{glob.escape(platform.node())}-*-{glob.escape(name)}"):
        if left.name == f"{TEMPORARY}{platform.node()}-{_writer(left)}-{name}" and not _alive(left):
            left.unlink(missing_ok=True)


def _writer(temporary):
    return temporary.name.removeprefix(f"{TEMPORARY}{platform.node()}-").partition("-")[0]


def _alive(temporary):
    """Whether the process that writes it, on this machine, still runs; true of what is no temporary file of ours."""
    number = _writer(temporary)
    return not number.isdigit() or _runs(int(number))


def _runs(process):
    if os.name == "nt":  # there, signal 0 is Ctrl-C; leftovers stay
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _sync_folder(folder):
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
