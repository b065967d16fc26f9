"""Bits and distortion of each stage of a code."""

import dataclasses
from typing import Any

from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.drawing import line


@dataclasses.dataclass(frozen=True)
class RatePoint(Row):
    """Rate of the code up to one stage.

    Attributes:
        latents: of the code up to this stage.
        rate_bits: bits per image of the code up to this stage.
        fraction: of the whole code's bits.
        distortion: mean distortion of the images given, nan without any.
        distortion_error: its standard error.
        images: number of images.
    """

    latents: int
    rate_bits: float
    fraction: float
    distortion: float
    distortion_error: float
    images: int


@dataclasses.dataclass(frozen=True, eq=False)
class RateAllocation(Results):
    """Distortion against rate for every stage of every model."""

    row_type = RatePoint

    def draw(self, axes: Any) -> None:
        """Draw distortion against rate, or without images the bits of the stages as bars."""
        models = figures.models_in(self.rows)
        for number, model in enumerate(models):
            rows = [row for row in self.rows if row.model == model]
            rate = [row.rate_bits for row in rows]
            if rows[0].images:
                axes.errorbar(
                    rate,
                    [row.distortion for row in rows],
                    [row.distortion_error for row in rows],
                    **line(number),
                    label=model,
                )
                continue
            for row in reversed(rows):  # the first stage's bar in front
                axes.barh(number, row.rate_bits, color=line(number)["color"], alpha=1 if row.stage == 1 else 0.5)
        if self.rows and self.rows[0].images:
            axes.set(ylabel="distortion (sum of squared errors)", ylim=(0, None))
        else:
            axes.set_yticks(range(len(models)), models)
        axes.set(xlabel="rate, bits per image")


def rate_allocation(models: Any, images: Any = None, progress: bool = False) -> RateAllocation:
    """Return latents and bits of each stage's code and, where images are given, its distortion on them.

    Args:
        models: compressors, as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1], or None.
        progress: whether to show a progress bar.

    Example:
        >>> print(rc.rate_allocation(model, images))
    """
    models = subjects.labelled(models)
    if images is not None:
        images = subjects.checked_images(models, images)
    rows = []
    for job in subjects.each_stage(models, 1, progress, "rates"):
        mean, error, count = float("nan"), float("nan"), 0
        if images is not None:
            _, distortion = subjects.measurer(job.model, job.stage)(images)
            mean, error = float(distortion.mean(dtype="float64")), subjects.standard_error(distortion)
            count = len(images)
        bits = job.model.stage_rate(job.stage)
        rows.append(
            RatePoint(
                **job.row,
                latents=job.model.stage_width(job.stage),
                rate_bits=bits,
                fraction=bits / job.model.rate,
                distortion=mean,
                distortion_error=error,
                images=count,
            )
        )
        job.bar.update()
    return RateAllocation(tuple(rows))
