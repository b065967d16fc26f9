"""Train a ResNet on CIFAR-10 with partly random labels (Zhang et al. 2017; Zhou et al. 2018).

    python -m tf_robustcomp.train_resnet_random train --proportion-random 0.3
    python -m tf_robustcomp.train_resnet_random eval --proportion-random 0.3

`train` writes the run directory out-<100P> (here out-30), `eval` puts eval_train.json and eval_test.json into it.
"""

import dataclasses
import sys

from tf_robustcomp import flags, randomisation
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.studies import sweep

COMMAND = "train_resnet_random"
LAGGING = 0.05  # share of the start in batch norm's moving statistics from which a run is told of it


@dataclasses.dataclass(frozen=True)
class Settings(randomisation.ClassifierSettings):
    """Flags of this entry point; the defaults are the published settings."""

    seed: int = flags.field(0, "seed of the initial weights", minimum=0, maximum=2**32 - 1)
    max_steps: int = flags.field(64_000, "steps", minimum=1)
    learning_rates: tuple[float, ...] = flags.field((0.001, 0.1, 0.01, 0.001), "learning rates in turn", minimum=0)
    boundaries: tuple[int, ...] = flags.field((400, 32_000, 48_000), "steps between which they hold", minimum=1)


def directory(proportion_random):
    """Run directory of a share of random labels."""
    return f"out-{randomisation.percent(proportion_random)}"


def with_defaults(settings):
    """Fill in what depends on other settings, and check what concerns several.

    Raises:
        InvalidArgument: the learning rates and boundaries do not fit together, or the depth is not 6n + 2.
    """
    if len(settings.learning_rates) != len(settings.boundaries) + 1 or list(settings.boundaries) != sorted(
        set(settings.boundaries)
    ):
        raise InvalidArgument(
            "--learning-rates must be one more than --boundaries, which must rise. Received: "
            f"{list(settings.learning_rates)} and {list(settings.boundaries)}"
        )
    if settings.model_size % 6 != 2:
        raise InvalidArgument(f"--model-size must be 6n + 2 (8, 14, 20, ..., 56, ...). Received: {settings.model_size}")
    return dataclasses.replace(settings, train_dir=settings.train_dir or directory(settings.proportion_random))


def train(settings):
    """Train, or go on where a run stopped."""
    settings = with_defaults(settings)
    randomisation.train_classifier(COMMAND, settings, lambda shape: _build(settings, shape), _learning_rate)


def evaluate(settings, given):
    """Evaluate a run on the records it was trained on and on the test records."""
    randomisation.evaluate_classifier(COMMAND, with_defaults(settings), given)


def _build(settings, image_shape):
    import keras

    from tf_robustcomp.classifiers import resnet_v2
    from tf_robustcomp.training import stepwise

    _say_what_lags(settings)
    keras.utils.set_random_seed(settings.seed)
    rate = stepwise(settings.boundaries, settings.learning_rates)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    return randomisation.compile_classifier(
        resnet_v2(settings.model_size, image_shape, bn_momentum=settings.bn_momentum), optimizer, settings
    )


def _say_what_lags(settings):
    """A line where evaluation, which uses batch norm's moving statistics, would see much of their start in them."""
    left = settings.bn_momentum**settings.max_steps
    if left > LAGGING:
        print(
            f"--bn-momentum={settings.bn_momentum:g}: {left:.0%} of batch norm's moving statistics, which `eval` uses, "
            f"will be of the start after {settings.max_steps} steps; lower it for a run so short",
            flush=True,
        )


def _learning_rate(model):
    from tf_robustcomp import backend

    return {"learning_rate": float(backend.read(model.optimizer.learning_rate))}


@dataclasses.dataclass(frozen=True)
class CommandSettings(sweep.SweepSettings, Settings):
    """Flags of the command: those of a run, and those of many."""


def command(settings, action, given):
    """`train` or `eval`, one run or a sweep."""
    if settings.sweep:
        return sweep.perform(COMMAND, Settings, settings, action, given)
    settings = flags.narrowed(Settings, settings)
    given &= vars(settings).keys()
    return train(settings) if action == "train" else evaluate(settings, given)


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, CommandSettings, command, argv, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())
