"""Functions of a size that make ready what `growth` times, whole commands all.

They run in one folder, in which `prepare` has left what they share, and make their own files in temporary ones.
"""

import importlib
import importlib.util
import io
import math
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

SIDE = 32
COMPRESSOR = ("--width=16", "--adversary=wasserstein", "--attack-steps=5")
CLASSIFIER = ("--model-size=8", "--batch-size=64", "--learning-rates=0.1", "--boundaries=")
PRUNED = ("--model-size=8", "--batch-size=64", "--target-sparsity=0.9")


def side_of(size):
    """Side of images with so many times 32 x 32 pixels, as near as a multiple of 16 comes; exact for powers of 4."""
    return 16 * round(2 * math.sqrt(size))


def prepare(side):
    """A compressor after a few steps, in code-SIDE; in dense-SIDE a classifier after one, and its evaluated pruning."""
    for folder in (_code(side), _dense(side)):
        os.mkdir(folder)
    words = (f"--data={_images(_code(side), 1000, side)}", f"--side={side}", *COMPRESSOR, "--epochs=0.1")
    _called("train_compressor", "train", *words, f"--train-dir={_run(side)}")
    data = f"--dataset={_images(_dense(side), 100, side, channels=3)}"
    _called("train_resnet_random", "train", data, *CLASSIFIER, "--max-steps=1", f"--train-dir={_dense(side)}/run")
    if side == SIDE:
        words = _pruning(f"{_dense(side)}/pruned", 1, 100, side)
        for action in ("train", "eval"):
            _called("prune_resnet_dns", action, *words)


def _code(side):
    return f"code-{side}"


def _run(side):
    return f"{_code(side)}/run"


def _dense(side):
    return f"dense-{side}"


def _called(entry, *words):
    """An entry point, run once to its end."""
    assert importlib.import_module(f"tf_robustcomp.{entry}").main([str(word) for word in words]) == 0


def _images(folder, count, side, channels=1):
    """Path of a .npz file of so many images for training and as many for a test."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, side, side, channels), dtype="uint8")
        arrays[f"y_{split}"] = rng.integers(0, 10, count)
    np.savez(f"{folder}/images.npz", **arrays)
    return f"{folder}/images.npz"


def _compressor(steps=10, images=640, side=SIDE, latents=10):
    folder = tempfile.mkdtemp()
    words = (f"--data={_images(folder, images, side)}", f"--side={side}", f"--latent-dim={latents}", *COMPRESSOR)
    epochs = f"--epochs={64 * steps / images}"
    return lambda: _called("train_compressor", "train", *words, epochs, f"--train-dir={folder}/run")


def _evaluated_compressor(images):
    folder = tempfile.mkdtemp()
    shutil.copytree(_run(SIDE), f"{folder}/run")
    words = (f"--data={_images(folder, images, SIDE)}", f"--eval-images={images}", f"--train-dir={folder}/run")
    return lambda: _called("train_compressor", "eval", *words)


def _measured(entry, *words, images, side=SIDE):
    """An entry point that measures trained compressors."""
    folder = tempfile.mkdtemp()
    shared = (f"--models={_run(side)}", f"--data={_images(folder, images, side)}", f"--output={folder}/measured")
    return lambda: _called(entry, *shared, *words)


def _worst_case(images=250, side=SIDE):
    words = ("--attack=paper", "--gammas=2,1", "--check-images=0")
    return _measured("eval_wass_ball", *words, images=images, side=side)


def _rotations(images=2000, angles=4, side=SIDE):
    return _measured("eval_rotations", f"--angle-step={360 / (angles - 1)}", images=images, side=side)


def _compared(images=60, side=SIDE):
    return _measured("compare_codecs", images=images, side=side)


def _reconstructions(count=5, side=SIDE):
    words = (f"--models={_run(side)}", f"--count={count}", f"--output={tempfile.mkdtemp()}/picture.png")
    return lambda: _called("plot_reconstructions", *words)


def _coded(images=2000, side=SIDE):
    folder = tempfile.mkdtemp()
    shutil.copytree(_run(side), f"{folder}/run")
    model, data, file = f"--model={folder}/run", _images(folder, images, side), f"{folder}/file.rc"

    def coded():
        _called("codec", "fit", model, f"--data={data}")
        _called("codec", "encode", model, f"--out={file}", data)
        _called("codec", "decode", model, f"--out={folder}", file)

    return coded


def _classifier(steps=10, images=1000, side=SIDE):
    folder = tempfile.mkdtemp()
    words = (f"--dataset={_images(folder, images, side, channels=3)}", *CLASSIFIER, f"--max-steps={steps}")
    return lambda: _called("train_resnet_random", "train", *words, f"--train-dir={folder}/run")


def _evaluated_classifier(images):
    words = (f"--dataset={_images(_dense(SIDE), images, SIDE, channels=3)}", *CLASSIFIER, "--max-steps=1")
    return lambda: _called("train_resnet_random", "eval", *words, f"--train-dir={_dense(SIDE)}/run")


def _pruning(folder, steps, images, side):
    """Words of the command; the path of the images must be that of the dense network's."""
    data = f"--dataset={_images(_dense(side), images, side, channels=3)}"
    return (data, *PRUNED, f"--max-steps={steps}", f"--warm-start={_dense(side)}/run", f"--train-dir={folder}")


def _pruned(steps=10, images=1000, side=SIDE):
    words = _pruning(tempfile.mkdtemp(), steps, images, side)
    return lambda: _called("prune_resnet_dns", "train", *words)


def _summary(prunings):
    """A summary of so many copies of one evaluated pruning."""
    folder = tempfile.mkdtemp()
    for number in range(prunings):
        shutil.copytree(f"{_dense(SIDE)}/pruned", f"{folder}/{number}")
    return lambda: _called("plot_summary", folder, f"--output={folder}/summary")


def _study(runs):
    """Do what `reproduce` does with a study's runs, here so many of a short command, one after another."""
    from tf_robustcomp.cli.settings.studies import ExecutorSettings
    from tf_robustcomp.scheduling import scheduler
    from tf_robustcomp.scheduling.task import Task

    pruned = os.path.abspath(_dense(SIDE))
    tasks = [Task(f"{n}", "plot_summary", {"output": f"summary-{n}"}, ((pruned,),)) for n in range(runs)]
    folder = Path(tempfile.mkdtemp())
    return lambda: scheduler.perform(tasks, folder, scheduler.pool_for(ExecutorSettings(), folder))


def _converted(images):
    """The archive of CIFAR-10 with so many records in each of its six parts."""
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
    "train_compressor, steps": lambda size: _compressor(steps=20 * size),
    "train_compressor, images of an epoch": lambda size: _compressor(20 * size, 1280 * size),
    "train_compressor, pixels": lambda size: _compressor(steps=20, side=side_of(size)),
    "train_compressor, latents": lambda size: _compressor(latents=10 * size),
    "train_compressor eval, images": lambda size: _evaluated_compressor(100 * size),
    "eval_wass_ball, images": lambda size: _worst_case(250 * size),
    "eval_wass_ball, pixels": lambda size: _worst_case(side=side_of(size)),
    "eval_rotations, images": lambda size: _rotations(2000 * size),
    "eval_rotations, angles": lambda size: _rotations(angles=4 * size),
    "eval_rotations, pixels": lambda size: _rotations(side=side_of(size)),
    "codec (fit, encode, decode), images": lambda size: _coded(2000 * size),
    "codec (fit, encode, decode), pixels": lambda size: _coded(side=side_of(size)),
    "compare_codecs, images": lambda size: _compared(60 * size),
    "compare_codecs, pixels": lambda size: _compared(side=side_of(size)),
    "plot_reconstructions, images": lambda size: _reconstructions(5 * size),
    "plot_reconstructions, pixels": lambda size: _reconstructions(side=side_of(size)),
    "train_resnet_random (ResNet-8), steps": lambda size: _classifier(steps=20 * size),
    "train_resnet_random, images at the same steps": lambda size: _classifier(images=5000 * size),
    "train_resnet_random, pixels": lambda size: _classifier(side=side_of(size)),
    "train_resnet_random eval, images": lambda size: _evaluated_classifier(1000 * size),
    "prune_resnet_dns (ResNet-8), steps": lambda size: _pruned(steps=20 * size),
    "prune_resnet_dns, images at the same steps": lambda size: _pruned(images=5000 * size),
    "prune_resnet_dns, pixels": lambda size: _pruned(side=side_of(size)),
    "plot_summary, runs": lambda size: _summary(10 * size),
    "reproduce (a study), runs": _study,
    "download_and_convert_cifar10, images": lambda size: _converted(1000 * size),
}

# The greatest scale: the one draws 20 images at most, the other converts 10,000 to a part, as CIFAR-10 has.
LIMITS = {"plot_reconstructions, images": 1, "download_and_convert_cifar10, images": 2}
