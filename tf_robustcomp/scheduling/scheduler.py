"""Perform the tasks of a study: each when its needs are done, none twice; the failure of one stops no other."""

import concurrent.futures
import graphlib
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tf_robustcomp.scheduling.local_pool import LocalPool
from tf_robustcomp.scheduling.task import Task, keys, write_flag_files
from tf_robustcomp.scheduling.worker import TaskFailed
from tf_robustcomp.utils.errors import RunError

POLL_SECONDS = 1.0


def pool_for(settings: Any, folder: Path) -> Any:
    """Return the pool that `cli.settings.studies.ExecutorSettings` ask for, for the study in a folder."""
    if settings.executor == "local":
        return LocalPool(settings.jobs)
    from tf_robustcomp.scheduling.ray_pool import RayPool  # Ray is optional

    return RayPool(folder, settings.ray_address, settings.cpus_per_run, settings.gpus_per_run)


def perform(tasks: Sequence[Task], folder: Path, pool: Any) -> None:
    """Run every task that has no record of having ended well.

    Args:
        tasks: each after the tasks that it needs.
        folder: of the study.
        pool: with ``submit(folder, task, key)``, which returns a Future, ``stop()``, and ``at_once``, the number of
            tasks it takes at a time; the first in ``tasks`` come first.

    Raises:
        RunError: tasks failed, or could not begin because of those; all others have finished.
    """
    digests = keys(tasks)
    write_flag_files(tasks, folder)
    due = _due(tasks, folder, digests)
    order = graphlib.TopologicalSorter({name: set(task.needs) & due.keys() for name, task in due.items()})
    order.prepare()
    ready: list[str] = []
    running: dict[concurrent.futures.Future, Task] = {}
    failures: dict[str, TaskFailed] = {}
    progress = StudyProgress(tasks, due, folder)
    try:
        while True:
            ready = sorted([*ready, *order.get_ready()], key=list(due).index)
            for name in ready[: pool.at_once - len(running)]:
                ready.remove(name)
                (folder / due[name].path(".host")).unlink(missing_ok=True)  # of an earlier attempt
                running[pool.submit(folder, due[name], digests[name])] = due[name]
            if not running:
                break  # all is done, or needs what failed
            ended, _ = concurrent.futures.wait(running, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                task = running.pop(future)
                failure: Any = future.exception()
                if isinstance(failure, TaskFailed):
                    failures[task.name] = failure
                elif failure:
                    raise failure
                else:
                    order.done(task.name)
                progress.ended(task, failure)
            progress.show(running.values())
    finally:
        pool.stop()
        progress.close()
    if failures:
        _report(failures, [name for name in due if name not in progress.done and name not in failures])


def _due(tasks, folder, digests):
    """Tasks by name that are not done, in their order; a task that a due one needs must have passed its files on."""
    due: dict[str, Task] = {}
    for task in reversed(tasks):  # after those that need it
        needed = any(task.name in other.needs for other in due.values())
        if not task.done(folder, digests[task.name], needed):
            due[task.name] = task
    return dict(reversed(due.items()))


def _report(failures, waiting):
    for failure in failures.values():
        print(f"{failure.name} failed with exit code {failure.code}; the last lines of tasks/{failure.name}.log:")
        print("\n".join(f"    {line}" for line in failure.tail.splitlines()), flush=True)
    left = f"; not begun, as they need those: {', '.join(waiting)}" if waiting else ""
    raise RunError(f"{len(failures)} tasks failed: {', '.join(failures)}{left}; fix the cause and rerun")


class StudyProgress:
    """Progress of a study: a bar with the time left on a terminal, a line for each task elsewhere.

    Args:
        tasks: all of them.
        due: names of those that are not done.
        folder: of the study.
    """

    def __init__(self, tasks: Sequence[Task], due: Collection[str], folder: Path) -> None:
        self.folder, self.count = folder, len(tasks)
        self.minutes = {task.name: task.minutes for task in tasks}
        self.done = {task.name for task in tasks if task.name not in due}
        self.failed: set[str] = set()
        self.began = time.monotonic()
        self.first = self._made()
        self.total = sum(self.minutes.values())
        self.bar = tqdm(
            total=self.total,
            initial=self.first,
            smoothing=0,
            disable=not sys.stderr.isatty(),
            bar_format="{l_bar}{bar}| {elapsed} passed, {remaining} left{postfix}",
        )
        if self.done:
            self._say(f"{len(self.done)} of {self.count} tasks have finished already")

    def ended(self, task: Task, failure: TaskFailed | None) -> None:
        """Say that a task has ended."""
        host = task.host(self.folder)
        on = f" on {host}" if host else ""
        if failure:
            self.failed.add(task.name)
            end = f"failed with exit code {failure.code}"
        else:
            self.done.add(task.name)
            record = task.record(self.folder)
            end = f"finished in {tqdm.format_interval(record.seconds if record else 0.0)}"
        self._say(f"{task.name} {end}{on}; {len(self.done)} of {self.count} done{self._left()}")

    def show(self, running: Iterable[Task]) -> None:
        """Move the bar."""
        if self.bar.disable:
            return
        begun = [task for task in running if task.host(self.folder)]
        made = self._made() + sum(self.minutes[task.name] * task.fraction(self.folder) for task in begun)
        self.bar.set_postfix_str(
            "running: " + " ".join(f"{task.name}@{task.host(self.folder)}" for task in begun), refresh=False
        )
        self.bar.update(made - self.bar.n)
        self.bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()

    def _made(self):
        return sum(self.minutes[name] for name in self.done | self.failed)

    def _left(self):
        made = self._made()
        rate = (made - self.first) / (time.monotonic() - self.began)
        return f", about {tqdm.format_interval((self.total - made) / rate)} left" if rate and self.total > made else ""

    def _say(self, line):
        tqdm.write(line)
        sys.stdout.flush()
