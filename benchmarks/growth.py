"""How time and memory grow: each case at three sizes, twice as large each time, a process each; exponents.

    python -m benchmarks growth
    python -m benchmarks.growth 8 pixels  # sizes eight times as large, of cases with a word in their name

Exponents are slopes of a line through the logarithms, by least squares.  Time is that of a whole command from its words
to its end, without imports; it begins with tracing, which only larger sizes outweigh.  Memory is the process's peak,
libraries included.  An exponent of 1 is linear, 0 is flat.  Networks are narrow, so that what is beside them is seen.
Images grow from a side of 32 to one of 64 at once.  What is measured is in `growth_cases`.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time

from benchmarks import growth_cases
from benchmarks.children import answer
from benchmarks.pairs import peak_megabytes
from benchmarks.rows import row, show

SIZES = (1, 2, 4)


def measure(scale=1, word=""):
    rows = []
    for case, found in answer("benchmarks.growth", ["answer", str(scale), word]).items():
        sizes = [scale * size for size in sizes_of(case)]
        times = ", ".join(f"x{size}" for size in sizes)
        seconds, megabytes = ([one[name] for one in found] for name in ("seconds", "megabytes"))
        rows.append(row(f"time: {case}, {times}: {_listed(seconds)} s", exponent(sizes, seconds)))
        rows.append(row(f"memory: {case}, {times}: {_listed(megabytes)} MB", exponent(sizes, megabytes)))
    return rows


def sizes_of(case):
    """At which it is measured: pixels at the ends alone, as sides are to be whole."""
    return SIZES[::2] if case.endswith("pixels") else SIZES


def exponent(sizes, values):
    """Slope of log value by log size."""
    import numpy as np

    return np.polyfit(np.log(sizes), np.log(values), 1)[0]


def _listed(values):
    return ", ".join(f"{value:.3g}" for value in values)


def timed(case, size):
    """Seconds and megabytes of one case at one size."""
    with tempfile.TemporaryDirectory() as tempfile.tempdir:  # all that a case makes is in it, and goes with it
        run = growth_cases.CASES[case](size)
        began = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - began, "megabytes": peak_megabytes()}


def found(scale, word):
    """Results of `timed` for the cases with a word in their name, at each size: dict of case -> list."""
    import tf_robustcomp.backend  # noqa: F401  (TensorFlow, once for all processes, before it has threads)

    limits = growth_cases.LIMITS
    cases = [case for case in growth_cases.CASES if word in case and scale <= limits.get(case, scale)]
    work = {case: [scale * size for size in sizes_of(case)] for case in cases}
    processes = multiprocessing.get_context("fork").Pool
    with tempfile.TemporaryDirectory() as folder, processes(1, os.chdir, (folder,), maxtasksperchild=1) as pool:
        for side in {growth_cases.SIDE, *(growth_cases.side_of(scale * size) for size in SIZES[::2])}:
            pool.apply(growth_cases.prepare, (side,))
        return {case: [pool.apply(timed, (case, size)) for size in sizes] for case, sizes in work.items()}


if __name__ == "__main__" and sys.argv[1] == "answer":
    print(json.dumps(found(int(sys.argv[2]), sys.argv[3])))
elif __name__ == "__main__":
    show(measure(int(sys.argv[1]), *sys.argv[2:]))
