"""The dual of the worst case over a Wasserstein ball."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.evaluation import figures
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.checks import check_positive
from tf_robustcomp.utils.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class DualPoint(Row):
    """Dual estimate at one radius: ``estimate`` = gamma rho + mean objective, with its standard error."""

    gamma: float
    rho: float
    estimate: float
    estimate_error: float
    images: int


@dataclasses.dataclass(frozen=True, eq=False)
class DualEstimate(Results):
    """Straight lines of slope gamma, as `dual_estimate` gives them."""

    row_type = DualPoint

    def draw(self, axes: Any) -> None:
        """Draw the estimate against rho."""
        models = figures.models_in(self.rows)
        for label, rows in self.lines().items():
            axes.plot(
                [row.rho for row in rows],
                [row.estimate for row in rows],
                **{**figures.style(rows[0], models), "linestyle": ":"},
                label=f"{label}, gamma {rows[0].gamma:g}",
            )
        axes.set(xlabel="rho, mean squared distance", ylabel="dual estimate of the worst case")


def dual_estimate(
    model: Any, images: Any, gamma: float, rhos: Any, adversary: Any = None, progress: bool = False
) -> DualEstimate:
    """Return gamma rho + E[max over x' of d(x', f(x')) - gamma ||x' - x||^2], the maximum being what an attack finds.

    For the true maximum this is an upper bound on the worst case over the ball of radius rho, for every gamma (Sinha,
    Namkoong, Duchi 2018), and the published code calls it a certificate.  But an attack finds at most the maximum, so
    this is a **lower estimate** of that upper bound and certifies nothing: a stronger attack may raise it, and
    where it lies below a point of a worst-case curve it is too low by that much.  At the attack's own rho
    it equals the attacked distortion.

    Args:
        model: as in `worst_case_curve`.
        images: (n, h, w, c) in [0, 1].
        gamma: price > 0.
        rhos: mean squared distances >= 0.
        adversary: attack with the objective above; default: a converged ``WassersteinBall(gamma)``.
        progress: whether to show a progress bar.

    Returns:
        lines for every stage of structured models.

    Example:
        >>> print(rc.dual_estimate(model, images, gamma=2.0, rhos=[8, 24]))
    """
    models = subjects.labelled(model)
    images = subjects.checked_images(models, images, gradients=True)
    gamma = check_positive("gamma", gamma)
    rhos = [float(rho) for rho in np.atleast_1d(rhos)]
    if not rhos or not all(0 <= rho < float("inf") for rho in rhos):
        raise InvalidArgument(f"rhos must be numbers >= 0. Received: {rhos}")
    adversary = adversary or WassersteinBall(gamma=gamma, steps=100, method="adaptive")
    rows = []
    for job in subjects.each_stage(models, len(subjects.batches(images)), progress, "dual"):
        objective = []
        for part in subjects.batches(images):
            result = adversary.attack(job.model, part, **subjects.call_arguments(job.model, job.stage))
            subjects.check_defined(job.row["model"], ops.convert_to_numpy(result.defined))
            objective.append(ops.convert_to_numpy(result.objective).astype("float64"))
            job.bar.update()
        values = np.concatenate(objective)
        rows += [
            DualPoint(
                **job.row,
                gamma=gamma,
                rho=rho,
                estimate=gamma * rho + float(values.mean()),
                estimate_error=subjects.standard_error(values),
                images=len(values),
            )
            for rho in rhos
        ]
    return DualEstimate(tuple(rows))
