"""Many runs: what an hour holds with one worker and with two, what Ray costs a run, and what larger clusters promise.

    python -m benchmarks scaling

Measured: tiny trainings on this machine, through `--executor local` and through Ray.  Computed: the length of the
randomisation study (10 seeds, published settings) on more GPUs, by giving each run to the first GPU that is free.
"""

import heapq
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import row

RUNS = 2
GPU_HOURS_A_SEED = 12.5  # published, of a V100
SEEDS = 10
GPUS = (8, 64, 512)


def measure():
    words = ["--dataset=digits", "--model-size=8", "--max-steps=40", "--learning-rates=0.1", "--boundaries="]
    words += [f"--sweep=seed=0:{RUNS}"]
    executors = {
        "local, 1 worker": ["--jobs=1"],
        "local, 2 workers": ["--jobs=2"],
        "Ray, 2 workers": ["--executor=ray"],
    }
    rows, took = [], {}
    for name, executor in executors.items():
        took[name] = _seconds([*words, *executor])
        rows.append(row(f"runs/hour, {name}", 3600 * RUNS / took[name]))
    overhead = (took["Ray, 2 workers"] - took["local, 2 workers"]) / RUNS
    rows.append(row("what Ray costs a run, its start included", overhead, "s"))
    return rows + [row(f"computed: hours for {SEEDS} seeds on {n} GPUs", makespan(n), "h") for n in GPUS]


def makespan(gpus, overhead_seconds=10):
    """Hours of the study on so many GPUs, each run given to the first that is free, a training before its prunings."""
    from tf_robustcomp.experiments.studies import randomisation

    tasks = [task for seed in range(SEEDS) for task in _of_seed(randomisation, seed)]
    steps = {task.name: task.flags["max-steps"] for task in tasks}
    hours_a_step = GPU_HOURS_A_SEED / (sum(steps.values()) / SEEDS)
    free, ended = [0.0] * gpus, {}
    for task in sorted(tasks, key=lambda task: len(task.needs)):
        begin = max(heapq.heappop(free), *(ended[name] for name in task.needs), 0.0)
        ended[task.name] = begin + steps[task.name] * hours_a_step + overhead_seconds / 3600
        heapq.heappush(free, ended[task.name])
    return max(ended.values())


def _of_seed(study, seed):
    return [task for task in study.tasks("paper", "data.tfrecord", seed) if "max-steps" in task.flags]


def _seconds(words):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tf_robustcomp.train_resnet_random", "train", *words]
        began = time.perf_counter()
        subprocess.run([*command, f"--train-dir={Path(folder) / 'sweep'}"], check=True, capture_output=True)
        return time.perf_counter() - began
