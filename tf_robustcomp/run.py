"""Train one fraction P of random labels, then prune the network for STEPS steps to every sparsity.

    python -m tf_robustcomp.run train 0.3 20000
    python -m tf_robustcomp.run eval 0.3 20000

Directories: out-<100P> (trained first where it is missing) and out-prune-<100P>-<10S>.  Finished runs are skipped, so
the same command continues after an interruption.
"""

import dataclasses
import functools
import sys
from pathlib import Path

from tf_robustcomp import prune_resnet_dns, train_resnet_random
from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.networks import PruningSettings, ResNetSettings, pruned_directory, trained_directory
from tf_robustcomp.utils.checks import check_number
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field, spelled

COMMAND = "run"
OWN_NAMES = ("proportion_random", "target_sparsity", "warm_start", "max_steps")


@dataclasses.dataclass(frozen=True)
class Settings(PruningSettings, ResNetSettings):
    """Flags of both commands; `--train-dir` is the folder of the run directories."""

    train_dir: str | None = field(".", "folder for the run directories", operational=True)
    sparsities: tuple[float, ...] = field((0.5, 0.6, 0.7, 0.8, 0.9), "targets in turn", minimum=0, maximum=0.999999)
    train_steps: int = field(64_000, "steps of the training before pruning", minimum=1)


def command(parsed: flags.Parsed) -> None:
    """Train or evaluate the training, then every pruning."""
    action, proportion, steps = parsed.words
    if refused := sorted(spelled(name) for name in set(OWN_NAMES) & parsed.given):
        raise InvalidArgument(f"{', '.join(refused)} cannot be given here; P, STEPS and --sparsities say it")
    fraction, number = check_number("P", proportion, float, 0, 1), check_number("STEPS", steps, int, 1)
    folder = Path(parsed.settings.train_dir)
    trained = str(folder / trained_directory(fraction))
    start = {"train_dir": trained, "proportion_random": fraction, "max_steps": parsed.settings.train_steps}
    common = {"warm_start": trained, "proportion_random": fraction, "max_steps": number}
    folders = {s: str(folder / pruned_directory(fraction, s)) for s in parsed.settings.sparsities}
    prunings = [{**common, "target_sparsity": s, "train_dir": own} for s, own in folders.items()]
    for name in ("check", "perform"):  # all checks first, as a run may take days
        getattr(train_resnet_random, name)(action, parsed.only(ResNetSettings, **start))
        for pruning in prunings:
            getattr(prune_resnet_dns, name)(action, parsed.only(PruningSettings, **pruning))


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(("train", "eval"), "P", "STEPS"))


if __name__ == "__main__":
    sys.exit(main())
