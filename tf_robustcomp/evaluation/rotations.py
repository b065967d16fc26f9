"""The exact worst rotation of an image: every picture that rotation can make of it is coded."""

import dataclasses
from typing import Any

import numpy as np

from tf_robustcomp.data.shifts import angles_of_all_pictures, rotate
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.drawing import line


@dataclasses.dataclass(frozen=True)
class WorstRotation(Row):
    """The worst rotation of one image.

    Attributes:
        image: index of the image.
        clean: distortion of the image as it is.
        angle: worst one, degrees in [0, 360), counter-clockwise.
        distortion: there; no angle has a greater one.
        pictures: that were coded.
    """

    image: int
    clean: float
    angle: float
    distortion: float
    pictures: int


@dataclasses.dataclass(frozen=True, eq=False)
class WorstRotations(Results):
    """The worst rotation of each image, by model and stage."""

    row_type = WorstRotation

    def draw(self, axes: Any) -> None:
        """Draw the worst distortion of each image against its angle."""
        for number, (label, rows) in enumerate(self.lines().items()):
            look = {**line(number), "linestyle": "none"}
            axes.plot([row.angle for row in rows], [row.distortion for row in rows], **look, label=label)
        axes.set(xlabel="worst angle in degrees, counter-clockwise", ylabel="distortion there", ylim=(0, None))


def worst_rotations(models: Any, images: Any, encoder: Any = None, progress: bool = False) -> WorstRotations:
    """Return the worst rotation of each image, exactly.

    Nearest-neighbour rotation makes finitely many pictures of an image (`data.shifts.angles_of_all_pictures`), 48,161
    of 32 x 32 pixels, and all are coded: some ten seconds for an image.  The rotation adversaries search fewer angles.

    Args:
        models: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1]; a few.
        encoder: that finds the codes, or a mapping of label -> encoder; None is the network.
        progress: whether to show a progress bar.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> print(rc.worst_rotations(model, images[:1]))
    """
    models = subjects.labelled(models, encoder)
    images = subjects.checked_images(models, images)
    angles = angles_of_all_pictures(*images.shape[1:3]).astype(np.float32)
    parts, rows = subjects.batches(angles), []
    for job in subjects.each_stage(models, len(images), progress, "rotations"):
        measure = subjects.measurer(job.model, job.stage, rotate)
        clean = subjects.measurer(job.model, job.stage)(images)[1]
        for number, image in enumerate(images):
            repeated = np.broadcast_to(image, (subjects.BATCH, *image.shape))
            found = np.concatenate([measure(repeated[: len(part)], part)[1] for part in parts])
            subjects.check_defined(job.row["model"], np.isfinite(found))
            worst = int(np.argmax(found))
            rows.append(
                WorstRotation(
                    **job.row,
                    image=number,
                    clean=float(clean[number]),
                    angle=float(angles[worst]),
                    distortion=float(found[worst]),
                    pictures=len(angles),
                )
            )
            job.bar.update()
    return WorstRotations(tuple(rows))
