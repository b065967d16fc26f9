"""What the entry points of the network half share: settings, labelled data, compiling, evaluation."""

import dataclasses
from pathlib import Path

from tf_robustcomp import files, flags, runs
from tf_robustcomp.errors import DataError, InvalidArgument

NUM_CLASSES = 10
REDRAWN = ("label_seed", "proportion_random", "max_images")  # by which an evaluation finds the labels trained on


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(flags.DeviceSettings):
    """Flags of every entry point that trains a classifier."""

    dataset: str = flags.field(
        "data/cifar10_train.tfrecord",
        "training records, TFRecords as the converter writes them; or digits, mnist, FILE.npz",
    )
    train_dir: str | None = flags.field(None, "run directory [default: named after the settings]", operational=True)
    test_dataset: str | None = flags.field(
        None, "test records for `eval` [default: --dataset with `test` for `train` in its name]", operational=True
    )
    proportion_random: float = flags.field(0.0, "share of records whose label is redrawn", minimum=0, maximum=1)
    max_images: int = flags.field(0, "train on the first so many records only; 0: all", minimum=0)
    label_seed: int = flags.field(42, "seed of the random labels", minimum=0, maximum=2**32 - 1)
    order_seed: int = flags.field(0, "seed of the order of the records", minimum=0)
    model_size: int = flags.field(56, "depth of the ResNet, 6n + 2", minimum=8)
    bn_momentum: float = flags.field(
        0.997, "momentum of the moving statistics of batch norm; lower it for short runs", minimum=0, maximum=1
    )
    batch_size: int = flags.field(128, "records in a batch", minimum=1)
    log_steps: int = flags.field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = flags.field(1000, "steps between checkpoints", operational=True, minimum=1)


def percent(proportion):
    """A share as directory names have it: 0.3 is ``30``."""
    return f"{round(100 * proportion, 6):g}"


def labelled_records(settings, source, split):
    """Images of a source with their noisy and true labels.

    Args:
        settings: `ClassifierSettings`.
        source: path of TFRecords, or a name or path that `datasets.images.load_images` takes.
        split: ``train`` or ``test``; a path of TFRecords is one split by itself.

    Returns:
        ``(images, noisy_labels, true_labels)``: uint8 (n, h, w, c), int32 (n,), int32 (n,).
    """
    from tf_robustcomp.datasets.images import is_source, load_images
    from tf_robustcomp.datasets.random_labels import random_labels

    if is_source(source):
        loaded = load_images(source)
        images, labels = getattr(loaded, f"x_{split}"), getattr(loaded, f"y_{split}")
    else:
        from tf_robustcomp.datasets.tfrecord import read_records

        images, labels = read_records(source)
    if split == "train" and settings.max_images:
        images, labels = images[: settings.max_images], labels[: settings.max_images]
    try:
        noisy, _ = random_labels(labels, settings.proportion_random, settings.label_seed, NUM_CLASSES)
    except InvalidArgument as error:
        raise DataError(f"{source}: {error}") from None
    return images, noisy, labels


def compile_classifier(model, optimizer, settings):
    """Compile with the loss and the metric that every run reports."""
    import keras

    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=settings.jit_compile,
    )
    return model


def train_classifier(command, settings, build, describe=None):
    """Train a classifier in the settings' run directory, from its checkpoint where there is one.

    Args:
        command: name of the entry point.
        settings: `ClassifierSettings` with ``train_dir`` and ``max_steps``.
        build: function of the image shape that gives the compiled model a new run starts with.
        describe: see `training.train`.
    """
    flags.import_backend_quietly()
    from tf_robustcomp import training
    from tf_robustcomp.datasets.batches import scaled, training_batches

    def batches_from(data, step):
        return training_batches(data, settings.batch_size, settings.order_seed, step, prepare=scaled)

    training.train_run(
        command,
        settings,
        load=lambda: labelled_records(settings, settings.dataset, "train")[:2],
        build=lambda data: build(data[0].shape[1:]),
        batches_from=batches_from,
        max_steps=settings.max_steps,
        describe=describe,
    )


def evaluate_classifier(command, settings, given, describe=None):
    """Write ``eval_train.json`` and ``eval_test.json`` of a run; whatever flags are given must be the run's own.

    Args:
        command: name of the entry point that trained it.
        settings: `ClassifierSettings` with ``train_dir``.
        given: names of the flags given.
        describe: function of the model that gives further entries of the results.
    """
    flags.import_backend_quietly()
    from tf_robustcomp.datasets.images import is_source

    run = runs.Run(settings.train_dir)
    run.check_settings(command, settings, only=given - {"dataset"})
    own = run.settings_as(settings)
    settings = dataclasses.replace(settings, **{name: own[name] for name in REDRAWN})
    dataset = settings.dataset if "dataset" in given else own["dataset"]
    splits = {"train": dataset, "test": settings.test_dataset or _test_source(dataset)}
    if not settings.test_dataset and not is_source(dataset) and not Path(splits["test"]).is_file():
        print(f"{splits['test']}: no such file; evaluating the training records only (see --test-dataset)")
        del splits["test"]
    model = run.load_model()
    for split, source in splits.items():
        images, noisy, labels = labelled_records(settings, source, split)
        results = _evaluate(model, images, noisy, labels)
        results |= {"dataset": str(source), "split": split, "step": int(model.optimizer.iterations.numpy())}
        results |= describe(model) if describe else {}
        files.write_json(run.path / f"eval_{split}.json", results)
        shown = "  ".join(
            f"{kind}: accuracy {results[kind]['accuracy']:.4f}, top-5 {results[kind]['top5_recall']:.4f}, "
            f"loss {results[kind]['loss']:.4f}"
            for kind in ("random_labels", "true_labels")
        )
        print(f"{run.path / f'eval_{split}.json'}: {results['records']} records  {shown}", flush=True)


def _evaluate(model, images, noisy, labels, batch_size=512):
    """Accuracy, top-5 recall and mean cross-entropy (nats) against both kinds of labels, from one pass."""
    import keras

    from tf_robustcomp.datasets.batches import evaluation_batches, scaled

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


def _test_source(dataset):
    from tf_robustcomp.datasets.images import is_source

    if is_source(dataset):
        return dataset
    path = Path(dataset)
    if "train" not in path.name:
        raise InvalidArgument(
            f"--test-dataset must be given where --dataset has no `train` in its name. Received: {path}"
        )
    return str(path.with_name(path.name.replace("train", "test")))
