"""Draw reconstructions of clean, rotated and worst-case test images by several compressors, side by side.

    python -m tf_robustcomp.plot_reconstructions --models=out-standard,out-robust --data=mnist

The worst cases are those of the first model.  Below each reconstruction stands its distortion (sum of squared errors).
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.evaluations import EvaluationSettings
from tf_robustcomp.experiments import comparison
from tf_robustcomp.utils.settings import field

COMMAND = "plot_reconstructions"


@dataclasses.dataclass(frozen=True)
class Settings(EvaluationSettings):
    """Flags of this command."""

    count: int = field(5, "images of each kind, the first of the test set", minimum=1, maximum=20)
    gamma: float = field(1.0, "price of squared distance in the attack", above=0)
    output: str = field("reconstructions.png", "path of the figure")


main = functools.partial(flags.run, COMMAND, __doc__, Settings, comparison.command("reconstructions", ("",)))


if __name__ == "__main__":
    sys.exit(main())
