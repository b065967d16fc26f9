"""Measure the distortion of trained compressors on images rotated by every angle (arXiv 2110.07007, Figure 6).

    python -m tf_robustcomp.eval_rotations --models=out-standard,out-aligned

Each angle is measured on the whole test set.  Writes OUTPUT.json, .csv, .png and .pdf.  Asked again, it computes only
what changed.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.evaluations import CodedEvaluationSettings
from tf_robustcomp.experiments import comparison
from tf_robustcomp.utils.settings import field

COMMAND = "eval_rotations"
SUFFIXES = (".json", ".csv", ".png", ".pdf")


@dataclasses.dataclass(frozen=True)
class Settings(CodedEvaluationSettings):
    """Flags of this command."""

    angle_step: float = field(5.0, "degrees between angles, from -180 to 180", minimum=0.1, maximum=180)
    output: str = field("eval_rotations", "path of the files written, without suffix")


main = functools.partial(flags.run, COMMAND, __doc__, Settings, comparison.command("rotations", SUFFIXES))


if __name__ == "__main__":
    sys.exit(main())
