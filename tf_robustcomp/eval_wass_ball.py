"""Worst-case distortion over Wasserstein balls of trained compressors (arXiv 2110.07007, Figures 3 and 4).

    python -m tf_robustcomp.eval_wass_ball --models=out-standard,out-robust --images=1000

Writes OUTPUT.json, .csv, .png, .pdf, and the rates in OUTPUT-rates.csv, .png, .pdf.  Points are lower bounds of the
worst case; the lines are their concave envelopes, at which models compare.  Asked again, it computes only what changed.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tf_robustcomp import evaluating, flags
from tf_robustcomp.errors import InvalidArgument

COMMAND = "eval_wass_ball"


@dataclasses.dataclass(frozen=True)
class Settings(evaluating.EvaluationSettings):
    """Flags of this entry point."""

    gammas: tuple[float, ...] = flags.field((8.0, 4.0, 3.0, 2.0, 1.5, 1.3, 1.15, 1.0), "prices of squared distance")
    attack: str = flags.field(
        "converged", "until it gains no more, or the published 15 steps", choices=("converged", "paper")
    )
    attack_steps: int = flags.field(100, "gradients of a converged ascent at most", minimum=1)
    restarts: int = flags.field(1, "further ascents from noise", minimum=0)
    attack_precision: str = flags.field(
        "float32", "in which ascents climb; their points are measured in float32", choices=("float32", "bfloat16")
    )
    fused: bool = flags.FUSED
    check_images: int = flags.field(
        32, "images at which a search without gradients looks for worse; 0: none", minimum=0
    )
    attack_seed: int = flags.field(0, "seed of the restarts' noise", minimum=0)
    output: str = flags.field("eval_wass_ball", "path of what is written, without its suffix")


def checked(settings):
    """The settings, if the prices are sorted and above 0; else InvalidArgument."""
    gammas = settings.gammas
    if not gammas or not all(0 < gamma < float("inf") for gamma in gammas):
        raise InvalidArgument(f"--gammas must be numbers > 0. Received: {','.join(map(str, gammas)) or 'none'}")
    falling = tuple(sorted(set(gammas), reverse=True))
    if gammas not in (falling, falling[::-1]):
        raise InvalidArgument(f"--gammas must be sorted, each once. Received: {','.join(map(str, gammas))}")
    return settings


def command(settings):
    """Load, attack, write."""
    settings = checked(settings)
    subjects = evaluating.load(settings)
    from tf_robustcomp import backend, evaluation

    backend.set_fusing(settings.fused)
    output = Path(settings.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    attack = {
        "gammas": list(settings.gammas),
        "attack": settings.attack,
        "steps": settings.attack_steps,
        "restarts": settings.restarts,
        "precision": settings.attack_precision,
        "check": settings.check_images,
        "seed": settings.attack_seed,
    }
    curve = evaluating.cached(
        output.with_name(f"{output.name}.json"),
        subjects,
        json.loads(json.dumps(attack)),
        evaluation.WorstCaseCurve,
        lambda models, images: evaluation.worst_case_curve(models, images, **attack, progress=True),
    )
    evaluating.write(curve, output, f"worst case over {len(subjects.images)} test images, {settings.attack} attack")
    rates = evaluation.rate_allocation(subjects.models, subjects.images, progress=True)
    evaluating.write(rates, f"{output}-rates", f"clean distortion of {len(subjects.images)} test images")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
