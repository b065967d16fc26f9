"""Results of the robust study beside the published ones (arXiv 2110.07007)."""

import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.evaluation import ShiftCurve, WorstCaseCurve, figures
from tf_robustcomp.evaluation.results import Results
from tf_robustcomp.experiments import published
from tf_robustcomp.experiments import reports as report
from tf_robustcomp.experiments.records import Record
from tf_robustcomp.scheduling.task import Task
from tf_robustcomp.utils import drawing

RHO = 24  # radius at which worst cases are compared, for images of 32 x 32
REACH = 2.5  # the figures end at this many times RHO

CURVES: dict[str, Any] = {  # table of all points -> class and title
    "worst_case": (WorstCaseCurve, "worst case by converged attacks"),
    "worst_case_15_steps": (WorstCaseCurve, "worst case by 15 steps"),
    "rotations": (ShiftCurve, "rotated"),
}


def text(folder: Path, records: Sequence[Record], heading: str) -> str:
    """Return the report as Markdown, and draw its figures.

    Args:
        folder: with the tables of all points in ``figures/``.
        records: of all tasks.
        heading: one line about the study.
    """
    curves = {name: kind.from_csv(folder / "figures" / f"{name}.csv") for name, (kind, _) in CURVES.items()}
    converged, paper, rotated = curves.values()
    runs = [record for record in records if record.config.get("command") == "train_compressor"]
    side = runs[0].config["settings"]["side"]
    rho, known = RHO * (side / 32) ** 2, side == 32  # the published figures are of MNIST in 32 x 32
    data = Path(runs[0].config["settings"]["data"]).stem
    titles = {
        name: f"{title}: {data}, {curves[name].rows[0].images:,} test images" for name, (_, title) in CURVES.items()
    }
    for name, curve in curves.items():
        axes = curve.plot()
        axes.set_title(titles[name], fontsize=10)
        drawing.save(axes.figure, folder / f"figures/{name}.png")
    _draw_near(converged, folder / "figures/worst_case_near", titles["worst_case"], REACH * rho)
    points = published.WORST_CASE if known else {}
    _draw_near(paper, folder / "figures/published", titles["worst_case_15_steps"], REACH * rho, points)
    pictures = sorted(folder.glob("figures/reconstructions*.png"))
    return "\n".join(
        [
            f"# Robust learned compression\n\n{heading}\n",
            "Distortion: sum of squared errors of an image, mean over test images ± standard error. rho: mean squared "
            "distance. Clean distortions differ between the tables as they are of different numbers of test images.\n",
            "## Clean test images\n",
            _clean(runs, known),
            "## Worst case over a Wasserstein ball\n",
            f"At rho {rho:g}, from the concave envelope of the attacked points: lower bounds on the worst case. Each "
            "point of either attack proves such a bound, so the first envelope is that of all.\n",
            _worst(converged, paper, rho),
            "By converged attacks, which continue until they gain no more (`figures/worst_case.png` has all radii):\n",
            "![Worst case](figures/worst_case_near.png)\n",
            "By the published 15 steps:\n\n![15 steps](figures/published.png)\n",
            "## Rotated images\n",
            _rotated(rotated, known),
            "![Rotated images](figures/rotations.png)\n",
            "## Reconstructions\n",
            *(f"![Reconstructions](figures/{path.name})\n" for path in pictures),
            report.runs(records),
        ]
    )


def join(folder: Path, tasks: Sequence[Task]) -> None:
    """Write the results of all evaluations of one kind as one table and figure, and gather the pictures."""
    for name, (kind, title) in CURVES.items():
        parts = [kind.from_csv(folder / path) for path in _outputs(tasks, name)]
        figures.write(functools.reduce(operator.add, parts), folder / "figures" / name, title, shown=False)
    for path in _outputs(tasks, "reconstructions"):
        picture = folder / path
        (folder / "figures" / f"reconstructions-{picture.parent.name}.png").write_bytes(picture.read_bytes())


def _outputs(tasks, kind):
    return [name for task in tasks for name in task.outputs if Path(name).stem == kind]


def _clean(runs, known):
    rows = []
    for run in runs:
        entry = run.evaluations["test"]
        for stage in sorted(key for key in entry if key.startswith("stage_")):
            staged = f", stage {stage[6:]}" if "stage_2" in entry else ""
            theirs = _published_clean(run.name, int(stage[6:])) if known else "-"
            error = entry[stage].get("standard_errors", {}).get("clean")
            clean = report.measured(entry[stage]["clean"], error)
            rows.append([f"{run.name}{staged}", entry["images"], entry[stage]["rate_bits"], clean, theirs])
    return report.table(["compressor", "images", "bits per image", "clean distortion", "published"], rows)


def _published_clean(name, stage):
    if name.startswith("structured-") and name.endswith("-1"):
        pair = tuple(map(int, name.split("-")[1:3]))
        return published.CLEAN_STAGES[pair][stage - 1] if pair in published.CLEAN_STAGES else "-"
    return published.CLEAN.get(name, "-")


def _worst(converged, paper, rho):
    curves = converged + paper, paper
    reference = [curve.at(rho, "standard") for curve in curves]
    rows = []
    for label in converged.lines():
        values = [float(curve.at(rho, label)) for curve in curves]
        changes = [f"{100 * (value / against - 1):+.0f} %" for value, against in zip(values, reference, strict=True)]
        found = [report.measured(v, _error_at(curve, rho, label)) for v, curve in zip(values, curves, strict=True)]
        first = next(row for row in converged.line(label) if row.attack == "none")
        clean = report.measured(first.distortion, first.distortion_error)
        rows.append([label, first.images, clean, found[0], changes[0], found[1], changes[1]])
    header = ["compressor", "images", "clean", "worst case", "against standard", "15 steps alone", "against standard"]
    return report.table(header, rows)


def _error_at(curve, rho, label):
    """Standard error at a radius: between two vertices at most the mean of theirs, as the images are the same."""
    errors = {(row.rho, row.distortion): row.distortion_error for row in curve.line(label)}
    vertices = list(zip(*curve.envelope(label), strict=True))
    return float(np.interp(rho, [v[0] for v in vertices], [errors.get(v, 0.0) for v in vertices]))


def _rotated(curve, known):
    rows = []
    for label, points in curve.lines().items():
        at = {point.strength: point.distortion for point in points}
        upright = next(point for point in points if point.strength == 0)
        full = [value for angle, value in at.items() if angle > -180] or list(at.values())
        theirs = published.ROTATED.get(label, ("-", "-")) if known else ("-", "-")
        shown = report.measured(upright.distortion, upright.distortion_error)
        rows.append([label, upright.images, shown, theirs[0], min(full), sum(full) / len(full), max(full), theirs[1]])
    header = [
        "compressor",
        "images",
        "upright",
        "published",
        "least",
        "mean over all angles",
        "greatest",
        "published elsewhere",
    ]
    return report.table(header, rows)


def _draw_near(curve, prefix, title, reach, points=()):
    """Draw up to a radius, beyond which worst cases are of images that are noise; published points are crosses."""
    drawing.pyplot()
    axes = curve.plot()
    colours = {line.get_label(): line.get_color() for line in axes.get_lines()}
    for label in curve.lines():
        if label in points:
            axes.plot(*zip(*points[label], strict=True), "x", color=colours[label], label=f"{label}, published")
    Results.legend(axes)
    highest = max(float(curve.at(reach, label)) for label in curve.lines())
    axes.set(xlim=(-0.02 * reach, reach), ylim=(0, 1.02 * highest), title=title)
    axes.title.set_fontsize(10)
    drawing.save(axes.figure, Path(f"{prefix}.png"))
