"""Measure the distortion of trained compressors on images rotated by every angle (arXiv 2110.07007, Figure 6).

    python -m tf_robustcomp.eval_rotations --models=out-standard,out-aligned

Each angle is measured on the whole test set.  Writes OUTPUT.json, .csv, .png and .pdf.  Asked again, it computes only
what changed.
"""

import dataclasses
import sys
from collections.abc import Sequence

from tf_robustcomp.cli import flags, outputs, startup
from tf_robustcomp.cli.settings import EvaluationSettings
from tf_robustcomp.runs.directory import training_data
from tf_robustcomp.utils.settings import field

COMMAND = "eval_rotations"
SUFFIXES = (".json", ".csv", ".png", ".pdf")


@dataclasses.dataclass(frozen=True)
class Settings(EvaluationSettings):
    """Flags of this command."""

    angle_step: float = field(5.0, "degrees between angles, from -180 to 180", minimum=0.1, maximum=180)
    output: str = field("eval_rotations", "path of the files written, without suffix")


def command(parsed: flags.Parsed) -> None:
    """Load, measure and write."""
    settings = parsed.settings
    written = outputs.with_suffixes(settings.output, SUFFIXES)
    outputs.check(written, settings.models, settings.force)
    settings = dataclasses.replace(settings, data=training_data(settings.models, settings.data))
    startup.load("experiments.evaluations").rotations(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
