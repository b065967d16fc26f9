"""What is evaluated: models by label, their stages, and their reconstructions on a whole set."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from tf_robustcomp.adversaries.base import check_images, distortion
from tf_robustcomp.backend import compiled, read
from tf_robustcomp.errors import InvalidArgument

BATCH = 250


def labelled(models):
    """Models as a dict of label -> model.

    Args:
        models: a model, a sequence of models, or a mapping of label -> model.  A model is a compressor of this package
            or any function of images (n, h, w, c) that gives images; the latter has one stage.

    Raises:
        InvalidArgument: there is none, or the models take images of different shapes.
    """
    if not isinstance(models, Mapping):
        models = list(models) if isinstance(models, (list, tuple)) else [models]
        names = [getattr(model, "name", None) or f"model {number}" for number, model in enumerate(models, 1)]
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        models = dict(zip(names, models, strict=True))
    if not models:
        raise InvalidArgument("models must hold at least one model. Received: none")
    shapes = {label: model.image_shape for label, model in models.items() if hasattr(model, "image_shape")}
    if len(set(shapes.values())) > 1:
        raise InvalidArgument(f"models must take images of one shape. Received: {shapes}")
    return dict(models)


def checked_images(models, images):
    """Images checked against what the models take, (n, h, w, c) float32."""
    shapes = [model.image_shape for model in models.values() if hasattr(model, "image_shape")]
    return check_images(images, shapes[0] if shapes else None)


def stages_of(model):
    """Stages of a model's code: ``[1, ..., k]``."""
    return list(range(1, getattr(model, "stages", 1) + 1))


def call_arguments(model, stage):
    """What says to the model which stage is meant; nothing where it has no stages."""
    return {"stage": stage} if hasattr(model, "stages") else {}


def each_stage(models, units=1, progress=False, what="evaluating"):
    """Yield ``(row start, model, stage, bar)`` for every stage of every model; the row start is the arguments of `Row`.

    Args:
        models: dict of label -> model.
        units: how many ``bar.update()`` each stage will make.
        progress: whether to show a progress bar.
        what: its description.
    """
    total = sum(len(stages_of(model)) for model in models.values()) * units
    with tqdm(total=total, desc=what, disable=None if progress else True, leave=False) as bar:
        for label, model in models.items():
            for stage in stages_of(model):
                yield {"model": label, "stage": stage, "stages": len(stages_of(model))}, model, stage, bar


def batches(images, size=BATCH):
    """Consecutive parts of the images."""
    return [images[first : first + size] for first in range(0, len(images), size)]


def measurer(model, stage, shift=None):
    """A function of images (n, h, w, c), and what ``shift`` takes, that gives NumPy arrays (radius, distortion), (n,).

    Args:
        model: model.
        stage: of its code.
        shift: function ``(images, *arguments)`` that gives the images to be coded; None leaves them.  The radius is
            the squared 2-norm of what it changed.
    """
    arguments = call_arguments(model, stage)
    is_layer = isinstance(model, keras.Layer)
    if is_layer:
        arguments["training"] = False
    variables = model.variables if is_layer else []

    def run(values, images, *shift_arguments):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            shifted = shift(images, *shift_arguments) if shift else images
            return distortion(images, shifted), distortion(shifted, model(shifted, **arguments))

    traced = compiled(run)

    def measure(images, *shift_arguments):
        values = [read(variable) for variable in variables]
        parts = [
            traced(values, ops.convert_to_tensor(part), *map(ops.convert_to_tensor, shift_arguments))
            for part in batches(images)
        ]
        return tuple(np.concatenate([ops.convert_to_numpy(part[i]) for part in parts]) for i in (0, 1))

    return measure


def standard_error(values):
    """Standard error of the mean of values (n,); 0 for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
