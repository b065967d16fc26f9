"""Where a study lives: a folder that all machines see, or an address, of which whoever works there has a copy."""

import contextlib
import fcntl
import os
import uuid
from pathlib import Path, PurePosixPath

from tf_robustcomp.errors import Error, RunError


class TakenOver(Error):
    """Somebody else performs this task now."""


def at(name, user="driver"):
    """The place of that name.

    Args:
        name: a path, or an address ``protocol://...``.
        user: "driver", or "tasks/NAME"; each has a copy of what is at an address.

    Returns:
        `Folder` or `Address`

    Raises:
        InvalidArgument: there is no such protocol, its package is not installed, or the address has no path.
    """
    if "://" not in str(name):
        return Folder(name)
    from tf_robustcomp.studies.address import Address

    return Address(str(name), user)


class Folder:
    """A path that all machines see; nothing needs to be copied.

    Args:
        path: of the folder.

    Attributes:
        name: by which `at` finds it again.
        folder: where its files are.
    """

    def __init__(self, path):
        self.name, self.folder = str(Path(path).resolve()), Path(path)

    def __str__(self):
        return str(self.folder)

    @contextlib.contextmanager
    def held(self):
        """Be the only driver here.

        Raises:
            RunError: another process is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", self):
            yield

    def taken(self, task, key):
        """Be the one who performs a task."""
        return contextlib.nullcontext()

    def probe(self):
        """Leave a file of one's own there; its name."""
        name = probe_name()
        (self.folder / name).touch()
        return name

    def sees(self, name):
        """Whether a file is there."""
        return (self.folder / name).is_file()

    def remove(self, name):
        """Delete a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def share(self, source):
        """Name, in the place, of a file or folder of this machine that tasks read."""
        return os.path.relpath(source, self.folder)

    def fetch(self, names, without=()):
        """Make the copy like what is there."""

    def send(self, names):
        """Write there what is new in the copy."""

    def finish(self, task):
        """Clear away what a task that has ended well does not need any more."""


def is_inside(name):
    """Whether a name leads to nothing outside the place."""
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts


def probe_name():
    """A name that nobody else has."""
    return f".probe-{uuid.uuid4().hex}"


@contextlib.contextmanager
def locked(path, place=None, wait=False):
    """Hold the lock of a file.

    Args:
        path: of the file.
        place: of the study, for the message.
        wait: for whoever holds it.

    Raises:
        RunError: somebody else holds it.
    """
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{place}: another process performs a study here; wait for it or choose another") from None
        yield
