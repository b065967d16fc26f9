"""Perform tasks on this machine, several at a time."""

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tf_robustcomp.scheduling import worker
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils.errors import RunError

ATTEMPTS = 3
START_ATTEMPTS, START_PAUSE = 100, 0.1  # seconds
PRELOAD = "tf_robustcomp.scheduling.preload"


class LocalPool:
    """Processes on this machine, which share its cores.

    They are forked from one server process that has imported Keras, as the import outlasts many a task.

    Args:
        jobs: tasks at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.at_once = jobs
        if jobs > 1:  # before the server starts, which inherits them
            threads = str(max(1, (os.cpu_count() or 1) // jobs))
            os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), threads))
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([PRELOAD])
        self.pool = ThreadPoolExecutor(jobs)
        self.running: set[Forked] = set()
        self.stopped = False
        self.lock = threading.Lock()

    def submit(self, folder: Path, task: Task, key: str) -> Future:
        """Start a task as soon as there is room; the future may raise `worker.TaskFailed`."""
        return self.pool.submit(self._attempts, folder, task, key)

    def stop(self) -> None:
        """Let the running tasks save, and wait for them."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _attempts(self, folder, task, key):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return worker.run(folder, task, key, self._start)
            except worker.TaskCrashed:
                if attempt == ATTEMPTS or self.stopped:
                    raise

    def _start(self, *request):
        process = Forked(self.context, request, self._forget)
        with self.lock:
            self.running.add(process)
            if self.stopped:
                process.stop()
        return process

    def _forget(self, process):
        with self.lock:
            self.running.discard(process)


class Forked:
    """A worker forked from the server; its lifeline is a pipe whose other end only the driver holds."""

    def __init__(self, context: Any, request: tuple, forget: Any) -> None:
        reader, self.writer = context.Pipe(duplex=False)
        self.forget = forget
        self.process = _started(context, (reader, request))
        reader.close()

    def ended(self, seconds: float) -> int | None:
        """Return the exit code, or None after some seconds without."""
        if not wait([self.process.sentinel], seconds):
            return None
        self.process.join()
        self.forget(self)
        self.stop()
        return self.process.exitcode

    def stop(self) -> None:
        """Let it save and end."""
        self.writer.close()


def _started(context, arguments):
    """Start a process; a server that was killed a moment ago may still look alive, so this tries for some seconds."""
    for _ in range(START_ATTEMPTS):
        process = context.Process(target=_perform, args=arguments)
        try:
            process.start()
            return process
        except (OSError, EOFError) as error:
            reason = error
            time.sleep(START_PAUSE)
    raise RunError(f"no process can be started for a task ({reason or type(reason).__name__})")


def _perform(lifeline, request):
    os.setsid()  # Ctrl-C is for the driver, which lets its tasks save
    sys.exit(worker.perform(lambda: lifeline.poll(None), *request))
