"""Speed, as ratios measured side by side in one run: `make bench`.

Prints one table and writes benchmarks/results.json with the machine and the versions.  Names run some alone, without
writing: ``python -m benchmarks shrink``, which takes long and is not among the others.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks.rows import show

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PACKAGES = ("keras", "tensorflow", "torch", "jax", "tensorflow-model-optimization", "tf_keras", "scipy", "ray")
MODULES = (
    *(
        "pruning_step",
        "wasserstein_step",
        "rotation_search",
        "convolutions",
        "evaluation",
        "codec",
        "photographs",
        "encoders",
    ),
    *("input_pipeline", "start", "growth", "scaling", "model_size", "gpu"),
)


def main():
    rows = []
    for name in sys.argv[1:] or MODULES:
        print(f"{name} ...", end="", flush=True)
        began = time.perf_counter()
        rows += importlib.import_module(f"benchmarks.{name}").measure()
        print(f" {time.perf_counter() - began:.0f} s", flush=True)
    show(rows)
    import keras

    machine = {"cpus": os.cpu_count(), "processor": _processor(), "backend": keras.backend.backend()}
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    if len(sys.argv) == 1:
        path = Path(__file__).with_name("results.json")
        path.write_text(json.dumps({"machine": machine, "versions": versions, "rows": rows}, indent=2) + "\n")
        print(path)


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


main()
