"""How long --help takes to answer."""

import subprocess
import sys

from benchmarks.pairs import medians

ENTRY_POINTS = ("train_resnet_random", "prune_resnet_dns", "run", "plot_summary", "demo")


def measure():
    def ask(name):
        command = [sys.executable, "-m", f"tf_robustcomp.{name}", "--help"]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    times = medians([ask(name) for name in ENTRY_POINTS], rounds=3, warm_up=1)
    slowest = max(times)
    return [{"what": "--help, slowest entry point", "value": slowest, "unit": "s", "goal": "< 1.5"}]
