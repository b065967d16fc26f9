"""One process for many tasks: each is forked from it, and the end of one, however it comes, is the end of no other."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tf_robustcomp.studies.host import Host

LONG = ["--data=digits", "--latent-dim=2", "--width=4", "--side=16"]
LONG += ["--epochs=10000", "--log-steps=1", "--train-dir=run"]


@pytest.fixture
def host():
    host = Host({"TF_NUM_INTRAOP_THREADS": "1"})
    yield host
    host.close()


def begin(host, folder, name, entry, words):
    (folder / "tasks").mkdir(exist_ok=True)
    log = folder / f"tasks/{name}.log"
    host.begin(log, folder=str(folder), name=name, key="key", entry=entry, calls=[words])
    return log


def until(log, pattern):
    """The first match in a log that is being written."""
    for _ in range(6000):
        if log.is_file() and (found := re.search(pattern, log.read_text())):
            return found[1]
        time.sleep(0.01)
    raise AssertionError(f"{pattern} is not in {log.read_text()}")


def code(host):
    while (found := host.ended(1)) is None:
        pass
    return found


def parent(process):
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(process)], capture_output=True, check=True).stdout)


def test_tasks_are_forked_from_one_process_and_have_logs_of_their_own(host, tmp_path):
    first = begin(host, tmp_path, "first", "train_compressor", ["train", "--epochs=none"])
    assert code(host) == 2 and "--epochs" in first.read_text()
    second = begin(host, tmp_path, "second", "train_compressor", ["train", *LONG])
    process = int(until(second, r"process (\d+)"))
    assert str(process) not in first.read_text()
    assert parent(process) == host.process.pid and parent(host.process.pid) == os.getpid()
    until(second, r"(step) 1/")
    host.stop()  # its input ends: the task saves and stops
    assert code(host) == 128 + signal.SIGTERM
    assert (tmp_path / "run/checkpoint.keras").is_file()


def test_a_killed_task_is_told_from_one_that_ended_and_the_next_one_begins(host, tmp_path):
    process = int(until(begin(host, tmp_path, "first", "train_compressor", ["train", *LONG]), r"process (\d+)"))
    before = host.process.pid
    os.kill(process, signal.SIGKILL)
    assert code(host) == -signal.SIGKILL
    begin(host, tmp_path, "second", "plot_summary", ["--unknown"])
    assert code(host) == 2 and host.process.pid == before


def test_a_killed_process_begins_anew(host, tmp_path):
    until(begin(host, tmp_path, "first", "train_compressor", ["train", *LONG]), r"process (\d+)")
    before = host.process.pid
    os.kill(before, signal.SIGKILL)
    assert code(host) == -signal.SIGKILL
    begin(host, tmp_path, "second", "plot_summary", ["--unknown"])
    assert code(host) == 2 and host.process.pid != before


def test_after_a_stop_nothing_begins(host, tmp_path):
    host.stop()
    log = begin(host, tmp_path, "first", "train_compressor", ["train", *LONG])
    assert code(host) != 0 and not (tmp_path / "run").exists(), log.read_text()


def test_why_it_could_not_start_is_in_the_log_of_the_task(host, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "ls")
    log = begin(host, tmp_path, "first", "plot_summary", [])
    assert code(host) != 0 and "tf_robustcomp.studies.host" in log.read_text()
