"""A study at an address that fsspec writes, such as ``s3://bucket/study``.

Each task has a copy of its own, in the folder for temporary files, of what it reads and writes; the driver has one of
what all tasks wrote.  Names are those of files in the place, ``folder/``, or ``beginning*``.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
import uuid
from pathlib import Path

from tf_robustcomp import files
from tf_robustcomp.errors import InvalidArgument, RunError
from tf_robustcomp.studies.places import TakenOver, locked, probe_name

WAITS = (1, 10, 60)  # seconds before what an address refused is tried again
# Files that tell what others hold: there after those, or a machine lost in between would leave rows that nobody has.
LAST = (".keras", ".json")
STAYING = ("checkpoint-previous.keras", ".lock")  # ends of names: at an address every file is whole, nobody holds locks
INPUTS = "inputs/"
IDENTITIES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


class Address:
    """What fsspec writes to; `folder` holds a copy.

    Args:
        address: ``protocol://...``.
        user: of the copy; one process at a time.

    Attributes:
        name: the address.
        folder: of the copy.
    """

    def __init__(self, address, user):
        import fsspec

        try:
            self.system, root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise InvalidArgument(f"{address}: {error}") from None
        self.root = root.rstrip("/")
        if not self.root:
            raise InvalidArgument(f"an address must have a path, protocol://path. Received: {address}")
        self.name = f"file://{self.root}" if "file" in self.system.protocol else address.rstrip("/")
        # What can rename is a file system, where one may see half a file; elsewhere a file is there once it is whole.
        self.renames = type(self.system).mv is not fsspec.AbstractFileSystem.mv
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self.base = Path(tempfile.gettempdir()) / f"tf_robustcomp-{os.getuid()}-{platform.node()}-{digest}"
        _make_private(self.base)
        self.folder = self.base / user
        self.folder.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, dict] = {}  # name -> identity there and state of the copy when the two were alike
        self.task = self.key = self.token = None

    def __str__(self):
        return self.name

    @contextlib.contextmanager
    def held(self):
        """Be the only driver of this machine at this address.

        Raises:
            RunError: another process is, or nothing can be written there.
        """
        with locked(self._beside(".lock"), self):
            self._load()
            self.remove(self.probe())
            yield

    @contextlib.contextmanager
    def taken(self, task, key):
        """Be the one who performs a task; whoever did before finds it out when it sends.

        Where that was this copy it is kept, as it may hold more than what is there; else it becomes what is there.

        Args:
            task: `Task`.
            key: its key.

        Raises:
            RunError: the address cannot be read or written.
        """
        with locked(self._beside(".lock"), wait=True):
            left = self.folder / task.path(".lock")
            left.parent.mkdir(exist_ok=True)
            with locked(left, wait=True):  # by a worker whose driver was killed, until it has saved
                self._load()
            owner = f"tasks/.{task.name}.owner"
            if self.key != key or self.task != owner or self._read(owner) != self.token:
                shutil.rmtree(self.folder)
                self.folder.mkdir()
                (self.base / INPUTS).mkdir(exist_ok=True)  # of all tasks
                (self.folder / INPUTS.rstrip("/")).symlink_to(self.base / INPUTS)
                self.known, self.key, self.task, self.token = {}, None, owner, uuid.uuid4().hex
                self._talk(self._put_bytes, owner, self.token.encode())
                self.fetch([*task.reads(), *task.writes()])
                self.key = key
                self._save()
            yield

    def probe(self):
        """Leave a file of one's own there; its name.

        Raises:
            RunError: nothing can be written there.
        """
        name = probe_name()
        self._talk(self._put_bytes, name, b"", waits=())
        return name

    def sees(self, name):
        """Whether a file is there."""
        return self._talk(self.system.isfile, self._there(name), waits=())

    def remove(self, name):
        """Delete a file, if it is there, and its copy."""
        (self.folder / name).unlink(missing_ok=True)
        self.known.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            self._talk(self.system.rm_file, self._there(name))

    def share(self, source):
        """Put a file or folder of this machine there, unless it is there; its name."""
        source = Path(source)
        parts = {"": source}
        if source.is_dir():
            found = {path.relative_to(source): path for path in sorted(source.rglob("*")) if path.is_file()}
            parts = {f"/{p.as_posix()}": path for p, path in found.items() if not any(w[0] == "." for w in p.parts)}
        digest = hashlib.sha256()
        for end, path in parts.items():
            with open(path, "rb") as file:
                digest.update(end.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        name = f"{INPUTS}{digest.hexdigest()[:12]}-{source.resolve().name}"
        for end, path in parts.items():
            if not self._talk(self.system.isfile, self._there(name + end)):
                self._talk(self._put, path, name + end)
        return name

    def fetch(self, names, without=()):
        """Make the copy like what is there.

        Args:
            names: of files, folders (``runs/a/``) or beginnings (``figures/a.*``); what is hidden stays where it is.
            without: ends of names of what is not needed here.

        Raises:
            RunError: it cannot be read.
        """
        present = self._talk(self._list, names)
        for name, identity in present.items():
            here = self.folder / name
            is_there = name.startswith(INPUTS) and here.is_file()  # known by its contents: another task fetched it
            alike = is_there or self.known.get(name) == {"there": identity, "here": _state(here)}
            if not alike and not name.endswith(tuple(without)):
                here.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._talk(self._get, name)
                except FileNotFoundError:  # gone meanwhile
                    continue
                self.known[name] = {"there": identity, "here": _state(here)}
        for name in self._copied(names):
            if name not in present:
                (self.folder / name).unlink(missing_ok=True)
                self.known.pop(name, None)
        self._save()

    def send(self, names):
        """Write there what is new in the copy.

        Args:
            names: as of `fetch`.

        Raises:
            RunError: it cannot be written.
            TakenOver: somebody else has taken the task that this copy is of.
        """
        states = {name: _state(self.folder / name) for name in self._copied(names)}
        changed = [name for name, state in states.items() if state and state != self.known.get(name, {}).get("here")]
        changed.sort(key=lambda name: (name.endswith(LAST), states[name][1]))
        snapshot = self._beside(".sending")
        shutil.rmtree(snapshot, ignore_errors=True)
        for number, name in reversed(list(enumerate(changed))):  # what tells before what it tells of: that only grows
            snapshot.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                _link(self.folder / name, snapshot / str(number))
        for number, name in enumerate(changed):
            if (snapshot / str(number)).is_file():
                if self.task and self._read(self.task) not in (self.token, None):
                    raise TakenOver(f"{self.name}: another driver or machine has taken this task over")
                self._talk(self._put, snapshot / str(number), name)
                self.known[name] = {"there": None, "here": states[name]}
        if changed:
            shutil.rmtree(snapshot, ignore_errors=True)
            self._save()

    def finish(self, task):
        """Clear away what a task that has ended well does not need any more: its checkpoints there, and the copy."""
        for name in task.passing():
            self.remove(name)
        shutil.rmtree(self.folder)
        self._beside(".json").unlink(missing_ok=True)

    def _list(self, names):
        """Identity of each file there."""
        found = {}
        for top in _tops(names):
            for path, entry in self.system.find(self._there(top), detail=True).items():
                name = path.removeprefix(f"{self.root}/")
                if entry["type"] == "file" and _matches(name, names):
                    known = next((key for key in IDENTITIES if entry.get(key)), None)
                    found[name] = f"{entry['size']} {entry.get(known)}"
        return found

    def _copied(self, names):
        """Names of the files in the copy."""
        roots = [self.folder / top for top in _tops(names)]
        parts = {path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()}
        found = [path.relative_to(self.folder).as_posix() for path in parts]
        return [name for name in found if _matches(name, names)]

    def _get(self, name):
        here = self.folder / name
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=here.parent)
        os.close(handle)
        try:
            self.system.get_file(self._there(name), temporary)
            os.replace(temporary, here)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _put(self, path, name):
        there = self._there(name)
        if not self.renames:
            self.system.put_file(str(path), there)
            return
        folder, _, last = there.rpartition("/")
        self.system.makedirs(folder, exist_ok=True)
        self.system.put_file(str(path), f"{folder}/.tmp-{last}")
        self.system.mv(f"{folder}/.tmp-{last}", there)

    def _put_bytes(self, name, content):
        if self.renames:
            self.system.makedirs(self._there(name).rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(self._there(name), content)

    def _read(self, name):
        """Text of a small file there, None where it is missing."""
        with contextlib.suppress(FileNotFoundError):
            return self._talk(self.system.cat_file, self._there(name)).decode()
        return None

    def _beside(self, suffix):
        return self.folder.with_name(f"{self.folder.name}{suffix}")

    def _there(self, name):
        return f"{self.root}/{name}"

    def _talk(self, action, *words, waits=None):
        """Ask the other side; again after some waits, and then one line for whatever is wrong: errors differ there."""
        may_be_missing = self.system.rm_file, self.system.cat_file, self._get
        for wait in (*(WAITS if waits is None else waits), None):
            self.system.invalidate_cache()
            try:
                return action(*words)
            except Exception as error:
                if isinstance(error, FileNotFoundError) and action in may_be_missing:
                    raise
                said = str(error).splitlines() or [""]
                problem = f"{type(error).__name__}: {said[0][:200]}"
            if wait is None:
                raise RunError(f"{self.name}: {problem}; look at the address, the rights and the network")
            time.sleep(wait)

    def _load(self):
        with contextlib.suppress(OSError, ValueError):
            self.known, self.task, self.key, self.token = json.loads(self._beside(".json").read_text())

    def _save(self):
        files.write_text(self._beside(".json"), json.dumps([self.known, self.task, self.key, self.token]))


def _tops(names):
    """Files and folders that hold all that the names mean."""
    return sorted({name[:-1].rpartition("/")[0] if name.endswith("*") else name.rstrip("/") for name in names})


def _matches(name, names):
    if any(part[:1] == "." for part in name.split("/")) or name.endswith(STAYING):  # hidden, and what leads out: ``..``
        return False
    return any(name.startswith(n.removesuffix("*")) if n.endswith(("/", "*")) else name == n for n in names)


def _state(path):
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _link(path, other):
    try:
        os.link(path, other)
    except PermissionError:
        shutil.copyfile(path, other)


def _make_private(folder):
    """Make a folder that nobody else may look into or write to."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise RunError(f"{folder}: others may write there; delete it, or set TMPDIR to a folder of your own")
