"""Recalibrate batch normalization after pruning, which changes the moments of its inputs."""

from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning import layer_inputs
from tf_robustcomp.pruning.kernels import read
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument


def recalibrate(model: Any, data: Any, batch_size: int = 32) -> None:
    """Set the moving statistics of all BatchNormalization layers to the moments of their inputs over data, in place.

    Mean and variance are those of all examples together, not moving averages.  Layers come in the order in which the
    model calls them, and each sees those before it recalibrated: one run of the model for each.  Pruning changes these
    moments, so this belongs after it.

    Args:
        model: built ``keras.Model``; one without such layers is left as it is.
        data: inputs (n, ...) as the model takes them, or several such.
        batch_size: int >= 1, examples at a time; the result does not depend on it.

    Raises:
        InvalidArgument: an argument breaks its rule; nothing changes.

    Example:
        >>> rc.recalibrate(model, images[:512])
    """
    layer_inputs.check_built(model)
    batch_size = check_at_least("batch_size", batch_size, 1)
    data = layer_inputs.check_data(model, data)
    found = [one for one in keras_private.all_layers(model) if isinstance(one, keras.layers.BatchNormalization)]
    layers = layer_inputs.in_order(model, data, found)
    moving = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    before = [read(variable) for variable in moving]
    try:
        for layer in layers:
            mean, variance = _moments(model, data, batch_size, layer)
            layer.moving_mean.assign(mean.astype("float32"))
            layer.moving_variance.assign(variance.astype("float32"))
    except BaseException:
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)
        raise


def _moments(model, data, batch_size, layer):
    """Mean and variance (channels,) of the inputs of a layer."""
    count, mean, squares = 0, 0.0, 0.0

    def add(_, inputs):
        nonlocal count, mean, squares
        rows = np.moveaxis(inputs.astype(np.float64), layer.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        apart = rows.mean(axis=0) - mean  # merged so that a large mean costs no digits (Chan et al. 1979)
        whole = count + len(rows)
        squares = squares + ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) + apart**2 * count * len(rows) / whole
        mean, count = mean + apart * len(rows) / whole, whole

    layer_inputs.run(model, data, batch_size, [layer], add)
    variance = squares / count
    if not np.isfinite(mean).all() or not np.isfinite(variance).all():
        raise InvalidArgument(f"data must give finite inputs of every layer. Received: NaN or infinite at {layer.path}")
    return mean, variance
