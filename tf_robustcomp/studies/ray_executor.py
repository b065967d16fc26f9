"""Where the tasks of a study run: on a Ray cluster, which schedules them, tries again and moves them."""

import concurrent.futures
import logging
import os
import platform
import signal
import socket
import sys

from tf_robustcomp.errors import Error, InvalidArgument, RunError
from tf_robustcomp.studies import places, worker
from tf_robustcomp.studies.host import Host

RETRIES = 2
CONNECT_SECONDS = 10


class OnRay:
    """Tasks of a Ray cluster, one that runs or one of this machine alone.

    Args:
        place: of the study, `places.Folder` or `places.Address`.
        address: of the cluster, "auto" or HOST:PORT; None starts one on this machine.
        cpus, gpus: of each task; fractions of a GPU share it.

    Raises:
        InvalidArgument: Ray is not installed.
        RunError: there is no cluster at the address, or a machine of it does not see the place.
    """

    at_once = sys.maxsize  # the cluster has a queue of its own

    def __init__(self, place, address=None, cpus=1, gpus=0.0):
        try:
            import ray
        except ImportError:
            raise InvalidArgument("--executor=ray needs Ray: pip install '.[ray]' in this package's checkout") from None
        self.ray, self.place = ray, place
        self._connect(address)
        self.environment = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(max(1, int(cpus))))
        self.options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        self.references: list = []
        try:
            self._check_that_all_see_the_place()
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

    def submit(self, place, task, key):
        """Hand a task to the cluster: a ``concurrent.futures.Future``, which may raise `worker.TaskFailed`."""
        run = self.ray.remote(retry_exceptions=[worker.TaskCrashed], **self.options)(_run)
        reference = run.remote(place.name, task, key, self.environment)
        self.references.append(reference)
        result: concurrent.futures.Future = concurrent.futures.Future()
        reference.future().add_done_callback(lambda done: self._pass_on(task, done, result))
        return result

    def stop(self):
        """Let the running tasks save what they have, and wait for them."""
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

    def _check_that_all_see_the_place(self):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self.place.probe()
        try:
            nodes = [node for node in self.ray.nodes() if node["Alive"]]
            looks = [
                self.ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False))(
                    _sees
                ).remote(self.place.name, probe)
                for node in nodes
            ]
            blind = [host for host, sees in self.ray.get(looks) if not sees]
        finally:
            self.place.remove(probe)
        if blind:
            raise RunError(
                f"{self.place.name}: {', '.join(sorted(set(blind)))} of the cluster does not see this place; choose "
                "one on a file system that all its machines share, or an address that all can read (pip install there "
                "what it needs)"
            )


def _run(place, task, key, environment):
    host = Host(environment)  # not kept: Ray chooses the GPUs of each task by the environment
    try:
        worker.run(place, task, key, host)
    finally:
        host.close()


def _sees(place, probe):
    try:
        return platform.node(), places.at(place).sees(probe)
    except Error:
        return platform.node(), False
