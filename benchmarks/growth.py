"""How time and memory grow: each case at three sizes, twice as large each time, a process each; exponents.

    python -m benchmarks growth

Exponents are slopes of a line through the logarithms, by least squares.  Time is that of the work itself, without
imports and tracing; memory is the process's peak, libraries included.
An exponent of 1 is linear, 0 is flat.  Networks are narrow, so that what is beside them is seen.
"""

import json
import math
import multiprocessing
import tempfile
import time

from benchmarks.children import answer
from benchmarks.pairs import peak_megabytes
from benchmarks.rows import row

SIZES = (1, 2, 4)
SIDE, LATENTS, WIDTH = 32, 10, 16
CLASSIFIER = ("--dataset=digits", "--model-size=8", "--max-steps")
SCHEDULE = ("--learning-rates=0.1", "--boundaries=")


def measure():
    rows = []
    for case, found in answer("benchmarks.growth", []).items():
        seconds, megabytes = ([one[name] for one in found] for name in ("seconds", "megabytes"))
        rows.append(row(f"time: {case}, x1, x2, x4: {_listed(seconds)} s", exponent(seconds)))
        rows.append(row(f"memory: {case}, x1, x2, x4: {_listed(megabytes)} MB", exponent(megabytes)))
    return rows


def exponent(values):
    """Slope of log value by log size."""
    mean = sum(map(math.log, values)) / len(values)
    centre = sum(map(math.log, SIZES)) / len(SIZES)
    spread = sum((math.log(size) - centre) ** 2 for size in SIZES)
    pairs = zip(SIZES, values, strict=True)
    return sum((math.log(size) - centre) * (math.log(value) - mean) for size, value in pairs) / spread


def _listed(values):
    return ", ".join(f"{value:.3g}" for value in values)


def _images(count, side=SIDE):
    import numpy as np

    return np.random.default_rng(0).random((count, side, side, 1), dtype="float32")


def _compressor(side=SIDE, latents=LATENTS):
    import tf_robustcomp as rc

    model = rc.Compressor(latents, width=WIDTH, image_shape=(side, side, 1))
    model.compile("adam", adversary=rc.WassersteinBall(1.0, steps=5))
    return model


def _training(size, steps=10, images=640, side=SIDE, latents=LATENTS):
    model, batch = _compressor(side, latents), 64
    data = _images(images, side)
    model.fit(data[:batch], batch_size=batch, verbose=0)
    return lambda: [model.fit(data[: batch * steps], batch_size=batch, verbose=0) for _ in range(size)]


def _evaluated(measure, count):
    model, data = _compressor(), _images(count)
    measure(model, data)
    return lambda: measure(model, data)


def _worst_case(size, gammas=(2.0, 1.0)):
    from tf_robustcomp.evaluation import worst_case_curve

    return _evaluated(lambda model, data: worst_case_curve(model, data, gammas, attack="paper", check=0), 250 * size)


def _turned(images, angles):
    from tf_robustcomp.evaluation import rotation_curve

    return _evaluated(lambda model, data: rotation_curve(model, data, [7.0 * n for n in range(angles)]), images)


def _coded(size):
    def there_and_back(model, data):
        model.decompress(model.compress(data, mode="fixed"))

    return _evaluated(there_and_back, 4000 * size)


def _called(entry, *words):
    """An entry point, run once to its end."""
    import importlib

    assert importlib.import_module(f"tf_robustcomp.{entry}").main([str(word) for word in words]) == 0


def _classifier(steps):
    folder = tempfile.mkdtemp()
    return lambda: _called("train_resnet_random", "train", *CLASSIFIER, steps, *SCHEDULE, f"--train-dir={folder}/run")


def _pruned(steps):
    folder = tempfile.mkdtemp()
    _called("train_resnet_random", "train", *CLASSIFIER, 1, *SCHEDULE, f"--train-dir={folder}/dense")
    words = (*CLASSIFIER, steps, f"--warm-start={folder}/dense", f"--train-dir={folder}/run", "--target-sparsity=0.9")
    return lambda: _called("prune_resnet_dns", "train", *words)


def _compared(images):
    folder = tempfile.mkdtemp()
    small = ("--data=digits", f"--width={WIDTH}", f"--side={SIDE}", "--epochs=0.1")
    _called("train_compressor", "train", *small, f"--train-dir={folder}/code")
    words = (f"--models={folder}/code", "--data=digits", f"--images={images}")
    return lambda: _called("compare_codecs", *words, f"--output={folder}/compared")


CASES = {
    "min-max training, steps": lambda size: _training(size),
    "min-max training, images of an epoch": lambda size: _training(1, 10 * size, 640 * size),
    "min-max training, pixels of an image": lambda size: _training(1, side={1: 32, 2: 48, 4: 64}[size]),
    "min-max training, latents": lambda size: _training(1, latents=10 * size),
    "worst case, images": _worst_case,
    "rotation curve, images": lambda size: _turned(2000 * size, 4),
    "rotation curve, angles": lambda size: _turned(2000, 4 * size),
    "bitstream there and back, images": _coded,
    "ResNet-8 by its command, steps": lambda size: _classifier(60 * size),
    "pruning ResNet-8 by its command, steps": lambda size: _pruned(60 * size),
    "comparison with image codecs, images": lambda size: _compared(60 * size),
}


def timed(case, size):
    """Seconds and megabytes of one case at one size."""
    run = CASES[case](size)
    began = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - began, "megabytes": peak_megabytes()}


def main():
    import tf_robustcomp.backend  # noqa: F401  (TensorFlow, once for all processes, before it has threads)

    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps({case: [pool.apply(timed, (case, size)) for size in SIZES] for case in CASES}))


if __name__ == "__main__":
    main()
