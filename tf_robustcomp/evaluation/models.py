"""Models under evaluation: labels, stages, and measurements over a whole set."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import compiled, read, value_and_input_gradient
from tf_robustcomp.data.distortion import distortion, squared_error
from tf_robustcomp.evaluation.encoded import EncodedModel
from tf_robustcomp.utils.checks import check_images
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.progress import bar as progress_bar

BATCH = 250
FEW = 32  # images at which a model's gradient is looked at


def labelled(models: Any, encoder: Any = None) -> dict[str, Any]:
    """Return models by label.

    Args:
        models: a model, a sequence of models, or a mapping of label -> model.  A model is a compressor of this package
            or any function from images (n, h, w, c) to images, which has one stage.
        encoder: encoder that finds the codes, or a mapping of label -> encoder; None is the network.

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
    if encoder is None:
        return dict(models)
    encoders = encoder if isinstance(encoder, Mapping) else dict.fromkeys(models, encoder)
    return {label: EncodedModel(model, encoders[label]) for label, model in models.items()}


def checked_images(models: Mapping[str, Any], images: Any, gradients: bool = False) -> np.ndarray:
    """Return images float32 (n, h, w, c), after a check of them and of what each model makes of the first batch.

    Args:
        models: label -> model.
        images: (n, h, w, c) in [0, 1].
        gradients: whether the evaluation attacks by gradients, so that these must be there.

    Raises:
        InvalidArgument: the images break a rule; or a model returns images of another shape, or values that are not
            finite; or its distortion has no gradient, so that an attack by gradients would find nothing.

    Warns:
        UserWarning: a model's images are no nearer to the originals than their mean image is.
    """
    shapes = [model.image_shape for model in models.values() if hasattr(model, "image_shape")]
    images = check_images(images, shapes[0] if shapes else None)
    for label, model in models.items():
        for stage in stages_of(model):
            _check_output(label, _function(model, stage), images[:BATCH])
            if gradients:
                _check_gradient(label, _function(model, stage), images[:FEW])
    return images


def check_defined(label: str, defined: np.ndarray) -> None:
    """Refuse the result of an attack or a shift where the model returned values that are not finite.

    Args:
        label: of the model.
        defined: (n,) of bool, such as that of `AttackResult`.

    Raises:
        InvalidArgument: names the model and the number of images.
    """
    if not defined.all():
        raise InvalidArgument(
            f"{label} returns NaN or infinite values at {np.sum(~defined)} of {len(defined)} attacked or shifted "
            "images: its distortion there is not known"
        )


def _check_output(label, function, images):
    output = ops.convert_to_numpy(function(ops.convert_to_tensor(images)))
    if output.shape != images.shape:
        raise InvalidArgument(f"{label} must return images of the shape {images.shape}. Received: {output.shape}")
    finite = np.isfinite(output).all(axis=(1, 2, 3))
    if not finite.all():
        raise InvalidArgument(f"{label} returns NaN or infinite values at {np.sum(~finite)} of {len(images)} images")
    reached, least = squared_error(images, output).mean(), squared_error(images, images.mean(axis=0)).mean()
    if len(images) > 1 and reached >= least:
        warnings.warn(
            f"{label} is no better than the mean image, with a distortion of {reached:.3g} to {least:.3g}: is it "
            "trained, and on such images?",
            stacklevel=4,
        )


def _check_gradient(label, function, images):
    reached, gradient = value_and_input_gradient(lambda x: distortion(x, function(x)), ops.convert_to_tensor(images))
    if ops.any(reached > 0) and not ops.any(gradient != 0):
        raise InvalidArgument(
            f"{label} must have a gradient: that of its distortion is zero at {len(images)} images, so an attack finds "
            "nothing and the model would look robust; worst_case_curve(..., attack='black_box') needs none"
        )


def _function(model, stage):
    """The model at a stage, in inference, as a function of images that leaves the model's state as it is."""
    arguments = call_arguments(model, stage)
    if not isinstance(model, keras.Layer):
        return lambda images: model(images, **arguments)

    def run(images):
        with keras.StatelessScope():
            return model(images, training=False, **arguments)

    return run


def stages_of(model: Any) -> list[int]:
    """Return the stage indices of a model's code, ``[1, ..., k]``."""
    return list(range(1, getattr(model, "stages", 1) + 1))


def call_arguments(model: Any, stage: int) -> dict[str, int]:
    """Return the keyword arguments that select a stage (empty for single-stage models)."""
    return {"stage": stage} if hasattr(model, "stages") else {}


@dataclasses.dataclass(frozen=True)
class StageJob:
    """One stage of one model, to be measured.

    Attributes:
        model: the model.
        stage: index of the stage.
        row: arguments that every row of results begins with: label, stage, number of stages.
        bar: progress bar.
    """

    model: Any
    stage: int
    row: dict[str, Any]
    bar: Any


def each_stage(
    models: Mapping[str, Any], units: int = 1, progress: bool = False, what: str = "evaluating"
) -> Iterator[StageJob]:
    """Yield a job for every stage of every model.

    Args:
        models: label -> model.
        units: how often each job calls ``bar.update()``.
        progress: whether to show a progress bar.
        what: its description.
    """
    total = sum(len(stages_of(model)) for model in models.values()) * units
    with progress_bar(total, what, progress) as bar:
        for label, model in models.items():
            stages = stages_of(model)
            for stage in stages:
                yield StageJob(model, stage, {"model": label, "stage": stage, "stages": len(stages)}, bar)


def batches(images: Any, size: int = BATCH) -> list[Any]:
    """Return consecutive parts of the images."""
    return [images[first : first + size] for first in range(0, len(images), size)]


def measurer(model: Any, stage: int, shift: Callable | None = None) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return a function of images (n, h, w, c) and arguments of ``shift`` that returns arrays (radius, distortion).

    Args:
        model: model.
        stage: index of the stage.
        shift: function ``(images, *arguments)`` that returns the images to be coded; None leaves them clean.  The
            radius is the squared 2-norm of its perturbation.
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

    traced = compiled(run) if is_layer else run  # a function may leave the tensors of the backend

    def measure(images, *shift_arguments):
        values = [read(variable) for variable in variables]
        parts = [
            traced(values, ops.convert_to_tensor(part), *map(ops.convert_to_tensor, shift_arguments))
            for part in batches(images)
        ]
        return tuple(np.concatenate([ops.convert_to_numpy(part[i]) for part in parts]) for i in (0, 1))

    return measure


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of values (n,); 0 for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
