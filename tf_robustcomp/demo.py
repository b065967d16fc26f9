"""Both halves of the package on scikit-learn's handwritten digits: no download, a few minutes on two cores.

    python -m tf_robustcomp.demo [--out-dir demo-out]

Networks: labels 0 % and 100 % random, a ResNet-8, three sparsities; ends with a table and a figure.
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import flags, plot_summary, run

COMMAND = "demo"
PRUNING_STEPS = 300
NETWORK_FLAGS = (
    "--dataset=digits",
    "--model-size=8",
    "--bn-momentum=0.9",
    "--train-steps=300",
    "--learning-rates=0.1,0.01",
    "--boundaries=200",
    "--sparsities=0.5,0.8,0.95",
    "--ramp-steps=200",
    "--update-steps=20",
    "--learning-rate-decay-steps=3",
    "--surgery-decay-steps=2",
    "--threshold=exact",
    "--checkpoint-steps=300",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this entry point."""

    out_dir: str = flags.field("demo-out", "folder to write to")


def network_half(folder):
    """Train on true and on random labels, prune, evaluate, draw."""
    print("Networks: the more random the labels, the less a network can be pruned", flush=True)
    settings, given, _ = flags.parse(run.Settings, [*NETWORK_FLAGS, f"--train-dir={folder}"])
    for proportion in ("0", "1"):
        for action in ("train", "eval"):
            run.command(settings, action, proportion, str(PRUNING_STEPS), given)
    plot_summary.command(plot_summary.Settings(output=str(folder / "summary")), str(folder))


def command(settings):
    """Run the demo."""
    network_half(Path(settings.out_dir) / "networks")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
