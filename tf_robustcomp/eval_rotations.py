"""Distortion of trained compressors on test images turned by every angle (arXiv 2110.07007, Figure 6).

    python -m tf_robustcomp.eval_rotations --models=out-standard,out-aligned

Each angle is measured on the whole test set.  Writes OUTPUT.json, .csv, .png and .pdf.  Asked again, it computes only
what changed.
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import evaluating, flags
from tf_robustcomp.errors import InvalidArgument

COMMAND = "eval_rotations"


@dataclasses.dataclass(frozen=True)
class Settings(evaluating.EvaluationSettings):
    """Flags of this entry point."""

    angle_step: float = flags.field(5.0, "degrees between angles, from -180 to 180")
    output: str = flags.field("eval_rotations", "path of what is written, without its suffix")


def command(settings):
    """Load, turn, write."""
    if not 0.1 <= settings.angle_step <= 180:
        raise InvalidArgument(f"--angle-step must be in [0.1, 180]. Received: {settings.angle_step}")
    subjects = evaluating.load(settings)
    import numpy as np

    from tf_robustcomp import evaluation

    output = Path(settings.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    angles = [float(angle) for angle in np.arange(-180, 180 + 1e-9, settings.angle_step)]
    curve = evaluating.cached(
        output.with_name(f"{output.name}.json"),
        subjects,
        {"angles": angles},
        evaluation.ShiftCurve,
        lambda models, images: evaluation.rotation_curve(models, images, angles, progress=True),
    )
    evaluating.write(curve, output, f"{len(subjects.images)} test images, turned")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
