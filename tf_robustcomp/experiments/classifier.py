"""Train and evaluate classifiers on partly random labels (Zhang et al. 2017; Zhou et al. 2018, arXiv 1804.05862)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend.gradients import read
from tf_robustcomp.cli.flags import Parsed
from tf_robustcomp.data.batches import evaluation_batches, scaled, training_batches
from tf_robustcomp.data.images import is_source, load_images
from tf_robustcomp.data.random_labels import random_labels
from tf_robustcomp.networks import resnet_v2
from tf_robustcomp.runs import trainer
from tf_robustcomp.runs.directory import Run, digest
from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import DataError, InvalidArgument

NUM_CLASSES = 10
LABEL_SETTINGS = ("label_seed", "proportion_random", "max_images")  # by which `eval` finds the labels trained on
LAGGING = 0.05  # warn if more than this fraction of batch norm's moving statistics is still the initial value


def train_resnet(command: str, settings: Any) -> None:
    """Train a ResNet from `ResNetSettings`, or continue where a run stopped."""

    def build(image_shape):
        _warn_of_lag(settings)
        keras.utils.set_random_seed(settings.seed)
        rate = trainer.stepwise(settings.boundaries, settings.learning_rates)
        return compiled(
            resnet(settings, image_shape), keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), settings
        )

    train(command, settings, build, lambda model: {"learning_rate": float(read(model.optimizer.learning_rate))})


def train(command: str, settings: Any, build: Callable, describe: Callable | None = None) -> None:
    """Train a classifier in the settings' run directory, from its checkpoint where there is one.

    Args:
        command: name of the command.
        settings: `ClassifierSettings` with ``train_dir`` and ``max_steps``.
        build: function of the image shape that returns the compiled model a new run starts with.
        describe: see `trainer.train`.
    """

    def batches_from(data, step):
        return training_batches(data, settings.batch_size, settings.order_seed, step, prepare=scaled)

    trainer.train_run(
        command,
        settings,
        load=lambda: labelled_records(settings, settings.dataset, "train")[:2],
        build=lambda data: build(data[0].shape[1:]),
        batches_from=batches_from,
        max_steps=settings.max_steps,
        describe=describe,
    )


def evaluate(parsed: Parsed, describe: Callable | None = None) -> None:
    """Write ``eval_train.json`` and ``eval_test.json`` of a run.

    Args:
        parsed: with `ClassifierSettings` whose ``train_dir`` is the run.
        describe: function of the model that returns further entries of the results.
    """
    run = Run(parsed.settings.train_dir)
    own = run.settings_as(parsed.settings)
    settings = dataclasses.replace(parsed.settings, **{name: own[name] for name in LABEL_SETTINGS})
    dataset = settings.dataset if "dataset" in parsed.given else own["dataset"]
    splits = _splits(settings, dataset)
    model = run.load_model()
    for split, source in splits.items():
        images, noisy, labels = labelled_records(settings, source, split)
        if split == "train":
            run.check_data(split, digest(images, noisy))
        results = _measure(model, images, noisy, labels)
        results.update(dataset=str(source), split=split, step=int(model.optimizer.iterations.numpy()))
        results.update(describe(model) if describe else {})
        path = run.path / f"eval_{split}.json"
        files.write_json(path, results)
        print(f"{path}: {results['records']} records  {_line(results)}", flush=True)


def labelled_records(settings: Any, source: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images of a source with their noisy and true labels.

    Args:
        settings: `ClassifierSettings`.
        source: path of TFRecords, or a name or path that `data.images.load_images` takes.
        split: ``train`` or ``test``; a path of TFRecords is one split by itself.

    Returns:
        ``(images, noisy_labels, true_labels)``: uint8 (n, h, w, c), int32 (n,), int32 (n,).
    """
    if is_source(source):
        loaded = load_images(source)
        images, labels = getattr(loaded, f"x_{split}"), getattr(loaded, f"y_{split}")
    else:
        from tf_robustcomp.data.tfrecord import read_records  # needs TensorFlow

        images, labels = read_records(source)
    if split == "train" and settings.max_images:
        images, labels = images[: settings.max_images], labels[: settings.max_images]
    try:
        noisy, _ = random_labels(labels, settings.proportion_random, settings.label_seed, NUM_CLASSES)
    except InvalidArgument as error:
        raise DataError(f"{source}: {error}") from None
    return images, noisy, labels


def resnet(settings: Any, image_shape: Any) -> keras.Model:
    """Return the ResNet that `ClassifierSettings` name."""
    return resnet_v2(settings.model_size, image_shape, bn_momentum=settings.bn_momentum, fused=settings.fused)


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer, settings: Any) -> keras.Model:
    """Compile with the loss and the metric that every run reports."""
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=settings.jit_compile,
    )
    return model


def _warn_of_lag(settings):
    left = settings.bn_momentum**settings.max_steps
    if left > LAGGING:
        print(
            f"--bn-momentum={settings.bn_momentum:g}: after {settings.max_steps} steps the batch-norm averages used by "
            f"`eval` are still {left:.0%} initial values; lower --bn-momentum for short runs",
            flush=True,
        )


def _splits(settings, dataset):
    splits = {"train": dataset, "test": settings.test_dataset or _test_source(dataset)}
    if not settings.test_dataset and not is_source(dataset) and not Path(splits["test"]).is_file():
        print(f"{splits['test']}: no such file; evaluating the training records only (see --test-dataset)")
        del splits["test"]
    return splits


def _test_source(dataset):
    if is_source(dataset):
        return dataset
    path = Path(dataset)
    if "train" not in path.name:
        raise InvalidArgument(
            f"--test-dataset must be given where --dataset has no `train` in its name. Received: {path}"
        )
    return str(path.with_name(path.name.replace("train", "test")))


def _measure(model, images, noisy, labels, batch_size=512):
    """Accuracy, top-5 recall and mean cross-entropy (nats) against both kinds of labels, from one pass."""
    logits = model.predict(evaluation_batches((images,), batch_size, prepare=lambda x: scaled(x)[0]), verbose=0)
    results: dict = {"records": len(labels)}
    for kind, targets in (("random_labels", noisy), ("true_labels", labels)):
        top5 = keras.metrics.sparse_top_k_categorical_accuracy(targets, logits, k=5)
        loss = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        results[kind] = {
            "accuracy": float((logits.argmax(axis=-1) == targets).mean()),
            "top5_recall": float(keras.ops.mean(top5)),
            "loss": float(keras.ops.mean(loss)),
        }
    return results


def _line(results):
    return "  ".join(
        f"{kind}: accuracy {results[kind]['accuracy']:.4f}, top-5 {results[kind]['top5_recall']:.4f}, "
        f"loss {results[kind]['loss']:.4f}"
        for kind in ("random_labels", "true_labels")
    )
