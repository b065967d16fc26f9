"""Where the tasks of a study run: on this machine, several at a time."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from tf_robustcomp.studies import worker

ATTEMPTS = 3


class Local:
    """Processes on this machine, which share its cores.

    Args:
        jobs: int >= 1, how many at a time.
    """

    def __init__(self, jobs):
        self.jobs = jobs
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        self.environment = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), threads) if jobs > 1 else {}
        self.pool = ThreadPoolExecutor(jobs)
        self.processes: set = set()
        self.stopping = threading.Event()

    def submit(self, folder, task, key):
        """Start a task as soon as there is room: a ``concurrent.futures.Future``, which may raise `TaskFailed`."""
        return self.pool.submit(self._attempt, folder, task, key)

    def stop(self):
        """Let the running tasks save what they have, and wait for them."""
        self.stopping.set()
        for process in list(self.processes):
            process.stdin.close()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _attempt(self, folder, task, key):
        for attempt in range(ATTEMPTS):
            try:
                return worker.run(folder, task, key, self.environment, self._started)
            except worker.TaskFailed as failure:
                if failure.final or attempt == ATTEMPTS - 1 or self.stopping.is_set():
                    raise

    def _started(self, process):
        self.processes = {p for p in self.processes if p.poll() is None} | {process}
        if self.stopping.is_set():
            process.stdin.close()
