"""Train a ResNet on CIFAR-10 with partly random labels (Zhang et al. 2017; Zhou et al. 2018).

    python -m tf_robustcomp.train_resnet_random train --proportion-random 0.3
    python -m tf_robustcomp.train_resnet_random eval --proportion-random 0.3

`train` writes the run directory out-<100P> (here out-30), `eval` puts eval_train.json and eval_test.json into it.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.networks import CONVERT, ResNetSettings
from tf_robustcomp.cli.settings.studies import SweepSettings
from tf_robustcomp.runs.directory import check_before
from tf_robustcomp.scheduling import sweep

COMMAND = "train_resnet_random"


@dataclasses.dataclass(frozen=True)
class Settings(SweepSettings, ResNetSettings):
    """Flags of a run, and of a sweep over many."""


def command(parsed: flags.Parsed) -> None:
    """Train or evaluate, one run or a sweep."""
    (action,) = parsed.words
    if parsed.settings.sweep:
        sweep.perform(COMMAND, ResNetSettings, parsed, check)
        return
    own = parsed.only(ResNetSettings)
    own = dataclasses.replace(own, settings=own.settings.with_defaults())
    check(action, own)
    perform(action, own)


def check(action: str, parsed: flags.Parsed) -> None:
    """Refuse what cannot be done, before anything slow."""
    check_before(action, COMMAND, parsed, "dataset", CONVERT)


def perform(action: str, parsed: flags.Parsed) -> None:
    """Train or evaluate one run, whose settings are complete."""
    classifier = startup.load("experiments.classifier")
    if action == "train":
        classifier.train_resnet(COMMAND, parsed.settings)
    else:
        classifier.evaluate(parsed)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())
