"""The process of one task: it calls the entry point, and leaves a record when that ends well.

It runs in the study's folder, or in this machine's copy of what is at its address.  When its standard input ends,
whoever started it is gone or wants it to stop: it saves what it has, as on SIGTERM.  A task has one worker at a time;
the next one waits for the lock.  `run` is the other side, which waits for it.
"""

import fcntl
import importlib
import os
import platform
import signal
import threading
import time
from pathlib import Path

from tf_robustcomp import files, flags
from tf_robustcomp.errors import InvalidArgument, RunError
from tf_robustcomp.studies import places

TAIL_LINES = 5
STOP_SECONDS = 600  # that a task is given to save what it has
SEND_SECONDS = 10  # between looks for what is to be sent to an address


class TaskFailed(Exception):
    """A worker ended with an exit code other than 0; with 2, as its input was refused, to try again is useless."""

    def __init__(self, name, code, tail):
        super().__init__(name, code, tail)
        self.name, self.code, self.tail = name, code, tail


class TaskCrashed(TaskFailed):
    """A worker was killed, or failed for a reason that may have passed."""


def run(place, task, key, host):
    """Run a task in a process of its own and wait for it.

    Args:
        place: name of the study's place.
        task: `Task`.
        key: its key.
        host: `host.Host`, which starts the process.

    Raises:
        TaskFailed: its input was refused; the last lines of the log are in it.
        TaskCrashed: it failed otherwise.
    """
    try:
        place = places.at(place, f"tasks/{task.name}")
        with place.taken(task, key):
            try:
                code = _perform(place, task, key, host)
            finally:
                place.send(task.writes())
            _raise_unless_well(place.folder, task, code)
            place.finish(task)
    except (places.TakenOver, InvalidArgument) as error:
        raise TaskFailed(task.name, 1, str(error)) from None
    except (OSError, RunError) as error:
        raise TaskCrashed(task.name, 1, str(error)) from None


def _raise_unless_well(folder, task, code):
    if code:
        lines = (folder / task.path(".log")).read_text(errors="replace").strip().splitlines()
        kind = TaskFailed if code == flags.EXIT_USAGE else TaskCrashed
        raise kind(task.name, code, "\n".join(lines[-TAIL_LINES:]))


def _perform(place, task, key, host):
    folder = place.folder.resolve()
    log = folder / task.path(".log")
    host.begin(log, folder=str(folder), name=task.name, key=key, entry=task.entry, calls=task.arguments())
    try:
        return _end(host, lambda: _send(place, task, log))
    except BaseException:
        host.close()
        raise


def _end(host, send):
    """Exit code of a task.  In short waits: Ray interrupts a task between two instructions of Python only."""
    while True:
        for _ in range(SEND_SECONDS):
            if (code := host.ended(1)) is not None:
                return code
        send()


def _send(place, task, log):
    """Send what is new; what cannot be sent now is sent later."""
    try:
        place.send(task.writes())
    except RunError as error:
        with open(log, "a") as lines:
            lines.write(f"not sent: {error}\n")


def main(folder, log, name, key, entry, calls):
    """Make the calls in turn, in the study's folder, printing into a file; the exit code of the last one."""
    os.chdir(folder)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with open(f"tasks/{name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Thread(target=_stop_with_input, daemon=True).start()
        files.write_text(f"tasks/{name}.host", platform.node())
        print(f"on {platform.node()}, process {os.getpid()}", flush=True)
        began = time.monotonic()
        code = 0
        for words in calls:
            code = code or importlib.import_module(f"tf_robustcomp.{entry}").main(words)
        spent = Path(f"tasks/{name}.seconds")  # of earlier workers, unless they were killed
        seconds = (float(spent.read_text()) if spent.is_file() else 0.0) + time.monotonic() - began
        files.write_text(spent, f"{seconds:.3f}")
        if not code:
            files.write_json(f"tasks/{name}.json", {"key": key, "seconds": seconds, "host": platform.node()})
        return code


def _stop_with_input():
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    os.kill(os.getpid(), signal.SIGTERM)
