"""Prune a trained ResNet by Dynamic Network Surgery (Guo et al. 2016) on its own, partly random, labels.

    python -m tf_robustcomp.prune_resnet_dns train --proportion-random 0.3 --target-sparsity 0.9
    python -m tf_robustcomp.prune_resnet_dns eval --proportion-random 0.3 --target-sparsity 0.9

`train` starts from the run in out-<100P> and writes the run directory out-prune-<100P>-<10S> (here out-prune-30-9).
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import flags, randomisation, runs, train_resnet_random
from tf_robustcomp.errors import InvalidArgument, RunError

COMMAND = "prune_resnet_dns"
# What a pruning must have in common with the run that it starts from.
SHARED = ("proportion_random", "label_seed", "model_size", "bn_momentum", "dataset", "max_images")


@dataclasses.dataclass(frozen=True)
class Settings(randomisation.ClassifierSettings):
    """Flags of this entry point; the defaults are the published settings."""

    target_sparsity: float = flags.field(0.9, "share of every kernel that shall be zero", minimum=0, maximum=0.999999)
    warm_start: str | None = flags.field(None, "run directory to start from [default: out-<100P>]")
    max_steps: int = flags.field(20_000, "steps", minimum=1)
    ramp_steps: int = flags.field(15_000, "steps in which the sparsity rises to its target", minimum=0)
    update_steps: int = flags.field(500, "steps between new thresholds", minimum=1)
    learning_rate: float = flags.field(0.05, "learning rate at the start", minimum=0)
    learning_rate_decay_steps: int = flags.field(
        200, "the learning rate falls as 1 / (1 + 0.1 t / DECAY_STEPS); lower it for short runs", minimum=1
    )
    surgery_decay_steps: int = flags.field(
        100,
        "a kernel is operated with probability 1 / (1 + 0.2 floor(t / DECAY_STEPS)); lower it for short runs",
        minimum=1,
    )
    threshold: str = flags.field(
        "quantile",
        "`quantile` of all magnitudes as published, which leaves fewer zeros than the target, or `exact`",
        choices=("quantile", "exact"),
    )
    train_unpruned: bool = flags.field(False, "train biases and batch norm too")
    surgery_seed: int = flags.field(0, "seed of the random numbers that decide when kernels are operated", minimum=0)


def directory(proportion_random, target_sparsity):
    """Run directory of a pruning."""
    return f"out-prune-{randomisation.percent(proportion_random)}-{round(10 * target_sparsity, 6):g}"


def with_defaults(settings):
    """Fill in what depends on other settings."""
    return dataclasses.replace(
        settings,
        train_dir=settings.train_dir or directory(settings.proportion_random, settings.target_sparsity),
        warm_start=settings.warm_start or train_resnet_random.directory(settings.proportion_random),
    )


def train(settings):
    """Prune, or go on where a run stopped."""
    settings = with_defaults(settings)
    if Path(settings.train_dir).resolve() == Path(settings.warm_start).resolve():
        raise InvalidArgument(f"--train-dir and --warm-start must differ. Received: {settings.train_dir} for both")
    _check_warm_start(settings)
    randomisation.train_classifier(COMMAND, settings, lambda shape: _build(settings, shape), _sparsity)


def evaluate(settings, given):
    """Evaluate a pruned network on the records it was trained on and on the test records."""
    randomisation.evaluate_classifier(COMMAND, with_defaults(settings), given, _layers)


def _check_warm_start(settings):
    start = runs.Run(settings.warm_start)
    if not start.finished:
        raise RunError(
            f"--warm-start {settings.warm_start}: holds no trained network; run first: python -m tf_robustcomp."
            f"train_resnet_random train --proportion-random {settings.proportion_random} --train-dir {start.path}"
        )
    theirs = start.settings_as(train_resnet_random.Settings)
    for name in SHARED:
        if theirs[name] != getattr(settings, name):
            raise InvalidArgument(
                f"{flags.spelled(name)} must be that of --warm-start {settings.warm_start}, {theirs[name]}. "
                f"Received: {getattr(settings, name)}"
            )


def _build(settings, image_shape):
    import keras

    from tf_robustcomp.classifiers import resnet_v2
    from tf_robustcomp.sparsity import DNS, PolynomialDecay

    model = resnet_v2(
        settings.model_size, image_shape, bn_momentum=settings.bn_momentum
    )  # anew, so that precision and devices are those of this run
    runs.Run(settings.warm_start).load_model(model.load_weights)
    decay = keras.optimizers.schedules.InverseTimeDecay
    rate = decay(settings.learning_rate, settings.learning_rate_decay_steps, decay_rate=0.1)
    optimizer = DNS(
        keras.optimizers.SGD(rate, momentum=0.9),
        PolynomialDecay(
            0.0, settings.target_sparsity, 0, settings.ramp_steps, frequency=settings.update_steps, hold=True
        ),
        train_unpruned=settings.train_unpruned,
        update_probability=decay(1.0, settings.surgery_decay_steps, decay_rate=0.2, staircase=True),
        exact=settings.threshold == "exact",
        seed=settings.surgery_seed,
    )
    return randomisation.compile_classifier(model, optimizer, settings)


def _sparsity(model):
    from tf_robustcomp.sparsity import sparsity_report

    return {
        "learning_rate": float(model.optimizer.learning_rate),
        "sparsity": sparsity_report(model, sizes=False).total.sparsity,
    }


def _layers(model):
    from tf_robustcomp.sparsity import sparsity_report

    report = sparsity_report(model, sizes=False)
    return {"sparsity": report.total.sparsity, "sparsity_per_layer": {row.path: row.sparsity for row in report.rows}}


def command(settings, action, given):
    """`train` or `eval`."""
    return train(settings) if action == "train" else evaluate(settings, given)


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())
