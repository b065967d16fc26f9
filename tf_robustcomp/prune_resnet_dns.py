"""Prune a trained ResNet by Dynamic Network Surgery (Guo et al. 2016) on its own, partly random, labels.

    python -m tf_robustcomp.prune_resnet_dns train --proportion-random 0.3 --target-sparsity 0.9
    python -m tf_robustcomp.prune_resnet_dns eval --proportion-random 0.3 --target-sparsity 0.9

`train` starts from the run in out-<100P> and writes out-prune-<100P>-<10S>.  `--rule` chooses another pruning rule.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.networks import CONVERT, PruningSettings, ResNetSettings
from tf_robustcomp.runs.directory import Run, check_before

COMMAND, TRAINING = "prune_resnet_dns", "python -m tf_robustcomp.train_resnet_random train"
Settings = PruningSettings
# Settings that a pruning must share with the run that it starts from.
SHARED = ("proportion_random", "label_seed", "model_size", "bn_momentum", "dataset", "max_images")


def command(parsed: flags.Parsed) -> None:
    """Train or evaluate."""
    (action,) = parsed.words
    parsed = dataclasses.replace(parsed, settings=parsed.settings.with_defaults())
    if action == "train":
        check_start(parsed.settings)
    check(action, parsed)
    perform(action, parsed)


def check_start(settings: PruningSettings) -> None:
    """Refuse a run to start from that is not finished, or was made with other settings."""
    remedy = f"{TRAINING} --proportion-random {settings.proportion_random} --train-dir {settings.warm_start}"
    Run(settings.warm_start or "").check_warm_start(settings, ResNetSettings, SHARED, remedy)


def check(action: str, parsed: flags.Parsed) -> None:
    """Refuse what cannot be done, before anything slow."""
    check_before(action, COMMAND, parsed, "dataset", CONVERT)


def perform(action: str, parsed: flags.Parsed) -> None:
    """Prune or evaluate one run, whose settings are complete."""
    pruning = startup.load("experiments.pruning")
    if action == "train":
        check_start(parsed.settings)
        pruning.train(COMMAND, parsed.settings)
    else:
        pruning.evaluate(parsed)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())
