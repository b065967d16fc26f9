"""Build, train and evaluate a compressor from the settings of a command."""

import dataclasses
import types
from typing import Any

import keras

from tf_robustcomp.backend.fused import Adam
from tf_robustcomp.cli.flags import Parsed
from tf_robustcomp.data.batches import training_batches
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.evaluation.summaries import summary
from tf_robustcomp.runs import trainer
from tf_robustcomp.runs.directory import Run, digest
from tf_robustcomp.utils import files, registry
from tf_robustcomp.utils.errors import InvalidArgument

ENTROPY_IMAGES = 20_000  # training images at most that the tables of `compress` are fitted to


def train(command: str, settings: Any) -> None:
    """Train in the settings' run directory, or continue where a run stopped.

    Args:
        command: name of the command.
        settings: `CompressorSettings`.
    """
    size = (settings.side, settings.side)

    def steps(data):
        return max(1, round(settings.epochs * len(data[0]) / settings.batch_size))

    def batches_from(data, step):
        return training_batches(data, settings.batch_size, settings.order_seed, step, prepare=lambda images: images)

    trainer.train_run(
        command,
        settings,
        load=lambda: (images_of(settings.data, "train", size, settings.max_images or None),),
        build=lambda data: build(settings, data[0].shape[1:], len(data[0]), steps(data)),
        batches_from=batches_from,
        max_steps=steps,
        complete=lambda model, data: model.fit_entropy_model(data[0][:ENTROPY_IMAGES]),
        digests=lambda data: {"train": digest(*data), "test": digest(images_of(settings.data, "test", size))},
    )


def evaluate(parsed: Parsed) -> None:
    """Write eval_test.json of the run in the settings' directory, on its own test images unless others are given."""
    run = Run(parsed.settings.train_dir)
    own = run.settings_as(parsed.settings)
    changes = {name: own[name] for name in ("side", *([] if "data" in parsed.given else ["data"]))}
    settings = dataclasses.replace(parsed.settings, **changes)
    images = images_of(settings.data, "test", (settings.side, settings.side))
    if "data" not in parsed.given:
        run.check_data("test", digest(images))
    results = summary(run.load_model(), images, settings.eval_gamma, attack_images=settings.eval_images, progress=True)
    path = run.path / "eval_test.json"
    files.write_json(path, {"data": settings.data, "images": len(images), "gamma": settings.eval_gamma, **results})
    for stage, entry in results.items():
        print(f"{path}: {stage}, {_line(entry)}", flush=True)


def build(settings: Any, image_shape: Any, count: int, steps: int) -> keras.Model:
    """Return the compiled model that a new run starts with.

    Args:
        settings: `CompressorSettings`.
        image_shape: (h, w, c).
        count: training images.
        steps: of the whole training.
    """
    keras.utils.set_random_seed(settings.seed)
    compressor = registry.variants("compressor")[settings.model]
    model = compressor.build(types.SimpleNamespace(**vars(settings), image_shape=image_shape))
    if settings.warm_start:
        _start_from(model, settings.warm_start)
    steps_per_epoch = count / settings.batch_size
    model.compile(
        Adam(
            _learning_rate(settings, steps_per_epoch, steps),
            fused=settings.fused,
            global_clipnorm=settings.clip_norm or None,
        ),
        adversary=_chosen("adversary", settings.adversary, settings),
        augmentation=_chosen("augmentation", settings.augmentation, settings),
        seed=settings.adversary_seed,
        jit_compile=settings.jit_compile,
        **model.compile_arguments(settings, steps_per_epoch),
    )
    return model


def _chosen(kind, name, settings):
    return None if name == "none" else registry.variants(kind)[name].build(settings)


def _start_from(model, path):
    try:
        model.load_warm_start(Run(path).load_model())
    except InvalidArgument as error:
        raise InvalidArgument(f"--warm-start {path}: {error}") from None


def _learning_rate(settings, steps_per_epoch, steps):
    schedules = keras.optimizers.schedules
    if settings.learning_rate_schedule == "cosine":
        warmup = settings.rate_warmup_steps
        if not warmup:
            return schedules.CosineDecay(settings.learning_rate, steps)
        return schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=settings.learning_rate, warmup_steps=warmup
        )
    boundaries = [round(epoch * steps_per_epoch) for epoch in settings.decay_epochs]
    return trainer.stepwise(boundaries, [settings.learning_rate * 0.2**i for i in range(len(boundaries) + 1)])


def _line(entry):
    """One stage of eval_test.json in words."""
    paper, adaptive = (entry["worst_case"][name] for name in ("paper", "adaptive"))
    return (
        f"{entry['rate_bits']:.2f} bits: clean {entry['clean']:.3f}, noisy {entry['noisy']:.3f}, "
        f"rotated {entry['rotated']:.3f}, worst case (rho, D): 15 steps ({paper['rho']:.1f}, "
        f"{paper['distortion']:.1f}), adaptive ({adaptive['rho']:.1f}, {adaptive['distortion']:.1f})"
    )
