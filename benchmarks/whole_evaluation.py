"""One trained compressor on a whole test set, worst case at five prices and 360 angles, beside the originals' ways.

    python -m benchmarks.whole_evaluation RUN DATA

RUN is a directory of train_compressor, DATA what `--data` takes.  Not part of `make bench`, which computes the same
from parts: 10,000 images take an hour and a half on two cores.  PyTorch's network has the run's width and none of its
weights, on which time does not depend; what its 15 steps reach is what ours with the published rule reach.
"""

import sys
import time

import numpy as np

from benchmarks import peers
from benchmarks.evaluation import ANGLES, ANGLES_IMAGES, GAMMAS, WAYS
from benchmarks.rows import row, show

BATCH = 64


def measure(run, data):
    """Show a row whenever there is one, the longest last."""
    from tf_robustcomp.cli.settings.evaluations import EvaluationSettings
    from tf_robustcomp.experiments import evaluations as evaluating

    subjects = evaluating.load(EvaluationSettings(models=(run,), data=data))
    (model,), images = subjects.models.values(), subjects.images
    width = model.get_config()["width"]
    eager = [
        peers.attack(gamma, images[i : i + BATCH], width) for gamma in GAMMAS for i in range(0, len(images), BATCH)
    ]
    _timed("PyTorch's 15 steps", lambda: [attack() for attack in eager])
    single, half, published = WAYS
    base = _attacked(model, images, *published)
    _attacked(model, images, *half, base)
    _turned(model, images, width)
    _attacked(model, images, *single, base)


def _attacked(model, images, attack, precision, base=None):
    """The curve; beside one of 15 steps, its height at their greatest radius and, at every price, what it climbed."""
    from tf_robustcomp import evaluation

    curve = _timed(
        *(f"{attack} attack in {precision}", evaluation.worst_case_curve, model, images, GAMMAS, attack),
        precision=precision,
        check=0,
    )
    if base:
        rho = max(point.rho for point in base.rows)
        show([row("worst case at the radius of 15 steps / theirs", curve.at(rho) / base.at(rho))])
        for ours, theirs in zip(curve.rows, base.rows, strict=True):
            if ours.rho == 0:  # the clean set, to which no price belongs
                continue
            show([row(f"objective at gamma {ours.gamma:g} / theirs", _objective(ours) / _objective(theirs))])
        sys.stdout.flush()
    return curve


def _objective(point):
    return point.distortion - point.gamma * point.rho


def _turned(model, images, width):
    from tf_robustcomp import evaluation

    angles = np.linspace(-180.0, 180.0, ANGLES, endpoint=False)
    curve = _timed(f"{ANGLES} angles of all images", evaluation.rotation_curve, model, images, angles)
    some = images[:ANGLES_IMAGES]
    _timed(f"{ANGLES} angles of {len(some)} images, PyTorch", peers.turned(some, angles, width=width))
    part = _timed(f"{ANGLES} angles of {len(some)} images", evaluation.rotation_curve, model, some, angles)
    errors = [np.mean([point.distortion_error for point in one.rows]) for one in (curve, part)]
    show([row(f"standard error of an angle, all / {len(some)} images", errors[0] / errors[1])])


def _timed(title, action, *words, **more):
    began = time.perf_counter()
    result = action(*words, **more)
    show([row(title, (time.perf_counter() - began) / 60, "min")])
    sys.stdout.flush()  # it is long
    return result


if __name__ == "__main__":
    measure(*sys.argv[1:])
