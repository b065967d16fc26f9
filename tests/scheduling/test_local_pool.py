"""Tasks are forked from one server process; the end of one, however it comes, is the end of no other."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Future

import pytest

from tf_robustcomp.scheduling import local_pool, worker
from tf_robustcomp.scheduling.local_pool import LocalPool
from tf_robustcomp.scheduling.task import Task, write_flag_files
from tf_robustcomp.utils.errors import RunError

pytestmark = pytest.mark.slow

LONG = {
    "data": "digits",
    "latent-dim": 2,
    "width": 4,
    "side": 16,
    "epochs": 10000,
    "log-steps": 1,
    "train-dir": "run",
}


@pytest.fixture
def pool():
    pool = LocalPool(1)
    yield pool
    pool.stop()


def submit(pool, folder, name, entry, flags, words=()):
    task = Task(name, entry, flags, calls=(words,))
    write_flag_files([task], folder)
    return pool.submit(folder, task, "key"), folder / task.path(".log")


def until(log, pattern, times=1):
    """Last group of the match in a log that is being written, once it has come some times."""
    for _ in range(6000):
        found = re.findall(pattern, log.read_text()) if log.is_file() else []
        if len(found) >= times:
            return found[-1]
        time.sleep(0.01)
    raise AssertionError(f"{pattern} is not in {log.read_text()}")


def parent(process):
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, check=True).stdout)


def test_tasks_are_forked_from_one_process_and_have_separate_logs(pool, tmp_path):
    failed, first = submit(pool, tmp_path, "first", "train_compressor", {"epochs": "none"}, ("train",))
    with pytest.raises(worker.TaskFailed) as caught:
        failed.result()
    assert caught.value.code == 2 and "--epochs" in caught.value.tail
    _, second = submit(pool, tmp_path, "second", "train_compressor", LONG, ("train",))
    process = int(until(second, r"process (\d+)"))
    assert str(process) not in first.read_text()
    server = parent(process)
    assert server != os.getpid() and parent(server) == os.getpid()
    until(second, r"(step) 1/")
    pool.stop()  # its lifeline ends: the task saves and stops
    assert (tmp_path / "run/checkpoint.keras").is_file()


def test_a_killed_task_is_tried_again_from_its_checkpoint(pool, tmp_path):
    future, log = submit(pool, tmp_path, "one", "train_compressor", LONG, ("train",))
    os.kill(int(until(log, r"process (\d+)")), signal.SIGKILL)
    again = int(until(log, r"process (\d+)", times=2))
    assert not future.done() and parent(again)


def test_a_killed_server_begins_again(pool, tmp_path):
    _, log = submit(pool, tmp_path, "one", "train_compressor", LONG, ("train",))
    process = int(until(log, r"process (\d+)"))
    server = parent(process)
    os.kill(server, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    again = int(until(log, r"process (\d+)", times=2))
    assert parent(again) != server


def test_a_server_that_dies_while_it_is_asked_is_asked_again(monkeypatch):
    asked = []

    class Process:
        def __init__(self, **given):
            asked.append(given)

        def start(self):
            if len(asked) < 3:
                raise ConnectionRefusedError(111, "Connection refused")

    context = types.SimpleNamespace(Process=Process)
    monkeypatch.setattr(local_pool, "START_PAUSE", 0.0)
    assert isinstance(local_pool._started(context, ()), Process) and len(asked) == 3
    asked.clear()
    monkeypatch.setattr(local_pool, "START_ATTEMPTS", 2)
    with pytest.raises(RunError, match="no process can be started"):
        local_pool._started(context, ())


def test_after_a_stop_nothing_begins(tmp_path):
    pool = LocalPool(1)
    blocked, _ = submit(pool, tmp_path, "first", "train_compressor", LONG, ("train",))
    waiting, _ = submit(pool, tmp_path, "second", "train_compressor", LONG, ("train",))
    pool.stop()
    assert blocked.done() and waiting.cancelled() and not (tmp_path / "tasks/second.log").exists()


def test_a_task_whose_driver_is_gone_saves_and_ends(tmp_path):
    """The driver is killed and can close nothing: its end of the pipe goes with it."""
    program = (
        "import sys, pathlib; from tests.scheduling.test_local_pool import *; folder = pathlib.Path(sys.argv[1]);"
        "submit(LocalPool(1), folder, 'one', 'train_compressor', LONG, ('train',))[0].result()"
    )
    driver = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    log = tmp_path / "tasks/one.log"
    process = int(until(log, r"process (\d+)"))
    until(log, r"(step) 1/")
    driver.kill()
    driver.wait()
    for _ in range(3000):
        if not os.path.exists(f"/proc/{process}"):
            break
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{process}") and (tmp_path / "run/checkpoint.keras").is_file()


def test_a_task_runs_its_command_as_words(tmp_path, monkeypatch):
    """The worker starts `python -m tf_robustcomp.ENTRY WORDS`, whatever that is."""
    ran = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker.runpy, "run_module", lambda name, **how: ran.append((name, list(sys.argv), how)))
    monkeypatch.setattr(sys, "argv", [])
    assert worker._command("codec", ["info", "x"]) == 0
    assert ran == [("tf_robustcomp.codec", ["codec", "info", "x"], {"run_name": "__main__", "alter_sys": True})]


def test_a_second_worker_of_a_task_waits_for_the_first(tmp_path):
    from tf_robustcomp.utils import files

    (tmp_path / "tasks").mkdir()
    waited: Future = Future()

    def second():
        with files.locked(tmp_path / "tasks/one.lock", "", wait=True):
            waited.set_result(True)

    with files.locked(tmp_path / "tasks/one.lock", ""):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        assert not waited.done()
    thread.join()
    assert waited.result()
