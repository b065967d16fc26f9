"""Prune a model at once, without training: by magnitude, Wanda, SparseGPT or your own method."""

import contextlib
import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning import distributions, layer_inputs, one_shot_methods, patterns
from tf_robustcomp.pruning.coupling import Coupling
from tf_robustcomp.pruning.kernels import Kernel, check_sparsity, chosen_variables, planned, read, rising_sparsities
from tf_robustcomp.pruning.one_shot_methods import OneShotMethod
from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument


def prune(
    model: Any,
    sparsity: float,
    method: Any = "magnitude",
    data: Any = None,
    include: Any = None,
    distribution: Any = "uniform",
    pattern: Any = None,
    batch_size: int = 32,
) -> None:
    """Prune a model in place, without training, as ``model.quantize`` quantises.

    Methods that look at data go through the layers in the order in which the model calls them, each seeing the outputs
    of layers that are pruned already; the model runs on the data once for each layer.  No error leaves weights changed.

    Args:
        model: built ``keras.Model`` of any kind, compiled or not.
        sparsity: in [0, 1), fraction of the chosen weights that is cut.
        method: "magnitude", "wanda", "sparsegpt", before training "snip", "grasp", "synflow", a registered name, or an
            `OneShotMethod`.
        data: inputs (n, ...) as the model takes them, a few hundred, or several such; a pair (inputs, targets) for
            "snip" and "grasp"; "magnitude" and "synflow" need none.
        include: which variables: a function ``(path, variable) -> bool``, or a regular expression that is searched in
            the path; default `is_kernel`.  Methods with data know the inputs of Dense, EinsumDense, convolutions and
            depthwise convolutions.
        distribution: "uniform", "erk", "global", "lamp", a mapping of path pattern -> sparsity, or a Distribution.
        pattern: `patterns.Pattern`; None is unstructured.
        batch_size: int >= 1, examples at a time; by "snip" and "grasp" those that BatchNormalization sees together.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> rc.prune(model, 0.5, "sparsegpt", images[:256], pattern=rc.NM(2, 4), include="dense/kernel")
        >>> rc.recalibrate(model, images[:256])
        >>> rc.prune(model, 0.9, "snip", (images[:256], labels[:256]), distribution="global")
    """
    layer_inputs.check_built(model)
    check_sparsity(sparsity)
    batch_size = check_at_least("batch_size", batch_size, 1)
    method, distribution, pattern = one_shot_methods.get(method), distributions.get(distribution), patterns.get(pattern)
    if distribution.needs_scores and isinstance(pattern, patterns.NM):
        raise InvalidArgument("distribution must be uniform, erk or a mapping with pattern NM. Received: global scores")
    if getattr(as_optimizer(getattr(model, "optimizer", None)), "built", False):
        raise InvalidArgument(
            "model must not be trained by a pruning optimizer. Received: one that is; compile it again"
        )
    variables = chosen_variables(model, include)
    coupling = Coupling(model, variables, pattern) if getattr(pattern, "coupled", False) else None
    kernels = planned(variables, sparsity, method, distribution, pattern, coupling)
    layers, data, batches = _checked_data(model, method, kernels, data, batch_size)
    with _unchanged_on_error(kernels):
        scorer = method.scorer(model, [kernel.variable for kernel in kernels], batches)
        for target in rising_sparsities(sparsity, method.rounds):
            share = target / sparsity if sparsity else 0.0
            now = [dataclasses.replace(kernel, sparsity=share * kernel.sparsity) for kernel in kernels]
            values = None
            if scorer is not None:
                values = _checked(method, now, scorer())
            elif coupling is not None or distribution.needs_scores:
                values = _scores(model, method, now, layers, data, batch_size)
            if coupling is not None:
                _prune_coupled(coupling, target, distribution, now, values)
                continue
            if distribution.needs_scores:
                now = _shared(target, distribution, now, values)
            if scorer is not None:
                _prune_by(now, values)
            else:
                _prune(model, method, now, layers, data, batch_size)


def _checked_data(model, method, kernels, data, batch_size):
    """Return the layers of the kernels in order, their inputs, and batches with targets, as the method needs."""
    if data is None and (method.needs_data or method.needs_targets):
        raise InvalidArgument(f"data must be given for method {type(method).__name__}. Received: None")
    if method.needs_data:
        data = layer_inputs.check_data(model, data)
        return layers_in_order(model, data, kernels), data, []
    if method.needs_targets:
        return [], data, _batches(layer_inputs.check_pairs(model, data), batch_size)
    return [], data, []


@contextlib.contextmanager
def _unchanged_on_error(kernels):
    """Give the kernels their values back where the body fails."""
    before = [read(kernel.variable) for kernel in kernels]
    try:
        yield
    except BaseException:
        for kernel, value in zip(kernels, before, strict=True):
            kernel.variable.assign(value)
        raise


def _scores(model, method, kernels, layers, data, batch_size):
    """The scores of each kernel, a float32 tensor of its shape, of the model as it is."""
    by_layer = _by_layer(kernels, layers)
    found = {}
    for layer in layers or [None]:
        for kernel, moments in with_moments(model, by_layer(layer), layer, data, batch_size):
            scores = kernel.matrices.kernel(method.scores(_matrix(kernel), moments))
            found[id(kernel)] = ops.convert_to_tensor(scores.astype("float32"))
    return [found[id(kernel)] for kernel in kernels]


def _batches(pairs, size):
    """The pairs (inputs, targets) of ``size`` examples each, the last of what is left."""
    count = len(keras.tree.flatten(pairs)[0])
    return [
        keras.tree.map_structure(lambda array: array[first : first + size], pairs)  # noqa: B023
        for first in range(0, count, size)
    ]


def _checked(method, kernels, scores):
    """Scores that a method takes from the whole model, as float32 tensors, if all are finite."""
    for kernel, score in zip(kernels, scores, strict=True):
        if not np.isfinite(score).all():
            raise InvalidArgument(
                f"model must give finite scores by method {type(method).__name__}. Received: NaN or infinite at "
                f"{kernel.variable.path}"
            )
    return [ops.convert_to_tensor(np.asarray(score, "float32")) for score in scores]


def _shared(sparsity, distribution, kernels, values):
    """The kernels with the sparsities that a global distribution gives them, by scores of the model as it is."""
    scores = [kernel.pattern.pool(value) for kernel, value in zip(kernels, values, strict=True)]
    shapes = [(kernel.matrices.shape, kernel.pattern) for kernel in kernels]
    sizes = [math.prod(shape) // pattern.count(shape) for shape, pattern in shapes]
    shares = distribution.sparsities(sparsity, scores, sizes)
    return [
        dataclasses.replace(kernel, sparsity=float(ops.convert_to_numpy(share)))
        for kernel, share in zip(kernels, shares, strict=True)
    ]


def _prune_coupled(coupling, sparsity, distribution, kernels, values):
    """Cut the coupled channels of lowest score in all kernels, whose scores are given."""
    blocks, scores = coupling.blocks, coupling.pool(values)
    if distribution.needs_scores:
        shares = distribution.sparsities(sparsity, scores, [block.size for block in blocks])
    else:
        ratios = distribution.ratios(sparsity, [b.path for b in blocks], [b.shape for b in blocks])
        shares = [ratio * sparsity for ratio in ratios]
    masks = [coupling.unit_pattern.select(one, share) for one, share in zip(scores, shares, strict=True)]
    for i, kernel in enumerate(kernels):
        kept = ops.convert_to_numpy(coupling.expand(masks, i))
        kernel.variable.assign(np.where(kept, read(kernel.variable), 0))


def layers_in_order(model: Any, data: Any, kernels: list[Kernel]) -> list:
    """Return the layers of kernels in the order in which the model calls them; see `layer_inputs.in_order`."""
    holders = {id(layer): layer for layer in (keras_private.holder(k.variable)[0] for k in kernels)}
    return layer_inputs.in_order(model, data, list(holders.values()))


def _prune(model, method, kernels, layers, data, batch_size):
    by_layer = _by_layer(kernels, layers)
    for layer in layers or [None]:
        for kernel, moments in with_moments(model, by_layer(layer), layer, data, batch_size):
            if kernel.sparsity:
                cut(kernel, method, moments)


def cut(kernel: Kernel, method: OneShotMethod, moments: Any) -> None:
    """Prune a kernel in place, given the moments of its layer's inputs, or None for methods without data."""
    weights = kernel.matrices.kernel(method.pruned(_matrix(kernel), moments, kernel))
    kernel.variable.assign(weights.astype(kernel.variable.dtype))


def _prune_by(kernels, values):
    """Cut the weights of lowest score, which are given."""
    for kernel, value in zip(kernels, values, strict=True):
        if kernel.sparsity:
            kept = ops.convert_to_numpy(kernel.pattern.select(value, kernel.sparsity))
            kernel.variable.assign(np.where(kept, read(kernel.variable), 0))


def _by_layer(kernels, layers):
    """Function from a layer to its kernels; from None to all."""
    if not layers:
        return lambda layer: kernels
    return lambda layer: [k for k in kernels if keras_private.holder(k.variable)[0] is layer]


def with_moments(model: Any, kernels: list[Kernel], layer: Any, data: Any, batch_size: int) -> list[tuple]:
    """Return each kernel of a layer with the second moments of the layer's inputs; with None without a layer."""
    if layer is None:
        return [(kernel, None) for kernel in kernels]
    sums = [np.zeros((k.matrices.sizes[0], k.matrices.sizes[1], k.matrices.sizes[1])) for k in kernels]

    def add(_, inputs):
        for kernel, total in zip(kernels, sums, strict=True):
            rows = kernel.matrices.rows(inputs.astype(np.float64))
            total += rows.transpose(0, 2, 1) @ rows

    layer_inputs.run(model, data, batch_size, [layer], add)
    if not all(np.isfinite(total).all() for total in sums):
        raise InvalidArgument(f"data must give finite inputs of every layer. Received: NaN or infinite at {layer.path}")
    return list(zip(kernels, sums, strict=True))


def _matrix(kernel):
    return kernel.matrices.matrix(read(kernel.variable).astype(np.float64))
