"""Timing two or more things against each other: alternating rounds after a warm-up, medians."""

import resource
import statistics
import time


def medians(actions, rounds, warm_up=2):
    """Median seconds of each action, measured in turn within every round.

    Args:
        actions: functions without arguments.
        rounds: how often each is timed.
        warm_up: rounds that do not count.
    """
    times = [[] for _ in actions]
    for index in range(warm_up + rounds):
        for action, taken in zip(actions, times, strict=True):
            began = time.perf_counter()
            action()
            if index >= warm_up:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def peak_megabytes():
    """Greatest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
