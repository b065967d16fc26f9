"""How time and memory grow: each case at three sizes, twice as large each time, a process each; exponents.

    python -m benchmarks growth

Exponents are slopes of a line through the logarithms, by least squares.  Time is that of the work itself, without
imports and tracing, which commands include; memory is the process's peak, libraries included.
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
SIDES = {1: 32, 2: 48, 4: 64}  # with 1, 2.25 and 4 times the pixels; the one between has no part in the slope
CLASSIFIER = ("--model-size=8", "--batch-size=64", "--learning-rates=0.1", "--boundaries=")
PRUNED = ("--model-size=8", "--batch-size=64", "--target-sparsity=0.9")


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


def _labelled(folder, count, side, channels=3):
    """Path of a .npz file of so many images for training and a fifth as many for a test."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for split, images in (("train", count), ("test", count // 5)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (images, side, side, channels), dtype="uint8")
        arrays[f"y_{split}"] = rng.integers(0, 10, images)
    np.savez(f"{folder}/images.npz", **arrays)
    return f"{folder}/images.npz"


def _classifier(action="train", steps=20, images=1000, side=SIDE):
    folder = tempfile.mkdtemp()
    words = (f"--dataset={_labelled(folder, images, side)}", *CLASSIFIER, f"--train-dir={folder}/run")
    if action == "eval":
        _called("train_resnet_random", "train", *words, "--max-steps=1")
        return lambda: _called("train_resnet_random", "eval", *words, "--max-steps=1")
    return lambda: _called("train_resnet_random", "train", *words, f"--max-steps={steps}")


def _pruned(steps=20, images=1000, side=SIDE):
    folder = tempfile.mkdtemp()
    data = f"--dataset={_labelled(folder, images, side)}"
    _called("train_resnet_random", "train", data, *CLASSIFIER, "--max-steps=1", f"--train-dir={folder}/dense")
    words = (data, *PRUNED, f"--max-steps={steps}", f"--warm-start={folder}/dense", f"--train-dir={folder}/run")
    return lambda: _called("prune_resnet_dns", "train", *words)


def _trained_compressor(folder, side=SIDE):
    data = _labelled(folder, 320, side, channels=1)
    words = (f"--data={data}", f"--width={WIDTH}", f"--side={side}", "--epochs=0.2", f"--train-dir={folder}/code")
    _called("train_compressor", "train", *words)
    return f"--models={folder}/code"


def _compared(images):
    folder = tempfile.mkdtemp()
    words = (_trained_compressor(folder), "--data=digits", f"--images={images}", f"--output={folder}/compared")
    return lambda: _called("compare_codecs", *words)


def _reconstructions(count=5, side=SIDE):
    folder = tempfile.mkdtemp()
    words = (_trained_compressor(folder, side), f"--count={count}", f"--output={folder}/picture.png")
    return lambda: _called("plot_reconstructions", *words)


def _summary(pruned):
    """A summary of so many copies of one evaluated pruning."""
    import shutil
    from pathlib import Path

    folder = Path(tempfile.mkdtemp())
    data = f"--dataset={_labelled(folder, 100, 8)}"
    _called("train_resnet_random", "train", data, *CLASSIFIER, "--max-steps=1", f"--train-dir={folder}/dense")
    words = (data, *PRUNED, "--max-steps=1", f"--warm-start={folder}/dense", f"--train-dir={folder}/runs/0")
    for action in ("train", "eval"):
        _called("prune_resnet_dns", action, *words)
    for number in range(1, pruned):
        shutil.copytree(folder / "runs/0", folder / f"runs/{number}")
    return lambda: _called("plot_summary", folder / "runs", f"--output={folder}/summary")


def _converted(images):
    """The archive of CIFAR-10 with so many records in each of its six parts."""
    import importlib.util
    import io
    import tarfile
    from pathlib import Path

    import numpy as np

    path = Path(__file__).parents[1] / "tools/download_and_convert_cifar10.py"
    specification = importlib.util.spec_from_file_location("converter", path)
    converter = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(converter)
    records = np.random.default_rng(0).integers(0, 10, (images, converter.RECORD_BYTES), dtype="uint8").tobytes()
    parts = dict.fromkeys((*converter.TRAIN_MEMBERS, *converter.TEST_MEMBERS), records)
    folder = tempfile.mkdtemp()
    with tarfile.open(f"{folder}/cifar.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, data in (parts | {converter.NAMES_MEMBER: "\n".join(converter.NAMES).encode()}).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    words = [f"--source={folder}/cifar.tar.gz", f"--out-dir={folder}/data"]
    return lambda: converter.main(words)


CASES = {
    "min-max training, steps": lambda size: _training(size),
    "min-max training, images of an epoch": lambda size: _training(1, 10 * size, 640 * size),
    "min-max training, pixels of an image": lambda size: _training(1, side=SIDES[size]),
    "min-max training, latents": lambda size: _training(1, latents=10 * size),
    "worst case, images": _worst_case,
    "rotation curve, images": lambda size: _turned(2000 * size, 4),
    "rotation curve, angles": lambda size: _turned(2000, 4 * size),
    "bitstream there and back, images": _coded,
    "ResNet-8, steps": lambda size: _classifier(steps=20 * size),
    "ResNet-8, images at the same steps": lambda size: _classifier(images=5000 * size),
    "ResNet-8, pixels of an image": lambda size: _classifier(side=SIDES[size]),
    "evaluation of ResNet-8, images": lambda size: _classifier("eval", images=2000 * size),
    "pruning ResNet-8, steps": lambda size: _pruned(steps=20 * size),
    "pruning ResNet-8, images at the same steps": lambda size: _pruned(images=5000 * size),
    "pruning ResNet-8, pixels of an image": lambda size: _pruned(side=SIDES[size]),
    "comparison with image codecs, images": lambda size: _compared(60 * size),
    "plot of reconstructions, images": lambda size: _reconstructions(5 * size),
    "plot of reconstructions, pixels of an image": lambda size: _reconstructions(side=SIDES[size]),
    "summary of prunings, runs": lambda size: _summary(10 * size),
    "conversion of CIFAR-10, images": lambda size: _converted(1000 * size),
}


def timed(case, size):
    """Seconds and megabytes of one case at one size."""
    with tempfile.TemporaryDirectory() as tempfile.tempdir:  # all that a case makes is in it, and goes with it
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
