"""Timing two or more things against each other: alternating rounds after a warm-up, medians."""

import statistics
import time
from pathlib import Path


def times(actions, rounds, warm_up=2):
    """Seconds of each action in every round, a list of lists; within a round they take turns.

    Args:
        actions: functions without arguments.
        rounds: how often each is timed.
        warm_up: rounds that do not count.
    """
    taken = [[] for _ in actions]
    for index in range(warm_up + rounds):
        for action, seconds in zip(actions, taken, strict=True):
            began = time.perf_counter()
            action()
            if index >= warm_up:
                seconds.append(time.perf_counter() - began)
    return taken


def medians(actions, rounds, warm_up=2):
    """Median seconds of each action; arguments as of `times`."""
    return [statistics.median(seconds) for seconds in times(actions, rounds, warm_up)]


def ratios(taken):
    """Median over the rounds of each action's seconds by the first one's: what disturbs a round disturbs both."""
    return [statistics.median(a / b for a, b in zip(seconds, taken[0], strict=True)) for seconds in taken]


def peak_megabytes():
    """Greatest resident memory of this process so far (Linux); getrusage's begins with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
