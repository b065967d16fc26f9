"""Draw reconstructions of clean, rotated and worst-case test images by several compressors, side by side.

    python -m tf_robustcomp.plot_reconstructions --models=out-standard,out-robust --data=mnist

The worst cases are those of the first model.  Below each reconstruction stands its distortion (sum of squared errors).
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from tf_robustcomp.cli import flags, outputs, startup
from tf_robustcomp.cli.settings import EvaluationSettings
from tf_robustcomp.runs.directory import training_data
from tf_robustcomp.utils.settings import field

COMMAND = "plot_reconstructions"


@dataclasses.dataclass(frozen=True)
class Settings(EvaluationSettings):
    """Flags of this command."""

    count: int = field(5, "images of each kind, the first of the test set", minimum=1, maximum=20)
    gamma: float = field(1.0, "price of squared distance in the attack", above=0)
    output: str = field("reconstructions.png", "path of the figure")


def command(parsed: flags.Parsed) -> None:
    """Load, measure and write."""
    settings = parsed.settings
    outputs.check([(Path(settings.output), outputs.MARKS[".png"])], settings.models, settings.force)
    settings = dataclasses.replace(settings, data=training_data(settings.models, settings.data))
    startup.load("experiments.evaluations").reconstructions(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
