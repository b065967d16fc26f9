"""One piece of a study: a command of this package with its flags, and the pieces that must be done before it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.utils import documents, files
from tf_robustcomp.utils.errors import DataError, InvalidArgument
from tf_robustcomp.utils.progress import read_progress
from tf_robustcomp.utils.settings import as_word, spelled


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """Record of a task that has ended well: the task's key, and the seconds that it took on a machine."""

    key: str
    seconds: float = 0.0
    host: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of one process.  Paths in its flags are relative to the study's folder.

    Attributes:
        name: unique; a file name.
        entry: name of the command.
        flags: dict of flag -> value; a tuple is joined by commas, None leaves the flag out.
        calls: the words before the flags, one tuple for each call of the command, made in turn.
        needs: names of the tasks that must have finished before it.
        outputs: files that it leaves; where one is missing the task is due again.
        passed_on: files that it leaves to those that need it; where one is missing it is due again if one of those is.
        minutes: expected on two cores, for the estimate of the time left.
    """

    name: str
    entry: str
    flags: Mapping[str, Any]
    calls: Sequence[Sequence[str]] = ((),)
    needs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    passed_on: Sequence[str] = ()
    minutes: float = 1.0

    def path(self, suffix: str) -> str:
        """Return the name of its file: ``.cfg`` flags, ``.log`` output, ``.json`` record, ``.host``, ``.seconds``."""
        return f"tasks/{self.name}{suffix}"

    def arguments(self) -> list[list[str]]:
        """Return the words of each call."""
        return [[*call, f"--flagfile={self.path('.cfg')}"] for call in self.calls]

    def commands(self) -> list[str]:
        """Return the command lines that a user would type in the study's folder."""
        return [" ".join(["python -m", f"tf_robustcomp.{self.entry}", *words]) for words in self.arguments()]

    def flag_file(self) -> str:
        """Return the text of its flag file, which begins with the commands that read it."""
        flags = [f"{spelled(name)}={as_word(v)}" for name, v in self.flags.items() if v is not None]
        return "\n".join([*(f"# {command}" for command in self.commands()), *flags]) + "\n"

    def done(self, folder: Path, key: str, needed: bool = False) -> bool:
        """Return whether it has ended well, with these flags and all that it needed, and its files exist.

        Args:
            folder: of the study.
            key: its key, of `keys`.
            needed: by a task that is due.
        """
        record = self.record(folder)
        left = (*self.outputs, *self.passed_on) if needed else self.outputs
        return bool(record and record.key == key) and all((folder / name).is_file() for name in left)

    def record(self, folder: Path) -> "TaskRecord | None":
        """Return what its worker wrote when it ended well, or None."""
        try:
            return documents.read(folder / self.path(".json"), TaskRecord)
        except (FileNotFoundError, DataError):
            return None

    def fraction(self, folder: Path) -> float:
        """Return the fraction of its steps that it has made, by the progress file of its run directory."""
        values = [value for key, value in self.flags.items() if key.replace("_", "-") == "train-dir"]
        return read_progress(folder / values[0]) if values else 0.0

    def host(self, folder: Path) -> str:
        """Return the name of the machine where it runs or ran last; empty where it has not begun."""
        try:
            return (folder / self.path(".host")).read_text()
        except OSError:
            return ""


def keys(tasks: Sequence[Task]) -> dict[str, str]:
    """Return a digest of each task with all that it depends on, by which its record is known.

    Raises:
        InvalidArgument: a task stands before one that it needs, or a name comes twice.
    """
    digests: dict[str, str] = {}
    for task in tasks:
        if task.name in digests or not set(task.needs) <= set(digests):
            raise InvalidArgument(f"tasks must have different names and follow what they need. Received: {task}")
        parts = [task.flag_file(), *(digests[name] for name in task.needs)]
        digests[task.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return digests


def write_flag_files(tasks: Sequence[Task], folder: Path) -> None:
    """Write ``tasks/NAME.cfg`` of every task."""
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        path = folder / task.path(".cfg")
        if not path.is_file() or path.read_text() != task.flag_file():
            files.write_text(path, task.flag_file())
