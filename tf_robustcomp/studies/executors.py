"""Where the tasks of a study run: on this machine, several at a time, or on a Ray cluster."""

import dataclasses
import os
import queue
from concurrent.futures import ThreadPoolExecutor

from tf_robustcomp import flags
from tf_robustcomp.studies import worker
from tf_robustcomp.studies.host import Host

ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class ExecutorSettings:
    """Flags of every command that performs many runs."""

    executor: str = flags.field("local", "where the runs go", operational=True, choices=("local", "ray"))
    jobs: int = flags.field(1, "local: runs at a time; they share the cores", operational=True, minimum=1)
    ray_address: str | None = flags.field(
        None, "ray: `auto` or HOST:PORT of a running cluster [default: one is started here]", operational=True
    )
    cpus_per_run: int = flags.field(1, "ray: cores, and threads, of each run", operational=True, minimum=1)
    gpus_per_run: float = flags.field(0.0, "ray: GPUs of each run; a fraction shares one", operational=True, minimum=0)


def make(settings, place):
    """The executor that the flags ask for.

    Args:
        settings: `ExecutorSettings`.
        place: of the study, `places.Folder` or `places.Address`.
    """
    if settings.executor == "local":
        return Local(settings.jobs)
    from tf_robustcomp.studies.ray_executor import OnRay

    return OnRay(place, settings.ray_address, settings.cpus_per_run, settings.gpus_per_run)


class Local:
    """Processes on this machine, which share its cores.

    Args:
        jobs: int >= 1, how many at a time.
    """

    def __init__(self, jobs):
        self.at_once = jobs
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        self.environment = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), threads) if jobs > 1 else {}
        self.pool = ThreadPoolExecutor(jobs)
        self.hosts = [Host(self.environment) for _ in range(jobs)]
        self.free: queue.SimpleQueue = queue.SimpleQueue()
        for host in self.hosts:
            self.free.put(host)

    def submit(self, place, task, key):
        """Start a task as soon as there is room: a ``concurrent.futures.Future``, which may raise `TaskFailed`."""
        return self.pool.submit(self._attempt, place, task, key)

    def stop(self):
        """Let the running tasks save what they have, and wait for them."""
        for host in self.hosts:
            host.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for host in self.hosts:
            host.close()

    def _attempt(self, place, task, key):
        host = self.free.get()
        try:
            for attempt in range(ATTEMPTS):
                try:
                    return worker.run(place.name, task, key, host)
                except worker.TaskCrashed:
                    if attempt == ATTEMPTS - 1 or host.stopped:
                        raise
        finally:
            self.free.put(host)
