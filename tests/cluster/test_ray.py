"""Studies on a real Ray cluster of two nodes on this machine: the results of `local`, whatever is killed under them."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time

import pytest

from tests.faults import programs
from tests.faults.test_killed import same
from tf_robustcomp.scheduling import scheduler as engine
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils.errors import RunError

# A cluster of one's own: Ray would else let everybody in, or take a token from the home directory on one side alone.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
ray = pytest.importorskip("ray")

from tf_robustcomp.scheduling.ray_pool import RayPool  # noqa: E402

CLASSIFIER = {
    **{"dataset": "digits", "model-size": 8, "bn-momentum": 0.9, "batch-size": 32, "log-steps": 5},
    **{"learning-rates": (0.05,), "boundaries": (), "checkpoint-steps": 1},
}
PRUNING = {"ramp-steps": 12, "update-steps": 3, "target-sparsity": 0.8, "warm-start": "dense"}


def task(entry, name, steps, needs=(), **flags):
    flags = {key: value for key, value in {**CLASSIFIER, **flags}.items() if value != ""}
    flags |= {"train-dir": name, "max-steps": steps}
    return Task(name, entry, flags, calls=(("train",), ("eval",)), needs=needs, outputs=(f"{name}/model.keras",))


def pruning(name, steps, **flags):
    own = {key.replace("_", "-"): value for key, value in (PRUNING | flags).items()}
    return task("prune_resnet_dns", name, steps, ("dense",), **{"learning-rates": "", "boundaries": ""}, **own)


TASKS = (
    task("train_resnet_random", "dense", 40),
    pruning("pruned", 120),
    pruning("pruned-more", 120, target_sparsity=0.9),
)


class Cluster:
    """A head and a second node, each a `ray start` with one core and its own temporary files."""

    def __init__(self, folder, port=6390):
        self.address = f"127.0.0.1:{port}"
        self.head = self._start(folder / "head", "--head", f"--port={port}", "--include-dashboard=false")
        self.second = self._start(folder / "second", f"--address={self.address}")

    def _start(self, folder, *words):
        folder.mkdir()
        ray_start = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--num-cpus=1", "--block"]
        process = subprocess.Popen(
            ray_start,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(folder), "RAY_TMPDIR": "/tmp"},
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._nodes() < 1 + ("--head" not in words):
            time.sleep(0.5)
        return process

    def _nodes(self):
        command = [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address={self.address}"]
        text = subprocess.run(command, capture_output=True, text=True).stdout
        return len(re.findall(r"node_[0-9a-f]+", text))

    def remove(self, node):
        """As when a machine loses its power."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self):
        for node in (self.second, self.head):
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGTERM)
                node.wait(60)


@pytest.fixture
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("nodes"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same tasks without Ray, with as many threads."""
    from tf_robustcomp.scheduling.local_pool import LocalPool

    folder = tmp_path_factory.mktemp("local")
    engine.perform(TASKS, folder, LocalPool(os.cpu_count() or 1))
    return folder


def agree(folder, local):
    for one in TASKS:
        same(folder / one.name, local / one.name)


def running(folder, name):
    """Process of a task, from its log."""
    words = re.findall(r"process (\d+)", (folder / f"tasks/{name}.log").read_text())
    return int(words[-1])


def in_background(folder, address):
    """The study as a process of its own, which can be killed."""
    program = (
        "import sys; from tests.cluster.test_ray import *; "
        "folder = Path(sys.argv[1]); engine.perform(TASKS, folder, RayPool(folder, sys.argv[2]))"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(folder), address], env=programs.environment())


def wait_until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_results_are_those_of_local(cluster, local, tmp_path):
    engine.perform(TASKS, tmp_path, RayPool(tmp_path, cluster.address))
    agree(tmp_path, local)


def test_a_node_that_is_removed_loses_nothing(cluster, local, tmp_path):
    driver = in_background(tmp_path, cluster.address)
    metrics = [tmp_path / name / "metrics.csv" for name in ("pruned", "pruned-more")]
    wait_until(lambda: all(path.is_file() for path in metrics))
    cluster.remove(cluster.second)
    assert driver.wait(300) == 0
    agree(tmp_path, local)
    logs = [(tmp_path / f"tasks/{name}.log").read_text() for name in ("pruned", "pruned-more")]
    assert sorted(log.count("on ") > 1 or log.count("process ") > 1 for log in logs) == [False, True]


def test_a_driver_that_is_killed_goes_on_with_the_same_command(cluster, local, tmp_path):
    driver = in_background(tmp_path, cluster.address)
    wait_until(lambda: (tmp_path / "pruned/metrics.csv").is_file())
    driver.kill()
    driver.wait()
    engine.perform(TASKS, tmp_path, RayPool(tmp_path, cluster.address))
    agree(tmp_path, local)


def test_a_task_that_is_killed_while_it_writes_a_checkpoint_is_tried_again(cluster, local, tmp_path):
    driver = in_background(tmp_path, cluster.address)
    wait_until(lambda: list(tmp_path.glob("pruned/.tmp-*-checkpoint.keras")))
    os.kill(running(tmp_path, "pruned"), signal.SIGKILL)
    assert driver.wait(300) == 0
    assert (tmp_path / "tasks/pruned.log").read_text().count("process ") == 2
    agree(tmp_path, local)


def test_ctrl_c_lets_the_tasks_save_and_the_same_command_goes_on(cluster, tmp_path):
    folders = [tmp_path / name for name in ("stopped", "straight")]
    commands = [
        programs.words(
            *("train_resnet_random", "train", "--executor=ray", f"--ray-address={cluster.address}"),
            *("--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--max-steps=400", "--log-steps=5"),
            *("--learning-rates=0.1", "--boundaries=", "--sweep=seed=0:2", f"--train-dir={folder}"),
        )
        for folder in folders
    ]
    metrics = [folders[0] / f"seed={seed}/metrics.csv" for seed in range(2)]
    code, stderr = programs.kill_when(commands[0], lambda: all(path.is_file() for path in metrics), signal.SIGINT)
    assert code == 130, stderr[-2000:]
    assert "run the same command again" in programs.one_line(stderr)
    assert all((folders[0] / f"seed={seed}/checkpoint.keras").is_file() for seed in range(2))
    for command in commands:
        code, _, stderr = programs.run(command)
        assert code == 0, stderr[-2000:]
    assert (folders[0] / "sweep.csv").read_text() == (folders[1] / "sweep.csv").read_text()


def test_a_folder_that_a_machine_does_not_see_is_one_clear_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.touch", lambda path: None)  # as if it were made on another disk
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, missing_ok=False: None)
    with pytest.raises(RunError, match="does not see this folder; choose one on a file system"):
        RayPool(tmp_path, cluster.address)


def test_no_cluster_at_the_address_is_one_clear_error(tmp_path):
    with pytest.raises(RunError, match="--ray-address 127.0.0.1:1: no Ray cluster there"):
        RayPool(tmp_path, "127.0.0.1:1")


def test_what_a_dead_cluster_left_is_one_clear_error_and_no_hindrance_to_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match="--ray-address auto: no Ray cluster there"):
        RayPool(tmp_path, "auto")
    own = RayPool(tmp_path)
    assert own.ray.is_initialized()
    own.stop()


def test_the_drivers_memory_does_not_grow_with_500_tiny_runs(cluster, tmp_path):
    def megabytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    tiny = [Task(f"tiny{i}", "train_compressor", {}, calls=(("--help",),)) for i in range(500)]
    engine.perform(tiny[:50], tmp_path, RayPool(tmp_path, cluster.address))
    before = megabytes()
    engine.perform(tiny, tmp_path, RayPool(tmp_path, cluster.address))
    assert megabytes() - before < 30
