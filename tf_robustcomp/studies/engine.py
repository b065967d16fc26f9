"""Perform the tasks of a study: each when what it needs is there, none twice, and the failure of one stops no other."""

import concurrent.futures
import contextlib
import sys
import time

from tqdm import tqdm

from tf_robustcomp.errors import RunError
from tf_robustcomp.studies import task as tasks_module
from tf_robustcomp.studies.worker import TaskFailed

WITHOUT = (".keras",)  # the driver reads what was measured of models, not the models
POLL_SECONDS = 1.0
LOOK_SECONDS = 10.0  # between looks for what runs at an address


def perform(tasks, place, executor):
    """Run every task that has no record of having ended well.

    Args:
        tasks: sequence of `Task`, each after what it needs.
        place: of the study, `places.Folder` or `places.Address`.
        executor: with ``submit(place, task, key)``, which gives a Future, ``stop()``, and ``at_once``, the number of
            tasks it takes at a time; the first in ``tasks`` come first.

    Raises:
        RunError: tasks failed, or could not begin because of those; all others have finished.
    """
    keys = tasks_module.keys(tasks)
    folder = place.folder
    place.fetch(["tasks/"])
    place.fetch([name for task in tasks if task.record(folder) for name in task.writes()], WITHOUT)
    tasks_module.write_flag_files(tasks, folder)
    place.send([task.path(".cfg") for task in tasks])
    waiting = _due(tasks, place, keys)
    running: dict = {}
    failures: dict[str, TaskFailed] = {}
    progress = Progress(tasks, waiting, place)
    try:
        while waiting or running:
            unfinished = {*waiting, *failures, *(task.name for task in running.values())}
            ready = [task for task in waiting.values() if not unfinished & set(task.needs)]
            for task in ready[: executor.at_once - len(running)]:
                place.remove(task.path(".host"))  # of an earlier attempt
                running[executor.submit(place, task, keys[task.name])] = waiting.pop(task.name)
            if not running:
                break  # what waits needs what failed
            ended, _ = concurrent.futures.wait(running, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                task = running.pop(future)
                failure = future.exception()
                if isinstance(failure, TaskFailed):
                    failures[task.name] = failure
                elif failure:
                    raise failure
                place.fetch(task.writes(), WITHOUT)
                progress.ended(task, failure)
            progress.show(running.values())
    finally:
        executor.stop()
        progress.close()
    if failures:
        _report(failures, waiting)


def _due(tasks, place, keys):
    """Tasks by name that are not done, in their order; what hands on to a due one must have that at hand."""
    due: dict = {}
    for task in reversed(tasks):  # those that need it have been looked at
        needed = any(task.name in other.needs for other in due.values())
        if not task.done(place, keys[task.name], needed):
            due[task.name] = task
    return dict(reversed(due.items()))


def _report(failures, waiting):
    for failure in failures.values():
        print(f"{failure.name} failed with exit code {failure.code}; the last lines of tasks/{failure.name}.log:")
        print("\n".join(f"    {line}" for line in failure.tail.splitlines()), flush=True)
    left = f"; not begun, as they need those: {', '.join(waiting)}" if waiting else ""
    raise RunError(f"{len(failures)} tasks failed: {', '.join(failures)}{left}; mend the cause, run the command again")


class Progress:
    """Progress over the whole: a bar with the time left on a terminal, a line for each task elsewhere.

    Args:
        tasks: all of them.
        due: names of those that are not done.
        place: of the study.
    """

    def __init__(self, tasks, due, place):
        self.place, self.folder, self.count = place, place.folder, len(tasks)
        self.looked = 0.0
        self.minutes = {task.name: task.minutes for task in tasks}
        self.done = {task.name for task in tasks if task.name not in due}
        self.failed: set = set()
        self.began = time.monotonic()
        self.first = sum(self.minutes[name] for name in self.done)
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

    def ended(self, task, failure):
        """A task has ended."""
        (self.failed if failure else self.done).add(task.name)
        what = f"failed with exit code {failure.code}" if failure else "finished"
        seconds = (task.record(self.folder) or {}).get("seconds", 0.0)
        took = "" if failure else f" in {tqdm.format_interval(seconds)}"
        took += f" on {host}" if (host := task.host(self.folder)) else ""
        self._say(f"{task.name} {what}{took}; {len(self.done)} of {self.count} done{self._left()}")

    def show(self, running):
        """Move the bar."""
        if self.bar.disable:
            return
        if time.monotonic() - self.looked > LOOK_SECONDS:
            with contextlib.suppress(RunError):
                self.place.fetch([task.path(suffix) for task in running for suffix in (".host", ".log")])
            self.looked = time.monotonic()
        begun = [task for task in running if task.host(self.folder)]
        made = sum(self.minutes[name] for name in self.done | self.failed)
        made += sum(self.minutes[task.name] * task.fraction(self.folder) for task in begun)
        places = " ".join(f"{task.name}@{task.host(self.folder)}" for task in begun)
        self.bar.set_postfix_str(f"running: {places}", refresh=False)
        self.bar.update(made - self.bar.n)
        self.bar.refresh()

    def close(self):
        """End the bar's line."""
        self.bar.close()

    def _left(self):
        made = sum(self.minutes[name] for name in self.done | self.failed)
        rate = (made - self.first) / (time.monotonic() - self.began)
        return f", about {tqdm.format_interval((self.total - made) / rate)} left" if rate and self.total > made else ""

    def _say(self, line):
        tqdm.write(line)
        sys.stdout.flush()
