"""Prune a model at once, without training: by magnitude, Wanda, SparseGPT or your own method."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning import distributions, layer_inputs, patterns
from tf_robustcomp.pruning.coupling import Coupling
from tf_robustcomp.pruning.layer_inputs import KernelMatrix
from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register, variants


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel to be pruned: how it is seen, in what units it is cut, and how far.

    Attributes:
        variable: the model's own.
        matrices: of the kernel; one row of all weights for methods without data.
        pattern: of this variable.
        sparsity: in [0, 1).
    """

    variable: Any
    matrices: KernelMatrix
    pattern: patterns.Pattern
    sparsity: float

    def select(self, scores: np.ndarray) -> np.ndarray:
        """Return the mask of the matrices (groups, inputs, outputs) that leaves out the lowest scores."""
        values = ops.convert_to_tensor(self.matrices.kernel(scores).astype("float32"))
        return self.matrices.matrix(ops.convert_to_numpy(self.pattern.select(values, self.sparsity)))


class OneShotMethod:
    """Base: which weights go, from a kernel and the second moments of its layer's inputs, or from the whole model.

    A subclass states ``scores``, the lowest of which are cut; one that also changes the others overrides ``pruned``;
    one whose scores follow from the whole model states ``scorer`` instead.

    Example:
        >>> @rc.register("one-shot method", "inputs")
        ... class ByInputs(rc.OneShotMethod):
        ...     needs_data = True
        ...
        ...     def scores(self, weights, moments):
        ...         return abs(weights) * moments.diagonal(axis1=1, axis2=2)[:, :, None]
    """

    needs_data = False  # whether moments are given
    needs_targets = False  # whether data are (inputs, targets), which `scorer` is given
    compares_outputs = False  # whether single weights are compared within each output, not in the whole kernel
    rounds = 1  # how often the lowest are cut, the same fraction of what is left; above 1 zeros must score lowest

    def scores(self, weights: np.ndarray, moments: Any) -> np.ndarray:
        """Return the score of each weight.

        Args:
            weights: (groups, inputs, outputs), float64; for methods without data all in one group of one input.
            moments: (groups, inputs, inputs), sums of the products of two inputs over the data; None without data.
        """
        raise NotImplementedError

    def scorer(self, model: Any, variables: list, batches: list) -> Callable[[], list] | None:
        """Return a function that scores all kernels of the model as it is; None to score one by one by ``scores``.

        The function is called once a round, takes nothing, leaves the model as it is, and returns arrays of the
        kernels' shapes.

        Args:
            model: built.
            variables: its kernels that are pruned.
            batches: list of (inputs, targets) for methods with ``needs_targets``, else empty.
        """
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(vars(self))

    def pruned(self, weights: np.ndarray, moments: Any, kernel: Kernel) -> np.ndarray:
        """Return the weights (groups, inputs, outputs) after pruning."""
        scores = self.scores(weights, moments)
        if self.compares_outputs and isinstance(kernel.pattern, patterns.Unstructured):
            cut = min(round(kernel.sparsity * weights.shape[1]), weights.shape[1] - 1)
            return np.where(_ranks(scores, axis=1) >= cut, weights, 0.0)
        return np.where(kernel.select(scores), weights, 0.0)


@register("one-shot method", "magnitude")
class Magnitude(OneShotMethod):
    """Cut the weights of smallest magnitude."""

    def scores(self, weights: np.ndarray, moments: Any) -> np.ndarray:
        """Return the magnitudes."""
        return np.abs(weights)


@register("one-shot method", "wanda")
class Wanda(OneShotMethod):
    """Cut by magnitude times the 2-norm of the input, compared within each output (arXiv 2306.11695)."""

    needs_data = True
    compares_outputs = True

    def scores(self, weights: np.ndarray, moments: Any) -> np.ndarray:
        """Return ``|W_ij| ||X_i||``."""
        return np.abs(weights) * np.sqrt(moments.diagonal(axis1=1, axis2=2))[:, :, None]


@register("one-shot method", "sparsegpt")
class SparseGPT(OneShotMethod):
    """Cut one input after the other and let the later ones make up for it (arXiv 2301.00774).

    With ``H = X'X + lambda I``, removing the weight w_p changes the others by ``-w_p / [H^-1]_pp H^-1[:, p]``, which
    adds ``w_p^2 / [H^-1]_pp`` to the squared error (optimal brain surgeon).  Inputs are visited in order, H being that
    of the inputs not visited yet: row p of the Cholesky factor U of ``H^-1 = U'U`` is that inverse's, over its root.
    Single weights are chosen a block of inputs at a time, with the weights as they are then; N:M a group at a time;
    other patterns at the start.

    Args:
        damping: lambda over the mean of the diagonal of X'X, > 0.
        block: inputs of a block, >= 1; None: a quarter of the kernel's, at most the 128 of the paper.  A block of all
            inputs is chosen before any update, and the error may then exceed that of magnitude.

    Example:
        >>> rc.prune(model, 0.5, rc.SparseGPT(damping=0.01), images[:256])
    """

    needs_data = True

    def __init__(self, damping: float = 0.01, block: int | None = None) -> None:
        self.damping = check_positive("damping", damping)
        self.block = None if block is None else check_at_least("block", block, 1)

    def scores(self, weights: np.ndarray, moments: Any) -> np.ndarray:
        """Return the increase of the squared error where one weight alone is removed."""
        return weights**2 / self._inverse(moments).diagonal(axis1=1, axis2=2)[:, :, None]

    def pruned(self, weights: np.ndarray, moments: Any, kernel: Kernel) -> np.ndarray:
        """Return the weights after the choice and the updates."""
        weights = weights.copy()
        factor = np.linalg.cholesky(self._inverse(moments)).transpose(0, 2, 1)
        diagonal = factor.diagonal(axis1=1, axis2=2)[:, :, None]
        groups, inputs, outputs = weights.shape
        step, choose = self._choice(weights, moments, kernel)
        block = min(128, max(1, inputs // 4)) if self.block is None else self.block
        block = max(step, block // step * step) if step else block
        kept = np.ones(weights.shape, bool)
        for first in range(0, inputs, block):
            last = min(first + block, inputs)
            errors = np.zeros((groups, last - first, outputs))
            for j in range(first, last):
                begins = j == first if not step else j % step == 0
                if begins:
                    chosen = slice(j, j + step if step else last)
                    kept[:, chosen] = choose(chosen, weights[:, chosen] ** 2 / diagonal[:, chosen] ** 2, kept)
                error = np.where(kept[:, j], 0.0, weights[:, j]) / diagonal[:, j]
                weights[:, j:last] -= factor[:, j, j:last, None] * error[:, None]
                errors[:, j - first] = error
            weights[:, last:] -= factor[:, first:last, last:].transpose(0, 2, 1) @ errors
        return np.where(kept, weights, 0.0)

    def _choice(self, weights, moments, kernel):
        """Inputs that are chosen together, 0 for a block, and the function that chooses."""
        pattern, groups, outputs = kernel.pattern, weights.shape[0], weights.shape[2]
        if isinstance(pattern, patterns.Unstructured):

            def lowest(chosen, scores, kept):
                cut = round(kernel.sparsity * groups * outputs * chosen.stop) - np.sum(~kept)  # no rounding adds up
                return (_ranks(scores.ravel(), axis=0) >= cut).reshape(scores.shape)

            return 0, lowest
        if (
            isinstance(pattern, patterns.NM)
            and (pattern.axis or 0) % len(kernel.matrices.shape) == kernel.matrices.last_input
        ):
            cut = min(round(kernel.sparsity * pattern.m), pattern.m - pattern.n)
            return pattern.m, lambda chosen, scores, kept: _ranks(scores, axis=1) >= cut
        mask = kernel.select(self.scores(weights, moments))
        return 0, lambda chosen, scores, kept: mask[:, chosen]

    def _inverse(self, moments):
        scale = moments.diagonal(axis1=1, axis2=2).mean(axis=1)
        scale = np.where(scale > 0, self.damping * scale, 1.0)  # a group without input loses nothing by any choice
        return np.linalg.inv(moments + scale[:, None, None] * np.eye(moments.shape[1]))


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
    method, distribution, pattern = (get(method), distributions.get(distribution), patterns.get(pattern))
    if distribution.needs_scores and isinstance(pattern, patterns.NM):
        raise InvalidArgument("distribution must be uniform, erk or a mapping with pattern NM. Received: global scores")
    if getattr(as_optimizer(getattr(model, "optimizer", None)), "built", False):
        raise InvalidArgument(
            "model must not be trained by a pruning optimizer. Received: one that is; compile it again"
        )
    variables = chosen_variables(model, include)
    coupling = Coupling(model, variables, pattern) if getattr(pattern, "coupled", False) else None
    kernels = planned(variables, sparsity, method, distribution, pattern, coupling)
    layers: list = []
    batches: list = []
    if data is None and (method.needs_data or method.needs_targets):
        raise InvalidArgument(f"data must be given for method {_name(method)}. Received: None")
    if method.needs_data:
        data = layer_inputs.check_data(model, data)
        layers = layers_in_order(model, data, kernels)
    elif method.needs_targets:
        batches = _batches(layer_inputs.check_pairs(model, data), batch_size)
    before = [read(kernel.variable) for kernel in kernels]
    try:
        scorer = method.scorer(model, [kernel.variable for kernel in kernels], batches)
        for target in rising_sparsities(sparsity, method.rounds):
            share = target / sparsity if sparsity else 0.0
            now = [dataclasses.replace(kernel, sparsity=share * kernel.sparsity) for kernel in kernels]
            values = None if scorer is None else _checked(method, now, scorer())
            if values is None and (coupling is not None or distribution.needs_scores):
                values = _scores(model, method, now, layers, data, batch_size)
            if coupling is not None:
                _prune_coupled(coupling, target, distribution, now, values)
                continue
            if distribution.needs_scores:
                now = _shared(target, distribution, now, values)
            if scorer is None:
                _prune(model, method, now, layers, data, batch_size)
            else:
                _prune_by(now, values)
    except BaseException:
        for kernel, value in zip(kernels, before, strict=True):
            kernel.variable.assign(value)
        raise


def rising_sparsities(sparsity: float, rounds: int) -> list[float]:
    """Return the sparsities ``1 - (1 - s)^(k/n)`` of n rounds, each of which cuts the same fraction of what is left."""
    return [1.0 - (1.0 - sparsity) ** (k / rounds) for k in range(1, rounds)] + [sparsity]


def check_sparsity(sparsity: Any) -> None:
    """Raise InvalidArgument unless ``sparsity`` is a number in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.number) or not 0 <= sparsity < 1:
        raise InvalidArgument(f"sparsity must lie in [0, 1). Received: {sparsity!r}")


def chosen_variables(model: Any, include: Any = None) -> list:
    """Return the variables of a model that ``include`` chooses (see `prune`), frozen ones, too.

    Raises:
        InvalidArgument: there are none, or one does not hold floating-point numbers.
    """
    if isinstance(include, str):
        chosen = [v for v in model.weights if re.search(include, v.path)]
    else:
        chosen = [v for v in model.weights if (include or is_kernel)(v.path, v)]
    if not chosen:
        raise InvalidArgument(f"include must choose at least one variable. Received: include={include!r}")
    for variable in chosen:
        if "float" not in keras.backend.standardize_dtype(variable.dtype):
            raise InvalidArgument(f"pruned variables must be floating. Received: {variable.path} of {variable.dtype}")
    return chosen


def read(variable: Any) -> np.ndarray:
    """Return a copy of the values of a variable."""
    return np.array(ops.convert_to_numpy(variable))


def get(method: Any) -> OneShotMethod:
    """Return a method from its registered name or an instance.

    Raises:
        InvalidArgument: neither.
    """
    if isinstance(method, OneShotMethod):
        return method
    known = variants("one-shot method")
    if not isinstance(method, str) or method not in known:
        raise InvalidArgument(f"method must be one of {', '.join(known)}, or a OneShotMethod. Received: {method!r}")
    return known[method].load()()


def _name(method):
    return type(method).__name__


def planned(
    variables: list,
    sparsity: float,
    method: OneShotMethod,
    distribution: distributions.Distribution,
    pattern: patterns.Pattern,
    coupling: Coupling | None = None,
) -> list[Kernel]:
    """Return the kernels with their sparsities, all checked; coupled channels have sparsities of their own.

    Raises:
        InvalidArgument: method, pattern or sparsity do not fit a variable, which is named.
    """
    paths, shapes = [v.path for v in variables], [tuple(v.shape) for v in variables]
    distribution.check(paths)
    ratios = distribution.ratios(sparsity, paths, shapes) if coupling is None else [0.0] * len(paths)
    for block in coupling.blocks if coupling is not None else ():
        if round(sparsity * block.units) >= block.units:
            raise InvalidArgument(
                f"sparsity must leave a channel of every layer. Received: {sparsity:g} for {block.units} channels of "
                f"{block.path}"
            )
    kernels = []
    for variable, path, shape, ratio in zip(variables, paths, shapes, ratios, strict=True):
        own = pattern.of(variable)
        own.check(path, shape)
        own.check_sparsity(path, ratio * sparsity)
        matrices = layer_inputs.kernel_matrix(variable) if method.needs_data else _flat(shape)
        if matrices is None:
            raise InvalidArgument(
                f"include must choose kernels of Dense, EinsumDense and (depthwise) convolutions for method "
                f"{_name(method)}. Received: {path}"
            )
        kernel = Kernel(variable, matrices, own, ratio * sparsity)
        if not isinstance(own, patterns.NM):
            by_output = method.compares_outputs and isinstance(own, patterns.Unstructured)
            units = matrices.sizes[1] if by_output else own.count(shape)
            if round(kernel.sparsity * units) >= units:
                raise InvalidArgument(
                    f"sparsity must leave a unit of every {'output' if by_output else 'kernel'}. Received: "
                    f"{kernel.sparsity:g} for {path}, of {units} units"
                )
        kernels.append(kernel)
    return kernels


def _flat(shape):
    """All weights as outputs of one input, for methods that do not look at inputs."""
    return KernelMatrix(shape, shape, tuple(range(len(shape))), (1, 1, math.prod(shape)), -1, lambda x: x)


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
                f"model must give finite scores by method {_name(method)}. Received: NaN or infinite at "
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


def _ranks(scores, axis):
    """The rank of each score along an axis; of equal ones the first is lowest."""
    return np.argsort(np.argsort(scores, axis=axis, kind="stable"), axis=axis, kind="stable")
