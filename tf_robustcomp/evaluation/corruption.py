"""Distortion on corrupted images, corruption by corruption."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.data.corruptions import SEVERITIES, corrupted, corruptions
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils import table
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.progress import bar as progress_bar


@dataclasses.dataclass(frozen=True)
class CorruptionPoint(Row):
    """Mean distortion at one severity of a corruption.

    Attributes:
        corruption: its name; "none" for the clean images.
        severity: 1 to 5; 0 for the clean images.
        rho: mean squared distance of the corrupted images to the clean ones.
        distortion: mean over images, between the corrupted image and its reconstruction.
        distortion_error: its standard error.
        images: number of images.
    """

    corruption: str
    severity: int
    rho: float
    distortion: float
    distortion_error: float
    images: int


@dataclasses.dataclass(frozen=True, eq=False)
class CorruptionCurve(Results):
    """Distortion against severity, for every corruption."""

    row_type = CorruptionPoint

    def means(self, label: str) -> dict[str, float]:
        """Return the distortion of each corruption of a line, mean over its severities, and that of all as "mean"."""
        by_name: dict[str, list[float]] = {}
        for row in self.line(label):
            if row.severity:
                by_name.setdefault(row.corruption, []).append(row.distortion)
        means = {name: float(np.mean(values)) for name, values in by_name.items()}
        return means | {"mean": float(np.mean(list(means.values())))}

    def summary(self) -> str:
        """Return a table as robustness papers print it: a row for each corruption, a column for each line."""
        lines = list(self.lines())
        columns = [self.means(label) for label in lines]
        clean = [next(row.distortion for row in self.line(label) if not row.severity) for label in lines]
        rows = [["clean", *(f"{value:.4g}" for value in clean)]]
        rows += [[name, *(f"{column[name]:.4g}" for column in columns)] for name in columns[0]]
        return table.text(["corruption", *lines], rows)

    def draw(self, axes: Any) -> None:
        """Draw the mean over all corruptions against the severity, and each of them thinly."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            look = figures.style(rows[0], models)
            names = list(dict.fromkeys(row.corruption for row in rows if row.severity))
            found = {(row.corruption, row.severity): row.distortion for row in rows}
            severities = sorted({row.severity for row in rows if row.severity})
            curves = np.array([[found[name, severity] for severity in severities] for name in names])
            axes.plot(severities, curves.T, color=look["color"], alpha=0.25, linewidth=0.8)
            axes.plot(severities, curves.mean(axis=0), **look, label=f"{label}, mean")
        axes.set(xlabel="severity", ylabel="distortion (sum of squared errors)", ylim=(0, None), xticks=SEVERITIES)


def corruption_curve(
    models: Any,
    images: Any,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    progress: bool = False,
    encoder: Any = None,
) -> CorruptionCurve:
    """Measure the distortion under common corruptions (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        names: of corruptions; default: all of `data.corruptions`, 14 of the 15 published ones (frost is missing).
        severities: each 1 to 5.
        seed: int >= 0; every model gets the same images.
        progress: whether to show a progress bar.
        encoder: that finds the codes, or a mapping of label -> encoder; None is the network.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> print(rc.corruption_curve({"digits": model}, images, severities=[3]).summary())
    """
    models = subjects.labelled(models, encoder)
    images = subjects.checked_images(models, images)
    names, severities = list(names or corruptions()), list(severities)
    for name in names:
        check_choice("corruption", name, tuple(corruptions()))
    if not severities or not set(severities) <= set(SEVERITIES):
        raise InvalidArgument(f"severities must be numbers from 1 to 5. Received: {severities}")
    conditions = [("none", 0), *((name, severity) for name in names for severity in severities)]
    jobs = [(job, subjects.measurer(job.model, job.stage)) for job in subjects.each_stage(models)]
    rows: dict[int, list[CorruptionPoint]] = {place: [] for place in range(len(jobs))}
    with progress_bar(len(conditions), "corruptions", progress) as bar:
        for name, severity in conditions:  # made once for all models
            changed = corrupted(images, name, severity, seed) if severity else images
            rho = float(squared_error(images, changed).mean())
            for place, (job, measure) in enumerate(jobs):
                distortion = measure(changed)[1].astype("float64")
                subjects.check_defined(job.row["model"], np.isfinite(distortion))
                error = subjects.standard_error(distortion)
                rows[place].append(
                    CorruptionPoint(
                        **job.row,
                        corruption=name,
                        severity=severity,
                        rho=rho,
                        distortion=float(distortion.mean()),
                        distortion_error=error,
                        images=len(distortion),
                    )
                )
            bar.update()
    return CorruptionCurve(tuple(row for part in rows.values() for row in part))
