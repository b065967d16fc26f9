"""What the robust study found, beside what was published (arXiv 2110.07007, as read from its notebooks' outputs)."""

import functools
import json
import operator
from pathlib import Path

from tf_robustcomp import evaluating
from tf_robustcomp.studies import report

RHO = 24  # at which worst cases are compared, of images of 32 x 32
REACH = 2.5  # times that, how far the figures go

# MNIST test set, as read from the original notebooks' saved outputs.
PUBLISHED_CLEAN = {
    **{
        f"d{d}-standard": value for d, value in zip(range(4, 10), (19.29, 16.01, 13.33, 11.31, 9.66, 8.42), strict=True)
    },
    "standard": 7.446,
    "wass_ball-1": 7.79,
    "wass_ball-0.36": 14.51,
}
PUBLISHED_STAGES = {  # of structured, gamma 1: decoders 1 and 2
    **{(4, 6): (34.1, 9.12), (5, 5): (28.0, 8.70), (6, 4): (18.3, 8.66)},
    **{(7, 3): (14.2, 8.54), (8, 2): (10.3, 8.34), (9, 1): (8.42, 8.30)},
}
PUBLISHED_WORST = {  # by 15 steps: (rho, D)
    "standard": ((32.2, 93.5), (37.4, 104.5), (43.2, 117), (49.4, 130), (56.9, 145)),
    "wass_ball-1": (
        (3.2, 21.7),
        (4.4, 24.1),
        (6.8, 28.3),
        (10, 33),
        (13.7, 37.7),
        (18.5, 43.5),
        (24.1, 49.5),
        (30.6, 56.2),
    ),
    "structured-3-7-0.36, stage 2": ((41.1, 70.3), (50.1, 78.3), (60.9, 87.5), (72.4, 97.5), (84.1, 107)),
}
CROSSES = "; crosses are the published points"
PUBLISHED_TURNED = {  # at 0 degrees, elsewhere
    "standard": ("-", "40-45 near +-100"),
    "rotation": ("7.35", "12.7-13.5"),
    "worst_angle": ("10.7", "12.3-12.9"),
    "angle_prediction": ("-", "9.7-12.6, mean near 11"),
}


def text(folder, tasks, heading):
    """The report as Markdown.

    Args:
        folder: of the study, all of whose tasks are done.
        tasks: of the study.
        heading: what was run, one line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from tf_robustcomp.evaluation import ShiftCurve, WorstCaseCurve

    folder = Path(folder)
    converged, paper, turned = (
        _joined(folder, tasks, name, kind, title)
        for name, kind, title in (
            ("worst_case", WorstCaseCurve, "worst case by converged attacks"),
            ("worst_case_15_steps", WorstCaseCurve, "worst case by 15 steps"),
            ("rotations", ShiftCurve, "test images, turned"),
        )
    )
    found = {
        task.name: json.loads((folder / "runs" / task.name / "eval_test.json").read_text())
        for task in tasks
        if task.entry == "train_compressor"
    }
    side = next(task.flags["side"] for task in tasks if task.entry == "train_compressor")
    rho, published = RHO * (side / 32) ** 2, side == 32  # the published figures are of MNIST in 32 x 32
    crosses, known = (CROSSES, PUBLISHED_WORST) if published else ("", {})
    _draw_near(converged, folder / "figures/worst_case_near", "worst case by converged attacks", REACH * rho)
    _draw_near(paper, folder / "figures/published", f"worst case by 15 steps{crosses}", REACH * rho, known)
    return "\n".join(
        [
            f"# Robust learned compression\n\n{heading}\n",
            "Distortion: sum of squared errors of an image, mean over test images. rho: mean squared distance.\n",
            "## Clean test images\n",
            _clean(found, published),
            "## Worst case over a Wasserstein ball\n",
            f"At rho {rho:g}, from the concave envelope of the attacked points: what they prove about the ball.\n",
            _worst(converged, paper, rho),
            "By attacks that go on until they gain no more (`figures/worst_case.png` has all radii):\n",
            "![Worst case](figures/worst_case_near.png)\n",
            f"By the published 15 steps{crosses}:\n\n![15 steps](figures/published.png)\n",
            "## Turned images\n",
            _turned(turned, published),
            "![Turned images](figures/rotations.png)\n",
            "## Reconstructions\n",
            *(f"![Reconstructions]({name})\n" for name in _outputs(tasks, "reconstructions")),
            "## Runs\n",
            "Commands as typed in this folder; `tasks/` has their flags, `runs/` settings, versions, metrics.\n",
            report.runs(tasks, folder),
        ]
    )


def _outputs(tasks, kind):
    return [name for task in tasks for name in task.outputs if Path(name).stem == kind]


def _joined(folder, tasks, name, kind, title):
    """Results of all evaluations of one kind, which are written together, too."""
    curve = functools.reduce(operator.add, (kind.from_csv(folder / path) for path in _outputs(tasks, name)))
    evaluating.save(curve, folder / "figures" / name, title)
    return curve


def _clean(found, published):
    rows = []
    for name, entry in found.items():
        for stage in sorted(key for key in entry if key.startswith("stage_")):
            staged = f", stage {stage[6:]}" if "stage_2" in entry else ""
            theirs = _published_clean(name, int(stage[6:])) if published else "-"
            rows.append([f"{name}{staged}", entry[stage]["rate_bits"], entry[stage]["clean"], theirs])
    return report.table(["compressor", "bits per image", "distortion", "published"], rows)


def _published_clean(name, stage):
    if name.startswith("structured-") and name.endswith("-1"):
        pair = tuple(map(int, name.split("-")[1:3]))
        return PUBLISHED_STAGES[pair][stage - 1] if pair in PUBLISHED_STAGES else "-"
    return PUBLISHED_CLEAN.get(name, "-")


def _worst(converged, paper, rho):
    reference = converged.at(rho, "standard"), paper.at(rho, "standard")
    rows = []
    for label in converged.lines():
        values = converged.at(rho, label), paper.at(rho, label)
        changes = [f"{100 * (value / against - 1):+.0f} %" for value, against in zip(values, reference, strict=True)]
        clean = converged.envelope(label)[1][0]
        rows.append([label, float(clean), float(values[0]), changes[0], float(values[1]), changes[1]])
    header = ["compressor", "clean", "worst case, converged attack", "against standard", "15 steps", "against standard"]
    return report.table(header, rows)


def _turned(curve, published):
    rows = []
    for label, points in curve.lines().items():
        at = {point.strength: point.distortion for point in points}
        full = [value for angle, value in at.items() if angle > -180] or list(at.values())
        theirs = PUBLISHED_TURNED.get(label, ("-", "-")) if published else ("-", "-")
        rows.append([label, at[0.0], theirs[0], min(full), sum(full) / len(full), max(full), theirs[1]])
    header = ["compressor", "upright", "published", "least", "mean over all angles", "greatest", "published elsewhere"]
    return report.table(header, rows)


def _draw_near(curve, prefix, title, reach, published=()):
    """The figure up to a radius, beyond which worst cases are of images that are noise; ``published``: crosses."""
    from tf_robustcomp.evaluation import figures

    axes = curve.plot()
    colours = {line.get_label(): line.get_color() for line in axes.get_lines()}
    for label in curve.lines():
        if label in published:
            axes.plot(*zip(*published[label], strict=True), "x", color=colours[label])
    highest = max(float(curve.at(reach, label)) for label in curve.lines())
    axes.set(xlim=(-0.02 * reach, reach), ylim=(0, 1.02 * highest), title=title)
    figures.save(axes.figure, prefix)
