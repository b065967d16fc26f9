"""Timing things that need a process each (backends, environment variables) against each other, in turn."""

import json
import os
import statistics
import subprocess
import sys
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
