"""The process of one task: it runs the task's commands, and writes a record when they end well.

It runs in the study's folder.  When its lifeline (a pipe from its driver) ends, the driver is gone or wants it to stop:
it saves and ends, as on SIGTERM.  A task has one worker at a time; the next one waits for the lock.  `run` is the
driver's side.
"""

import dataclasses
import json
import os
import platform
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tf_robustcomp.scheduling.task import Task, TaskRecord
from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import RunError

EXIT_REFUSED = 2  # exit code of a command that refuses its input
TAIL_LINES = 5
STOP_SECONDS = 600  # for a task to save


class TaskFailed(Exception):
    """A worker ended with an exit code other than 0; with 2 its input was refused and another attempt is useless."""

    def __init__(self, name: str, code: int, tail: str) -> None:
        super().__init__(name, code, tail)
        self.name, self.code, self.tail = name, code, tail


class TaskCrashed(TaskFailed):
    """A worker was killed, or failed for a reason that may have passed."""


class Worker(Protocol):
    """A process that performs a task."""

    def ended(self, seconds: float) -> int | None:
        """Return its exit code once it has one, None if it still runs after some seconds; negative: a signal."""

    def stop(self) -> None:
        """Let it save and end."""


def run(folder: Path, task: Task, key: str, start: Callable[..., Worker]) -> None:
    """Perform a task in a process and wait for it.

    Args:
        folder: of the study.
        task: to perform.
        key: its key.
        start: starts the worker; called with the arguments of `perform` but the lifeline.

    Raises:
        TaskFailed: its input was refused; the last lines of the log are in it.
        TaskCrashed: it failed otherwise.
    """
    worker = start(str(folder.resolve()), task.name, key, task.entry, task.arguments())
    try:
        while (code := worker.ended(1.0)) is None:  # short waits: Ray interrupts a task between two instructions only
            pass
    except BaseException:
        worker.stop()
        while worker.ended(1.0) is None:
            pass
        raise
    if code:
        kind = TaskFailed if code == EXIT_REFUSED else TaskCrashed
        raise kind(task.name, code, _tail(folder / task.path(".log")))


def perform(
    lifeline: Callable[[], Any], folder: str, name: str, key: str, entry: str, calls: Sequence[Sequence[str]]
) -> int:
    """Run a task's commands in turn, in the study's folder, printing into its log; return the last exit code.

    Args:
        lifeline: returns when the driver is gone or wants the task to stop.
        folder: of the study.
        name, key, entry: of the task.
        calls: words of each call.
    """
    os.chdir(folder)
    files.check_no_links(Path(), ("tasks", f"tasks/{name}.log", f"tasks/{name}.lock"))
    with open(f"tasks/{name}.log", "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        with files.locked(f"tasks/{name}.lock", "", wait=True):
            threading.Thread(target=_stop_after, args=(lifeline,), daemon=True).start()
            return _perform_locked(name, key, entry, calls)
    except (OSError, RunError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _perform_locked(name, key, entry, calls):
    files.write_text(f"tasks/{name}.host", platform.node())
    print(f"on {platform.node()}, process {os.getpid()}", flush=True)
    began = time.monotonic()
    code = 0
    for words in calls:
        code = code or _command(entry, words)
    spent = Path(f"tasks/{name}.seconds")  # of earlier workers, unless they were killed
    seconds = (float(spent.read_text()) if spent.is_file() else 0.0) + time.monotonic() - began
    files.write_text(spent, f"{seconds:.3f}")
    if not code:
        files.write_json(f"tasks/{name}.json", dataclasses.asdict(TaskRecord(key, seconds, platform.node())))
    return code


def _command(entry, words):
    """Exit code of ``python -m tf_robustcomp.ENTRY WORDS``, run in this process."""
    sys.argv = [entry, *words]
    try:
        runpy.run_module(f"tf_robustcomp.{entry}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    return 0


def _stop_after(lifeline):
    lifeline()
    os.kill(os.getpid(), signal.SIGTERM)


def _tail(log):
    try:
        return "\n".join(log.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:])
    except OSError:
        return ""


class Subprocess:
    """A worker in a new Python process, whose lifeline is its standard input.

    Args:
        environment: variables added to this process's.
        *request: arguments of `perform` but the lifeline.
    """

    def __init__(self, environment: Mapping[str, str], *request: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(request)],
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C is for the driver, which lets its tasks save
        )

    def ended(self, seconds: float) -> int | None:
        """Return the exit code, or None after some seconds without."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Let it save and end."""
        if self.process.stdin:
            self.process.stdin.close()


if __name__ == "__main__":
    # Not through sys.stdin, whose lock would be held when the interpreter ends.
    sys.exit(perform(lambda: os.read(0, 1), *json.loads(sys.argv[1])))
