"""One piece of a study: an entry point of this package with its flags, and the pieces that must be there before it."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from tf_robustcomp import files, runs
from tf_robustcomp.datasets.images import SOURCES
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.studies import places

STEP = re.compile(rb"step (\d+)/(\d+)")
TAIL = 4096  # bytes of a log
SUFFIXES = (".cfg", ".log", ".json", ".host", ".seconds")
READ = ("data", "dataset", "test-dataset", "warm-start", "models")  # flags whose values may be paths of the study


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process does.  Paths in its flags are relative to the study's folder.

    Attributes:
        name: unique; a file name.
        entry: module of the package with ``main(words)``.
        flags: dict of flag -> value; a tuple is joined by commas, None leaves the flag out.
        calls: the words before the flags, one tuple for each call of the entry point, made in turn.
        needs: names of the tasks that must have finished before it.
        outputs: files that it leaves; where one is missing the task is due again.
        passed_on: files that it leaves to those that need it; where one is missing it is due again if one of those is.
        minutes: expected on two cores; the estimate of the time left depends on it and nothing else.
    """

    name: str
    entry: str
    flags: Mapping
    calls: tuple = ((),)
    needs: tuple = ()
    outputs: tuple = ()
    passed_on: tuple = ()
    minutes: float = 1.0

    def reads(self):
        """Names, in the study's place, of what it reads: files, or folders with ``/`` after them."""
        values = [value for name in READ for value in self._values(name) if value not in SOURCES]
        values += [word for call in self.calls for word in call if "/" in word]
        return [end for value in values if places.is_inside(value) for end in (value, f"{value}/")]

    def writes(self):
        """Names of what it writes, likewise, or beginnings of names with ``*`` after them."""
        own = [self.path(suffix) for suffix in SUFFIXES]
        outputs = [f"{value}{end}" for value in self._values("output") for end in ("", ".*", "-*")]
        return [*own, *outputs, *(f"{value}/" for value in self._values("train-dir"))]

    def passing(self):
        """Names of what it writes and, once it has ended well, does not leave."""
        return [f"{value}/{name}" for value in self._values("train-dir") for name in runs.CHECKPOINTS]

    def path(self, suffix):
        """Name of its file: ``.cfg`` flags, ``.log`` output, ``.json`` record of its end, ``.host``, ``.seconds``."""
        return f"tasks/{self.name}{suffix}"

    def arguments(self):
        """Words of each call."""
        return [[*call, f"--flagfile={self.path('.cfg')}"] for call in self.calls]

    def commands(self):
        """What a user would type in the study's folder."""
        return [" ".join(["python -m", f"tf_robustcomp.{self.entry}", *words]) for words in self.arguments()]

    def flag_file(self):
        """Text of its flag file, which begins with the commands that read it."""
        flags = [f"--{name.replace('_', '-')}={_spelled(v)}" for name, v in self.flags.items() if v is not None]
        return "\n".join([*(f"# {command}" for command in self.commands()), *flags]) + "\n"

    def done(self, place, key, needed=False):
        """Whether it has ended well, with these flags and all that it needed, and what it left is there.

        Args:
            place: of the study.
            key: its key.
            needed: by a task that is due.
        """
        record = self.record(place.folder)
        left = (*self.outputs, *self.passed_on) if needed else self.outputs
        return bool(record and record["key"] == key) and all(map(place.sees, left))

    def record(self, folder):
        """What its worker wrote when it ended well, a dict; None where it has not."""
        try:
            record = json.loads((Path(folder) / self.path(".json")).read_text())
            return record if isinstance(record["key"], str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def fraction(self, folder):
        """Share of its steps that it has made, as far as its log tells."""
        steps = STEP.findall(self._tail_of_log(folder))
        return min(int(steps[-1][0]) / max(int(steps[-1][1]), 1), 1.0) if steps else 0.0

    def host(self, folder):
        """Name of the machine where it runs or ran last; empty where it has not begun."""
        try:
            return (Path(folder) / self.path(".host")).read_text()
        except OSError:
            return ""

    def _values(self, name):
        values = [value for key, value in self.flags.items() if key.replace("_", "-") == name and value]
        return [word for value in values for word in (value if isinstance(value, tuple) else [value])]

    def _tail_of_log(self, folder):
        try:
            with open(Path(folder) / self.path(".log"), "rb") as log:
                log.seek(max(0, log.seek(0, 2) - TAIL))
                return log.read()
        except OSError:
            return b""


def keys(tasks):
    """Digest of each task with all that it depends on: dict of name -> key, by which its record is known.

    Raises:
        InvalidArgument: a task needs one that does not stand before it, or a name comes twice.
    """
    digests: dict[str, str] = {}
    for task in tasks:
        if task.name in digests or not set(task.needs) <= set(digests):
            raise InvalidArgument(f"tasks must have names of their own and follow what they need. Received: {task}")
        parts = [task.flag_file(), *(digests[name] for name in task.needs)]
        digests[task.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return digests


def write_flag_files(tasks, folder):
    """Write ``tasks/NAME.cfg`` of every task."""
    (Path(folder) / "tasks").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        path = Path(folder) / task.path(".cfg")
        if not path.is_file() or path.read_text() != task.flag_file():
            files.write_text(path, task.flag_file())


def _spelled(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
