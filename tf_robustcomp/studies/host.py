"""A process that imports the backend once and forks for each of its tasks, as the import outlasts many a task.

A line of JSON on its standard input begins a task, a line on its standard output is the exit code.  A task inherits the
input: when that ends, whoever started them is gone or wants them to stop, and both see it.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from typing import Any

from tf_robustcomp import flags
from tf_robustcomp.studies import worker


class Host:
    """Runs one task at a time.  Its process begins with the first one, and anew where it was killed.

    Args:
        environment: dict, added to this process's.
    """

    def __init__(self, environment):
        self.environment = environment
        self.process: Any = None  # Popen, while there is one
        self.stopped = False
        self._lock = threading.Lock()

    def begin(self, log, **request):
        """Begin a task.

        Args:
            log: path of a file, which gets what the task prints and why the process could not be started.
            **request: of `worker.main`.
        """
        with self._lock:
            if self.process and self.process.poll() is not None:
                self._end()
            if self.process is None:
                self._start(log)
            if self.stopped:
                self.process.stdin.close()
                return
            with contextlib.suppress(BrokenPipeError):  # it ended, and `ended` tells how
                self.process.stdin.write(json.dumps({"log": str(log), **request}).encode() + b"\n")

    def ended(self, seconds):
        """Exit code of the task once it has one, None after so many seconds without; negative: killed by a signal."""
        if not wait([self.process.stdout], seconds):
            return None
        line = self.process.stdout.readline()
        return int(line) if line else self.process.wait() or 1

    def stop(self):
        """Let the task save what it has, and begin no other; from any thread."""
        with self._lock:
            self.stopped = True
            if self.process:
                self.process.stdin.close()

    def close(self):
        """Let the task save what it has, and wait for its end."""
        with self._lock:
            if self.process:
                self._end()

    def _start(self, log):
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tf_robustcomp.studies.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for the driver, which lets its tasks save
            )

    def _end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process = None


def main():
    """Serve until the input ends; in the process of a task, its exit code."""
    flags.import_backend_quietly()
    gc.freeze()  # the collector's marks would copy what processes share
    for line in sys.stdin:
        task = os.fork()
        if not task:
            return worker.main(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(task, 0)[1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
