"""Timing what cannot live in one process (backends, environment variables, libraries) against each other, in turn."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SETTLING_SECONDS = 0.3  # the threads of the process that was asked before spin that long, on the next one's cores


class Child:
    """A process that gets ready and then answers questions, one after another.

    Args:
        module: of this package, whose command line calls `serve`.
        words: its arguments.
        environment: dict, added to this process's.
    """

    def __init__(self, module, words, environment=None):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would fill)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=_with(environment),
        )

    def ask(self, question):
        """The answer; it waits until the process is ready.

        Raises:
            RuntimeError: the process has ended; the end of what it said.
        """
        try:
            self.process.stdin.write(f"{json.dumps(question)}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            self.errors.seek(0)
            raise RuntimeError(self.errors.read()[-2000:]) from error

    def close(self):
        """Let the process end."""
        with contextlib.suppress(OSError):  # it has ended already
            self.process.stdin.close()
        self.process.wait()


def serve(answer):
    """Answer each question, a line of JSON, by a function of it, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes elsewhere
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def serve_steps(step):
    """Make a step, then answer each question, a number of steps, with the seconds that one of them took."""
    step()

    def mean_seconds(count):
        began = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - began) / count

    serve(mean_seconds)


def medians(children, rounds, steps):
    """Median seconds of a step of each child (see `serve_steps`), or None where it failed.

    They begin to be timed when all are ready.  One that takes twice as long as the fastest is asked for one step alone:
    which way the answer goes is known.

    Args:
        children: dict of name -> `Child`.
        rounds: how often each is asked.
        steps: at a time.
    """
    for child in children.values():  # while one gets ready, it disturbs the others
        _seconds(child, 1)
    first = {name: _seconds(child, 1) for name, child in children.items()}
    fastest = min(seconds for seconds in first.values() if seconds)
    taken = {name: [] for name, seconds in first.items() if seconds and seconds < 2 * fastest}
    for _ in range(rounds):
        for name, seconds in taken.items():
            seconds.append(_seconds(children[name], steps))
    for child in children.values():
        child.close()
    return first | {name: statistics.median(seconds) for name, seconds in taken.items()}


def _seconds(child, steps):
    time.sleep(SETTLING_SECONDS)
    try:
        return child.ask(steps)
    except RuntimeError:
        return None


def answer(module, words, environment=None):
    """Return what a process of a module of this package prints last, as JSON."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_with(environment))
    return json.loads(done.stdout.splitlines()[-1])


def _with(environment):
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
