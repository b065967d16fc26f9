"""Tasks run when what they need is there, none twice; a failure stops what needs it and nothing else."""

import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tf_robustcomp.experiments import reports as report
from tf_robustcomp.scheduling import local_pool
from tf_robustcomp.scheduling import scheduler as engine
from tf_robustcomp.scheduling.task import Task, keys
from tf_robustcomp.scheduling.worker import TaskCrashed, TaskFailed
from tf_robustcomp.utils.errors import InvalidArgument, RunError
from tf_robustcomp.utils.progress import write_progress


def task(name, *needs, **flags):
    return Task(name, "plot_summary", flags, needs=needs)


DIAMOND = (task("a"), task("b", "a"), task("c", "a"), task("d", "b", "c"), task("e"))


class Recording:
    """Runs nothing, writes the records, and notes beginnings and ends."""

    def __init__(self, failing=(), host="", at_once=4):
        self.at_once = at_once
        self.pool, self.failing, self.host = ThreadPoolExecutor(4), failing, host
        self.events, self.lock = [], threading.Lock()

    def submit(self, folder, task, key):
        return self.pool.submit(self._run, folder, task, key)

    def _run(self, folder, task, key):
        with self.lock:
            self.events.append(("begin", task.name))
        time.sleep(random.uniform(0, 0.05))
        with self.lock:
            self.events.append(("end", task.name))
        if task.name in self.failing:
            raise TaskFailed(task.name, 1, "last words")
        if self.host:
            (folder / task.path(".host")).write_text(self.host)
        (folder / task.path(".json")).write_text(json.dumps({"key": key, "seconds": 1.0}))

    def stop(self):
        self.pool.shutdown()


def begun(executor):
    return [name for kind, name in executor.events if kind == "begin"]


@pytest.mark.parametrize("trial", range(5))
def test_each_task_begins_after_what_it_needs_has_ended(tmp_path, trial):
    executor = Recording()
    engine.perform(DIAMOND, tmp_path, executor)
    assert sorted(begun(executor)) == ["a", "b", "c", "d", "e"]
    for one in DIAMOND:
        start = executor.events.index(("begin", one.name))
        assert all(executor.events.index(("end", name)) < start for name in one.needs)


def test_what_has_finished_is_passed_over(tmp_path, capsys):
    engine.perform(DIAMOND, tmp_path, Recording())
    again = Recording()
    engine.perform(DIAMOND, tmp_path, again)
    assert again.events == []
    assert "5 of 5 tasks have finished already" in capsys.readouterr().out


def test_a_changed_flag_makes_its_task_and_those_that_need_it_due_again(tmp_path):
    engine.perform(DIAMOND, tmp_path, Recording())
    changed = Recording()
    engine.perform((DIAMOND[0], task("b", "a", output="elsewhere"), *DIAMOND[2:]), tmp_path, changed)
    assert begun(changed) == ["b", "d"]


def test_a_missing_output_makes_its_task_due_again(tmp_path):
    one = Task("one", "plot_summary", {}, outputs=("figure.png",))
    (tmp_path / "figure.png").touch()
    engine.perform([one], tmp_path, Recording())
    (tmp_path / "figure.png").unlink()
    again = Recording()
    engine.perform([one], tmp_path, again)
    assert begun(again) == ["one"]


def test_what_is_passed_on_may_go_once_nothing_needs_it(tmp_path):
    """A study's models may be deleted; a new evaluation of one makes that run, and what it started from, due again."""

    def chain(**flags):
        start = Task("start", "plot_summary", {}, outputs=("start.json",), passed_on=("start.keras",))
        run = Task("run", "plot_summary", {}, needs=("start",), outputs=("run.json",), passed_on=("run.keras",))
        return start, run, task("evaluation", "run", **flags), task("other", "start")

    for name in ("start.json", "start.keras", "run.json", "run.keras"):
        (tmp_path / name).touch()
    engine.perform(chain(), tmp_path, Recording())
    for missing, due in [
        ((), ["evaluation"]),
        (("start.keras",), ["evaluation"]),
        (("run.keras",), ["start", "run", "evaluation"]),
    ]:
        for name in missing:
            (tmp_path / name).unlink()
        changed, again = Recording(), Recording()
        engine.perform(chain(output=f"after {missing}"), tmp_path, changed)
        engine.perform(chain(output=f"after {missing}"), tmp_path, again)
        assert (begun(changed), begun(again)) == (due, []), missing


def test_no_more_are_begun_than_can_run_and_the_first_come_first(tmp_path):
    executor = Recording(at_once=1)
    engine.perform(DIAMOND, tmp_path, executor)
    assert executor.events == [(kind, one.name) for one in DIAMOND for kind in ("begin", "end")]


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path, capsys):
    executor = Recording(failing=["b"])
    with pytest.raises(RunError, match="1 tasks failed: b; not begun, as they need those: d;"):
        engine.perform(DIAMOND, tmp_path, executor)
    assert sorted(begun(executor)) == ["a", "b", "c", "e"]
    assert "last words" in capsys.readouterr().out
    repaired = Recording()
    engine.perform(DIAMOND, tmp_path, repaired)
    assert begun(repaired) == ["b", "d"]


@pytest.mark.parametrize("tasks", [[task("a", "b"), task("b")], [task("a"), task("a")]])
def test_disordered_and_doubled_tasks_are_refused(tasks):
    with pytest.raises(InvalidArgument, match="different names"):
        keys(tasks)


def test_the_flag_file_is_what_the_command_reads():
    one = Task("one", "train_compressor", {"stage_dims": (3, 7), "epochs": 2, "latent-dim": None}, calls=(("train",),))
    assert one.flag_file().splitlines() == [
        "# python -m tf_robustcomp.train_compressor train --flagfile=tasks/one.cfg",
        "--stage-dims=3,7",
        "--epochs=2",
    ]


def test_the_fraction_of_steps_made_is_read_from_the_progress_file(tmp_path):
    one = Task("one", "train_compressor", {"train-dir": "runs/one"})
    assert one.fraction(tmp_path) == 0
    (tmp_path / "runs/one").mkdir(parents=True)
    write_progress(tmp_path / "runs/one", 20, 80)
    assert one.fraction(tmp_path) == 0.25
    for damaged in ("", "[]", '{"step": null, "steps": 3}', '{"step": 3}'):
        (tmp_path / "runs/one/progress.json").write_text(damaged)
        assert one.fraction(tmp_path) == 0


def test_it_is_said_where_a_task_ran(tmp_path, capsys):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.host").write_text("where it was tried before")
    engine.perform([task("a")], tmp_path, Recording(host="machine7"))
    assert "a finished in 00:01 on machine7; 1 of 1 done" in capsys.readouterr().out


def test_a_crash_is_tried_three_times_and_a_refusal_once(tmp_path, monkeypatch):
    for kind, tries in ((TaskCrashed, 3), (TaskFailed, 1)):
        calls = []

        def run(*arguments, kind=kind, calls=calls):
            calls.append(arguments)
            raise kind("one", -9, "")

        monkeypatch.setattr(local_pool.worker, "run", run)
        with pytest.raises(RunError):
            engine.perform([task("one")], tmp_path, local_pool.LocalPool(1))
        assert len(calls) == tries


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(local_pool.os, "environ", {})
    local_pool.LocalPool(1)
    assert local_pool.os.environ == {}
    local_pool.LocalPool(2)
    assert int(local_pool.os.environ["TF_NUM_INTRAOP_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)


def test_the_page_holds_its_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    paths = report.write(tmp_path, f"# Title <1>\n\n![A](a.png)\n\n{report.table(['x', 'y'], [[1, 0.123456]])}")
    markdown, page = paths
    text = page.read_text()
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in text
    assert "<title>Title &lt;1&gt;</title>" in text and ">0.1235</td>" in text
    assert markdown.read_text().endswith("| x | y |\n| ---: | ---: |\n| 1 | 0.1235 |\n")
