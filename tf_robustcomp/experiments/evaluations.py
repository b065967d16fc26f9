"""Evaluate trained compressors together: load runs and test images, measure, write table and figure."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp import evaluation
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.evaluation import formats
from tf_robustcomp.evaluation.cache import cached
from tf_robustcomp.evaluation.figures import write
from tf_robustcomp.experiments.encoders import chosen
from tf_robustcomp.runs.models import load_trained, model_path
from tf_robustcomp.utils.errors import InvalidArgument

CEILINGS = 9  # radii at which eval_wass_ball certifies


@dataclasses.dataclass(frozen=True)
class Subjects:
    """Models by label, the images that they are evaluated on, and by label the encoders, where flags name one."""

    models: dict[str, Any]
    images: np.ndarray
    encoders: dict[str, Any] | None

    @property
    def coding(self) -> dict[str, Any]:
        """Return what the results depend on beside models and images, for `cached`."""
        return {"encoders": {label: repr(one) for label, one in self.encoders.items()}} if self.encoders else {}


def load(settings: Any) -> Subjects:
    """Return the runs' models and the test images in the models' size.

    Args:
        settings: `cli.settings.evaluations.EvaluationSettings`, checked.

    Raises:
        InvalidArgument: models of several image shapes.
        RunError: a directory without a model.
        DataError: images that cannot be read.
    """
    models = {label: load_trained(path) for label, path in settings.labelled().items()}
    shapes = {label: getattr(model, "image_shape", None) for label, model in models.items()}
    for label, shape in shapes.items():
        if shape is None:
            raise InvalidArgument(f"--models: {label} is not a compressor")
    if len(set(shapes.values())) > 1:
        raise InvalidArgument(f"--models must take images of one shape. Received: {shapes}")
    size = next(iter(models.values())).image_shape[:2]
    encoders = None
    if getattr(settings, "encoder", ()):
        paths = settings.labelled()
        encoders = {label: chosen(settings, model, model_path(paths[label])) for label, model in models.items()}
    return Subjects(models, images_of(settings.data, "test", size, settings.images or None), encoders)


def worst_case(settings: Any) -> None:
    """Write worst-case curves and rates, from the settings of eval_wass_ball."""
    subjects, output = load(settings), Path(settings.output)
    attack = {
        "gammas": list(settings.gammas),
        "attack": settings.attack,
        "steps": settings.attack_steps,
        "restarts": settings.restarts,
        "precision": settings.attack_precision,
        "check": settings.check_images,
        "seed": settings.attack_seed,
    }
    measure = functools.partial(evaluation.worst_case_curve, **attack, progress=True, encoder=subjects.encoders)
    path = _with_suffix(output, ".json")
    curve = cached(path, subjects.models, subjects.images, attack | subjects.coding, evaluation.WorstCaseCurve, measure)
    certified = _certified(subjects, curve)
    write(
        curve, output, f"worst case, {settings.attack} attack: {_described(settings, subjects)}", also=certified.shade
    )
    if len(certified):
        path = _with_suffix(output, "-certified.csv")
        certified.to_csv(path)
        print(f"{certified.table()}\n{path}", flush=True)
    rates = evaluation.rate_allocation(subjects.models, subjects.images, progress=True)
    staged = len(rates) > len(subjects.models)  # else a figure would have one point for each model
    write(rates, _with_suffix(output, "-rates"), f"clean: {_described(settings, subjects)}", drawn=staged)


def rotations(settings: Any) -> None:
    """Write rotation curves, from the settings of eval_rotations."""
    subjects, output = load(settings), Path(settings.output)
    angles = [float(angle) for angle in np.arange(-180, 180 + 1e-9, settings.angle_step)]
    measure = functools.partial(evaluation.rotation_curve, angles=angles, progress=True, encoder=subjects.encoders)
    path = _with_suffix(output, ".json")
    given = {"angles": angles} | subjects.coding
    curve = cached(path, subjects.models, subjects.images, given, evaluation.ShiftCurve, measure)
    write(curve, output, f"rotated: {_described(settings, subjects)}")


def codecs(settings: Any) -> None:
    """Write sizes and distortions beside other formats, from the settings of compare_codecs."""
    subjects, output = load(settings), Path(settings.output)
    images = (np.round(subjects.images * 255) / 255).astype(np.float32)
    results, encoders = formats.rates_of_formats(images), subjects.encoders or {}
    for label, model in subjects.models.items():
        results += formats.rates_of_model(label, model, images, progress=True, encoder=encoders.get(label))
    write(results, output, _described(settings, subjects))
    bound = settings.max_distortion
    if bound is None:
        return
    promise = formats.Promise(())
    for label, model in subjects.models.items():
        part = images[: settings.promise_images]
        promise += formats.cost_of_promise(label, model, part, bound, progress=True, encoder=encoders.get(label))
    path = _with_suffix(output, "-promise.csv")
    promise.to_csv(path)
    print(f"{promise.table()}\n{path}")


def reconstructions(settings: Any) -> None:
    """Draw reconstructions, from the settings of plot_reconstructions."""
    from tf_robustcomp.evaluation import reconstructions as drawing

    settings = dataclasses.replace(settings, images=settings.count)
    subjects = load(settings)
    drawing.draw(
        Path(settings.output), subjects.models, subjects.images, settings.gamma, _described(settings, subjects)
    )
    print(settings.output)


def _certified(subjects, curve):
    """Ceilings of the models whose encoders scan a list, at radii up to the curve's last; floors are the curve's."""
    found = evaluation.CertifiedCurve(())
    for label, encoder in (subjects.encoders or {}).items():
        if getattr(encoder, "lists", ()):
            reach = max(row.rho for row in curve.rows if row.model == label)
            radii, model = np.linspace(0, reach, CEILINGS), {label: subjects.models[label]}
            found += evaluation.certified_curve(model, subjects.images, radii, encoder, rounds=0, progress=True)
    rows = [dataclasses.replace(row, floor=float(curve.at(row.radius, row.line))) for row in found.rows]
    return evaluation.CertifiedCurve(tuple(rows))


def _described(settings, subjects):
    return f"{Path(settings.data).name}, {len(subjects.images)} test images"


def _with_suffix(output, suffix):
    return output.with_name(f"{output.name}{suffix}")
