"""One share of random labels at every sparsity: train the network, then prune it for STEPS steps to each.

    python -m tf_robustcomp.run train 0.3 20000
    python -m tf_robustcomp.run eval 0.3 20000

Directories: out-<100P> (trained first where it is not there) and out-prune-<100P>-<10S>.  Whatever has finished is
passed over, so the same command goes on after an interruption.
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import flags, prune_resnet_dns, train_resnet_random
from tf_robustcomp.errors import InvalidArgument

COMMAND = "run"
OWN_NAMES = ("proportion_random", "target_sparsity", "warm_start", "max_steps")


@dataclasses.dataclass(frozen=True)
class Settings(prune_resnet_dns.Settings, train_resnet_random.Settings):
    """Flags of both entry points; `--train-dir` is the folder that the directories are made in."""

    train_dir: str | None = flags.field(".", "folder for the run directories", operational=True)
    sparsities: tuple[float, ...] = flags.field(
        (0.5, 0.6, 0.7, 0.8, 0.9), "target sparsities in turn", minimum=0, maximum=0.999999
    )
    train_steps: int = flags.field(64_000, "steps of the training before pruning", minimum=1)


def parts(settings, proportion_random, steps):
    """Settings of the training and of each pruning.

    Args:
        settings: `Settings`.
        proportion_random: share of random labels.
        steps: of each pruning.

    Returns:
        ``(training, prunings)``: train_resnet_random.Settings and a list of prune_resnet_dns.Settings.
    """
    folder = Path(settings.train_dir)
    trained = folder / train_resnet_random.directory(proportion_random)
    training = flags.narrowed(
        train_resnet_random.Settings,
        settings,
        train_dir=str(trained),
        proportion_random=proportion_random,
        max_steps=settings.train_steps,
    )
    prunings = [
        flags.narrowed(
            prune_resnet_dns.Settings,
            settings,
            train_dir=str(folder / prune_resnet_dns.directory(proportion_random, sparsity)),
            warm_start=str(trained),
            proportion_random=proportion_random,
            target_sparsity=sparsity,
            max_steps=steps,
        )
        for sparsity in settings.sparsities
    ]
    return training, prunings


def command(settings, action, proportion, steps, given):
    """`train` or `eval` every part."""
    own = sorted(flags.spelled(name) for name in set(OWN_NAMES) & given)
    if own:
        raise InvalidArgument(
            f"{', '.join(own)} cannot be given to `run`: its words P and STEPS, and --sparsities, say it"
        )
    training, prunings = parts(settings, _number(proportion, "P", float, 0, 1), _number(steps, "STEPS", int, 1, None))
    if action == "train":
        train_resnet_random.train(training)
        for pruning in prunings:
            prune_resnet_dns.train(pruning)
        return
    asked = given & {f.name for f in dataclasses.fields(training)}
    train_resnet_random.evaluate(training, asked)
    for pruning in prunings:
        prune_resnet_dns.evaluate(pruning, given & {f.name for f in dataclasses.fields(pruning)})


def _number(word, name, kind, low, high):
    try:
        number = kind(word)
    except ValueError:
        number = None
    if number is None or not low <= number <= (high or number):
        raise InvalidArgument(
            f"{name} must be a number {f'in [{low}, {high}]' if high else f'>= {low}'}. Received: {word}"
        )
    return number


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=(("train", "eval"), "P", "STEPS"))


if __name__ == "__main__":
    sys.exit(main())
