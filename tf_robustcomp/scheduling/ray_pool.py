"""Perform tasks on a Ray cluster, which schedules them, tries again and moves them."""

import concurrent.futures
import functools
import logging
import os
import platform
import signal
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

from tf_robustcomp.scheduling import worker
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils.errors import InvalidArgument, RunError

RETRIES = 2
CONNECT_SECONDS = 10


class RayPool:
    """Tasks of a Ray cluster, one that runs or one of this machine alone.

    Args:
        folder: of the study, on a file system that all machines of the cluster share.
        address: of the cluster, "auto" or HOST:PORT; None starts one on this machine.
        cpus, gpus: of each task; fractions of a GPU share it.

    Raises:
        InvalidArgument: Ray is not installed.
        RunError: there is no cluster at the address, or a machine of it does not see the folder.
    """

    at_once = sys.maxsize  # the cluster has its own queue

    def __init__(self, folder: Path, address: str | None = None, cpus: int = 1, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError:
            raise InvalidArgument("--executor=ray needs Ray: pip install '.[ray]' in this package's checkout") from None
        self.ray: Any = ray
        self.folder = folder
        self._connect(address)
        self.environment = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(max(1, int(cpus))))
        self.options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        self.references: list = []
        try:
            self._check_that_all_see_the_folder()
        except BaseException:
            ray.shutdown()
            raise

    def _connect(self, address):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if address:
                os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # attempts of 40 s; else 20 of them
            if address and ":" in address and "//" not in address:
                host, port = address.rsplit(":", 1)
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            # "local" and not None, which would join whatever ran last, were it dead.
            self.ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            what = "no Ray cluster there, or one that wants a token, which RAY_AUTH_MODE=token brings"
            if not address:
                address, what = "[here]", "no Ray cluster could be started"
            raise RunError(f"--ray-address {address}: {what} ({str(error).splitlines()[0]})") from None
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would leave without stopping the tasks

    def submit(self, folder: Path, task: Task, key: str) -> concurrent.futures.Future:
        """Hand a task to the cluster; the future may raise `worker.TaskFailed`."""
        run = self.ray.remote(retry_exceptions=[worker.TaskCrashed], **self.options)(_run)
        reference = run.remote(str(folder.resolve()), task, key, self.environment)
        self.references.append(reference)
        result: concurrent.futures.Future = concurrent.futures.Future()
        reference.future().add_done_callback(lambda done: self._pass_on(task, done, result))
        return result

    def stop(self) -> None:
        """Let the running tasks save, and wait for them."""
        for reference in self.references:
            self.ray.cancel(reference)
        if self.references:
            self.ray.wait(self.references, num_returns=len(self.references), timeout=worker.STOP_SECONDS)
        self.ray.shutdown()

    def _pass_on(self, task, done, result):
        error = done.exception()
        if error is None:
            result.set_result(None)
        elif isinstance(error, worker.TaskFailed):
            result.set_exception(getattr(error, "cause", error))
        else:  # its machine is gone, and so were those it was moved to
            result.set_exception(worker.TaskCrashed(task.name, -1, str(error).splitlines()[0]))

    def _check_that_all_see_the_folder(self):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        try:
            nodes = [node for node in self.ray.nodes() if node["Alive"]]
            looks = [
                self.ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False))(
                    _sees
                ).remote(str(probe.resolve()))
                for node in nodes
            ]
            blind = [host for host, sees in self.ray.get(looks) if not sees]
        finally:
            probe.unlink(missing_ok=True)
        if blind:
            raise RunError(
                f"{self.folder}: {', '.join(sorted(set(blind)))} of the cluster does not see this folder; choose one "
                "on a file system that all its machines share (docs/scaling.md)"
            )


def _run(folder, task, key, environment):
    # A new process for each task: Ray chooses the GPUs of each by the environment.
    worker.run(Path(folder), task, key, functools.partial(worker.Subprocess, environment))


def _sees(probe):
    return platform.node(), Path(probe).is_file()
