"""Measure worst-case distortion over Wasserstein balls of trained compressors (arXiv 2110.07007, Figures 3 and 4).

    python -m tf_robustcomp.eval_wass_ball --models=out-standard,out-robust --images=1000

Writes OUTPUT.json, .csv, .png, .pdf, and rates in OUTPUT-rates.csv (models with stages: .png, .pdf).  Points are lower
bounds of the worst case; models compare at the concave envelopes.  With --encoder=list the figure has the band up to
the proved ceiling, and OUTPUT-certified.csv its values.  Asked again, it attacks only what changed.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.evaluations import CodedEvaluationSettings
from tf_robustcomp.experiments import comparison
from tf_robustcomp.utils.checks import check_rising_or_falling
from tf_robustcomp.utils.settings import field

COMMAND = "eval_wass_ball"
SUFFIXES = (".json", ".csv", ".png", ".pdf", "-certified.csv", "-rates.csv", "-rates.png", "-rates.pdf")


@dataclasses.dataclass(frozen=True)
class Settings(CodedEvaluationSettings):
    """Flags of this command."""

    gammas: tuple[float, ...] = field((8.0, 4.0, 3.0, 2.0, 1.5, 1.3, 1.15, 1.0), "prices of squared distance")
    attack: str = field(
        "ensemble",
        "several starts and geometries, the fastest of them alone, or the published 15 steps",
        choices=("ensemble", "converged", "paper"),
    )
    attack_steps: int = field(100, "gradients of each ascent at most", minimum=1)
    restarts: int = field(1, "further ascents from noise", minimum=0)
    attack_precision: str = field(
        "float32", "of the ascents; their points are measured in float32", choices=("float32", "bfloat16")
    )
    check_images: int = field(32, "images for a search of worse points without gradients (0 = none)", minimum=0)
    attack_seed: int = field(0, "seed of the restarts' noise", minimum=0)
    output: str = field("eval_wass_ball", "path of the files written, without suffix")

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        super().check()
        check_rising_or_falling("--gammas", self.gammas)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, comparison.command("worst_case", SUFFIXES))


if __name__ == "__main__":
    sys.exit(main())
