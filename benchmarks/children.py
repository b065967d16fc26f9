"""Timing things that need a process each (backends, environment variables) against each other, in turn."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SETTLING_SECONDS = 0.3  # the threads of the process that was asked before spin that long, on the next one's cores


class Child:
    """A process that takes a step whenever it is asked.

    Args:
        module: of this package, whose command line makes the step and calls `serve`.
        words: its arguments.
        environment: dict, added to this process's.
    """

    def __init__(self, module, words, environment=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )
        self.seconds = []

    def step(self, count):
        """Seconds of a step, mean of so many; None where the process has ended."""
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            return None

    def close(self):
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()


def serve(step):
    """Answer each line, a number of steps, with the seconds that one of them took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes elsewhere
    step()
    for line in sys.stdin:
        count = int(line)
        began = time.perf_counter()
        for _ in range(count):
            step()
        print((time.perf_counter() - began) / count, file=answers, flush=True)


def medians(children, rounds, steps):
    """Median seconds of a step of each child, or None where it failed; the first round does not count.

    One that takes twice as long as the fastest is asked once: which way the answer goes is known.

    Args:
        children: dict of name -> `Child`.
        rounds: how often each is asked.
        steps: at a time.
    """
    slow = set()
    for number in range(rounds + 1):
        for name, child in children.items():
            time.sleep(SETTLING_SECONDS)
            seconds = None if name in slow else child.step(steps if number else 1)
            if number and seconds:
                child.seconds.append(seconds)
        fastest = min((child.seconds[0] for child in children.values() if child.seconds), default=0)
        slow = {name for name, child in children.items() if child.seconds and child.seconds[0] > 2 * fastest}
    for child in children.values():
        child.close()
    return {name: statistics.median(child.seconds) if child.seconds else None for name, child in children.items()}


class Stages:
    """A process that works in two stages, for which several may prepare at once and then work one after another.

    Args:
        module: of this package, whose command line calls `between_stages` once and prints JSON at its end.
        words: its arguments.
    """

    def __init__(self, module, words):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would fill)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self):
        """What the first stage found; the process waits."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else self._failed()

    def last(self):
        """Let the second stage begin; what it found."""
        output, _ = self.process.communicate("\n")
        return self._failed() if self.process.returncode else json.loads(output.splitlines()[-1])

    def _failed(self):
        self.errors.seek(0)
        raise RuntimeError(self.errors.read()[-2000:])


def between_stages(found):
    """Print what the first stage found, as JSON, and wait for leave to go on (not where a person started it)."""
    print(json.dumps(found), flush=True)
    if not sys.stdin.isatty():
        sys.stdin.readline()


def answer(module, words, environment=None):
    """What a process of a module of this package prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])
