"""How long --help takes to answer, and how long each trainer takes from the command to its first step."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import medians
from benchmarks.rows import row

ENTRY_POINTS = ("train_resnet_random", "prune_resnet_dns", "train_compressor", "eval_wass_ball", "reproduce", "demo")
CLASSIFIER = ("--dataset=digits", "--log-steps=1")
TRAINERS = {  # at their default sizes: width 64, ResNet-56
    "train_compressor": ("--data=digits", "--log-steps=1"),
    "train_compressor, min-max": ("--data=digits", "--log-steps=1", "--adversary=wasserstein", "--gamma=1"),
    "train_resnet_random": CLASSIFIER,
    "prune_resnet_dns": (*CLASSIFIER, "--warm-start={dense}"),
}


def measure(rounds=2):
    def ask(name):
        command = [sys.executable, "-m", f"tf_robustcomp.{name}", "--help"]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    times = medians([ask(name) for name in ENTRY_POINTS], rounds, warm_up=1)
    rows = [row(f"--help, slowest of {len(times)} entry points", max(times), "s", "< 1.5")]
    library = medians([_import_keras], rounds=1, warm_up=0)[0]
    rows.append(row("import keras, TensorFlow with it", library, "s"))
    with tempfile.TemporaryDirectory() as dense:
        short = ["--dataset=digits", "--max-steps=1", "--learning-rates=0.1", "--boundaries="]
        command = [sys.executable, "-m", "tf_robustcomp.train_resnet_random", "train", f"--train-dir={dense}", *short]
        subprocess.run(command, check=True, capture_output=True)
        for name, words in TRAINERS.items():
            command = [name.split(",")[0], *(word.format(dense=dense) for word in words)]
            rows.append(row(f"{name}, from the command to the first step's row", _first_step(*command), "s"))
    return rows


def _import_keras():
    subprocess.run([sys.executable, "-c", "import keras"], check=True, capture_output=True)


def _first_step(entry, *words):
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "run" / "metrics.csv"
        command = [sys.executable, "-m", f"tf_robustcomp.{entry}", "train", f"--train-dir={table.parent}", *words]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not (table.exists() and len(table.read_bytes().splitlines()) > 1):
                if process.poll() is not None:
                    raise RuntimeError(f"ended with {process.returncode}: {' '.join(command)}")
                time.sleep(0.01)
            seconds = time.perf_counter() - began
            process.kill()
        return seconds
