"""How time and memory grow: each case at three sizes, twice as large each time, a process each; exponents.

    python -m benchmarks growth
    python -m benchmarks.growth 8 pixels  # sizes eight times as large, of cases with a word in their name

Exponents are slopes of a line through the logarithms, by least squares.  Time is that of the work itself, without
imports and tracing; commands begin with their tracing, which only larger sizes outweigh.  Memory is the process's peak,
libraries included.  An exponent of 1 is linear, 0 is flat.  Networks are narrow, so that what is beside them is seen.
Images grow from a side of 32 to one of 64 at once.
"""

import json
import math
import multiprocessing
import os
import sys
import tempfile
import time

from benchmarks.children import answer
from benchmarks.pairs import peak_megabytes
from benchmarks.rows import row, show

SIZES = (1, 2, 4)
SIDE, LATENTS, WIDTH = 32, 10, 16
CLASSIFIER = ("--model-size=8", "--batch-size=64", "--learning-rates=0.1", "--boundaries=")
PRUNED = ("--model-size=8", "--batch-size=64", "--target-sparsity=0.9")


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
    return SIZES[::2] if case.endswith("pixels of an image") else SIZES


def exponent(sizes, values):
    """Slope of log value by log size."""
    import numpy as np

    return np.polyfit(np.log(sizes), np.log(values), 1)[0]


def _listed(values):
    return ", ".join(f"{value:.3g}" for value in values)


def side_of(size):
    """Side of images with so many times 32 x 32 pixels, as near as a multiple of 16 comes; exact for powers of 4."""
    return 16 * round(2 * math.sqrt(size))


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


def _evaluated(measure, count, side=SIDE):
    model, data = _compressor(side), _images(count, side)
    measure(model, data)
    return lambda: measure(model, data)


def _worst_case(images=250, side=SIDE, gammas=(2.0, 1.0)):
    from tf_robustcomp.evaluation import worst_case_curve

    def attacked(model, data):
        worst_case_curve(model, data, gammas, attack="paper", check=0)

    return _evaluated(attacked, images, side)


def _turned(images=2000, angles=4, side=SIDE):
    from tf_robustcomp.evaluation import rotation_curve

    return _evaluated(lambda model, data: rotation_curve(model, data, [7.0 * n for n in range(angles)]), images, side)


def _coded(images=4000, side=SIDE):
    def there_and_back(model, data):
        model.decompress(model.compress(data, mode="fixed"))

    return _evaluated(there_and_back, images, side)


def _called(entry, *words):
    """An entry point, run once to its end."""
    import importlib

    assert importlib.import_module(f"tf_robustcomp.{entry}").main([str(word) for word in words]) == 0


def _labelled(folder, count, side, channels=3):
    """The flag of a .npz file of so many images for training and a fifth as many for a test."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for split, images in (("train", count), ("test", count // 5)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (images, side, side, channels), dtype="uint8")
        arrays[f"y_{split}"] = rng.integers(0, 10, images)
    np.savez(f"{folder}/images.npz", **arrays)
    return f"{folder}/images.npz"


def _dense(side):
    """Folder, in the one where all cases run, of a classifier after a step and of its images."""
    return f"dense-{side}"


def _code(side):
    """The same of a compressor."""
    return f"code-{side}"


def prepare(side):
    """Train what `_dense` and `_code` name."""
    for folder in (_dense(side), _code(side)):
        os.mkdir(folder)
    words = (f"--dataset={_labelled(_dense(side), 100, side)}", *CLASSIFIER, "--max-steps=1")
    _called("train_resnet_random", "train", *words, f"--train-dir={_dense(side)}/run")
    words = (f"--data={_labelled(_code(side), 1000, side, channels=1)}", f"--width={WIDTH}", f"--side={side}")
    _called("train_compressor", "train", *words, "--epochs=0.05", f"--train-dir={_code(side)}/run")


def _classifier(steps=20, images=1000, side=SIDE):
    folder = tempfile.mkdtemp()
    words = (f"--dataset={_labelled(folder, images, side)}", *CLASSIFIER, f"--max-steps={steps}")
    return lambda: _called("train_resnet_random", "train", *words, f"--train-dir={folder}/run")


def _evaluated_classifier(images):
    words = (f"--dataset={_labelled(_dense(SIDE), images, SIDE)}", *CLASSIFIER, "--max-steps=1")
    return lambda: _called("train_resnet_random", "eval", *words, f"--train-dir={_dense(SIDE)}/run")


def _pruning(folder, steps, images, side):
    """Words of the command; the path of the images must be that of the dense network's."""
    data = f"--dataset={_labelled(_dense(side), images, side)}"
    return (data, *PRUNED, f"--max-steps={steps}", f"--warm-start={_dense(side)}/run", f"--train-dir={folder}")


def _pruned(steps=20, images=1000, side=SIDE):
    words = _pruning(tempfile.mkdtemp(), steps, images, side)
    return lambda: _called("prune_resnet_dns", "train", *words)


def _compared(images=60, side=SIDE):
    data = _labelled(tempfile.mkdtemp(), 5 * images, side, channels=1)
    words = (f"--models={_code(side)}/run", f"--data={data}", f"--output={tempfile.mkdtemp()}/compared")
    return lambda: _called("compare_codecs", *words)


def _reconstructions(count=5, side=SIDE):
    words = (f"--models={_code(side)}/run", f"--count={count}", f"--output={tempfile.mkdtemp()}/picture.png")
    return lambda: _called("plot_reconstructions", *words)


def _summary(pruned):
    """A summary of so many copies of one evaluated pruning."""
    import shutil

    folder = tempfile.mkdtemp()
    words = _pruning(f"{folder}/0", 1, 100, SIDE)
    for action in ("train", "eval"):
        _called("prune_resnet_dns", action, *words)
    for number in range(1, pruned):
        shutil.copytree(f"{folder}/0", f"{folder}/{number}")
    return lambda: _called("plot_summary", folder, f"--output={tempfile.mkdtemp()}/summary")


def _study(runs):
    """What `reproduce` does with a study's runs, here so many of the shortest trainings, one after another."""
    from tf_robustcomp.studies import engine, executors, places
    from tf_robustcomp.studies.task import Task

    flags = {"data": "digits", "width": 4, "side": 16, "epochs": 0.01}
    tasks = [Task(f"{n}", "train_compressor", {**flags, "train-dir": f"runs/{n}"}, (("train",),)) for n in range(runs)]
    place = places.at(tempfile.mkdtemp())
    return lambda: engine.perform(tasks, place, executors.make(executors.ExecutorSettings(), place))


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

    def converted():
        assert converter.main(words) == 0

    return converted


CASES = {
    "min-max training, steps": lambda size: _training(size),
    "min-max training, images of an epoch": lambda size: _training(1, 10 * size, 640 * size),
    "min-max training, pixels of an image": lambda size: _training(1, side=side_of(size)),
    "min-max training, latents": lambda size: _training(1, latents=10 * size),
    "worst case, images": lambda size: _worst_case(250 * size),
    "worst case, pixels of an image": lambda size: _worst_case(side=side_of(size)),
    "rotation curve, images": lambda size: _turned(2000 * size),
    "rotation curve, angles": lambda size: _turned(angles=4 * size),
    "rotation curve, pixels of an image": lambda size: _turned(side=side_of(size)),
    "bitstream there and back, images": lambda size: _coded(4000 * size),
    "bitstream there and back, pixels of an image": lambda size: _coded(side=side_of(size)),
    "ResNet-8, steps": lambda size: _classifier(steps=20 * size),
    "ResNet-8, images at the same steps": lambda size: _classifier(images=5000 * size),
    "ResNet-8, pixels of an image": lambda size: _classifier(side=side_of(size)),
    "evaluation of ResNet-8, images": lambda size: _evaluated_classifier(2000 * size),
    "pruning ResNet-8, steps": lambda size: _pruned(steps=20 * size),
    "pruning ResNet-8, images at the same steps": lambda size: _pruned(images=5000 * size),
    "pruning ResNet-8, pixels of an image": lambda size: _pruned(side=side_of(size)),
    "comparison with image codecs, images": lambda size: _compared(60 * size),
    "comparison with image codecs, pixels of an image": lambda size: _compared(side=side_of(size)),
    "plot of reconstructions, images": lambda size: _reconstructions(5 * size),
    "plot of reconstructions, pixels of an image": lambda size: _reconstructions(side=side_of(size)),
    "summary of prunings, runs": lambda size: _summary(10 * size),
    "study, runs": _study,
    "conversion of CIFAR-10, images": lambda size: _converted(1000 * size),
}

# The greatest scale: the one draws 20 images at most, the other converts 10,000 to a part, as CIFAR-10 has.
LIMITS = {"plot of reconstructions, images": 1, "conversion of CIFAR-10, images": 2}


def timed(case, size):
    """Seconds and megabytes of one case at one size."""
    with tempfile.TemporaryDirectory() as tempfile.tempdir:  # all that a case makes is in it, and goes with it
        run = CASES[case](size)
        began = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - began, "megabytes": peak_megabytes()}


def found(scale, word):
    """What `timed` gives for the cases with a word in their name, at each size: dict of case -> list."""
    import tf_robustcomp.backend  # noqa: F401  (TensorFlow, once for all processes, before it has threads)

    cases = [case for case in CASES if word in case and scale <= LIMITS.get(case, scale)]
    work = {case: [scale * size for size in sizes_of(case)] for case in cases}
    processes = multiprocessing.get_context("fork").Pool
    with tempfile.TemporaryDirectory() as folder, processes(1, os.chdir, (folder,), maxtasksperchild=1) as pool:
        for side in {SIDE, *(side_of(scale * size) for size in SIZES[::2])}:
            pool.apply(prepare, (side,))
        return {case: [pool.apply(timed, (case, size)) for size in sizes] for case, sizes in work.items()}


if __name__ == "__main__" and sys.argv[1] == "answer":
    print(json.dumps(found(int(sys.argv[2]), sys.argv[3])))
elif __name__ == "__main__":
    show(measure(int(sys.argv[1]), *sys.argv[2:]))
