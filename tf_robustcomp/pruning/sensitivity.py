"""Measure which kernels of a trained model bear pruning: prune each alone, evaluate, put it back."""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend import keras_private
from tf_robustcomp.pruning import distributions, layer_inputs, one_shot, one_shot_methods, patterns
from tf_robustcomp.pruning.kernels import Kernel, chosen_variables, planned, read
from tf_robustcomp.pruning.sensitivity_report import SensitivityReport, SensitivityRow
from tf_robustcomp.utils import checks, documents, files
from tf_robustcomp.utils.errors import InvalidArgument


def sensitivity(
    model: Any,
    data: Any,
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95),
    method: Any = "magnitude",
    include: Any = None,
    pattern: Any = None,
    calibration: Any = None,
    batch_size: int = 32,
    cache: str | Path | None = None,
    verbose: int = 1,
) -> SensitivityReport:
    """Return how well a trained model does with one kernel pruned, for each kernel and sparsity, without training.

    The model is evaluated once as it is and once for each point.  Weights, optimizer and random seeds are afterwards as
    they were, also when an error comes; for that a copy of the weights is kept in memory.

    Args:
        model: built and compiled ``keras.Model`` of any kind.
        data: arrays (x, y) or (x, y, sample_weight), or a dataset of batches that knows its length (``tf.data``,
            ``PyDataset``) and gives the same batches each time.
        sparsities: numbers in (0, 1), each once.
        method: "magnitude", "wanda", "sparsegpt", a registered name, or an `OneShotMethod`.
        include: which kernels, as in `prune`.
        pattern: `patterns.Pattern` other than coupled channels; None is unstructured.
        calibration: inputs (n, ...) for methods that look at data.
        batch_size: int >= 1, examples at a time, of arrays.
        cache: JSON file in which finished points are kept, written after each; a call that was interrupted goes on,
            and further sparsities or kernels are added.  None keeps nothing.
        verbose: 0 shows no progress bar.

    Returns:
        SensitivityReport, with every metric of ``model.evaluate`` that is one number.

    Raises:
        InvalidArgument: an argument breaks its rule, or the cache is of another model, data or method.
        DataError: the cache cannot be read.

    Example:
        >>> report = rc.sensitivity(model, (images, labels), cache="sensitivity.json")
        >>> print(report)
        >>> rc.prune(model, 0.5, distribution=report.allocation(drop=0.01))
    """
    layer_inputs.check_built(model)
    if not getattr(model, "compiled", False):
        raise InvalidArgument("model must be compiled. Received: one that is not")
    sparsities = _check_sparsities(sparsities)
    batch_size = checks.check_at_least("batch_size", batch_size, 1)
    name = method if isinstance(method, str) else type(method).__name__
    method, pattern = one_shot_methods.get(method), patterns.get(pattern)
    if getattr(pattern, "coupled", False):
        raise InvalidArgument("pattern must cut single kernels. Received: coupled channels")
    variables = chosen_variables(model, include)
    _check_paths(variables)
    kernels = _planned(variables, sparsities, method, pattern)
    if method.needs_data:
        if calibration is None:
            raise InvalidArgument(f"calibration must be given for method {name}. Received: None")
        calibration = layer_inputs.check_data(model, calibration, "calibration")
        one_shot.layers_in_order(model, calibration, [several[0] for several in kernels])
    examples = _examples(data, batch_size)
    points = _Points({})
    if cache is not None:
        points = _opened(Path(cache), _key(model, examples, method, pattern, calibration, batch_size))
    with _evaluating(model, variables, examples.arguments) as evaluate:
        if not points.unpruned:
            points.unpruned, points.greater_is_better = _unpruned(model, evaluate)
        for several, bar in _due(kernels, points, verbose):
            moments = _moments(model, several[0], method, calibration, batch_size)
            for kernel in several:
                one_shot.cut(kernel, method, moments)
                values = evaluate(kernel.variable)
                points.rows.append(SensitivityRow(*_place(kernel), math.prod(kernel.variable.shape), values))
                if cache is not None:
                    files.write_json(cache, dataclasses.asdict(points))
                bar.add(1, list(values.items()))
    return _report(points, kernels, examples.count, name)


def _planned(variables, sparsities, method, pattern):
    """The kernels at every sparsity, in a list for each variable, all checked."""
    uniform = distributions.Uniform()
    plans = [planned(variables, sparsity, method, uniform, pattern) for sparsity in sparsities]
    return list(zip(*plans, strict=True))


def _due(kernels, points, verbose):
    """Of each variable the kernels that have no point yet, with the progress bar."""
    finished = points.finished
    due = [[kernel for kernel in several if _place(kernel) not in finished] for several in kernels]
    metrics = list(points.unpruned)
    bar = keras.utils.Progbar(sum(map(len, due)), verbose=verbose, stateful_metrics=metrics, unit_name="point")
    return [(several, bar) for several in due if several]


def _report(points, kernels, examples, method):
    finished = points.finished
    rows = tuple(finished[_place(kernel)] for several in kernels for kernel in several)
    unpruned = {name: points.unpruned[name] for name in sorted(points.unpruned, key=lambda one: (_is_loss(one), one))}
    return SensitivityReport(rows, unpruned, points.greater_is_better, examples, method)


def _place(kernel: Kernel) -> tuple[str, float]:
    return kernel.variable.path, kernel.sparsity


def _is_loss(metric):
    return metric == "loss" or metric.endswith("_loss")


def _check_sparsities(sparsities):
    try:
        values = [float(value) for value in sparsities]
    except (TypeError, ValueError):
        values = []
    if not values or len(set(values)) < len(values) or not all(0 < value < 1 for value in values):
        raise InvalidArgument(f"sparsities must be numbers in (0, 1), each once. Received: {sparsities!r}")
    return sorted(values)


def _check_paths(variables):
    paths = [variable.path for variable in variables]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise InvalidArgument(f"include must choose variables of different paths. Received: two of path {twice[0]}")


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Data for the evaluation: arguments of ``model.evaluate``, number of examples, digest."""

    arguments: dict[str, Any]
    count: int
    digest: str


def _examples(data, batch_size):
    arguments, batches = {"x": data}, data
    if isinstance(data, tuple) and len(data) in (2, 3):
        arguments = dict(zip(("x", "y", "sample_weight"), data, strict=False)) | {"batch_size": batch_size}
        batches = [data]
    elif checks.is_array(data) or isinstance(data, tuple | list | dict | str):
        raise InvalidArgument(
            f"data must be (x, y), (x, y, sample_weight) or a dataset. Received: {type(data).__name__}"
        )
    try:
        length = len(batches)
    except TypeError:
        raise InvalidArgument(
            f"data must be (x, y), (x, y, sample_weight) or a dataset that knows its length. Received: "
            f"{type(data).__name__} without one"
        ) from None
    if isinstance(data, keras.utils.PyDataset):  # it may have no end when it is iterated over
        batches = (data[index] for index in range(length))
    digest, count = hashlib.sha256(), 0
    for batch in batches:
        arrays = [_array(leaf) for leaf in keras.tree.flatten(batch) if leaf is not None]
        lengths = sorted({len(array) if array.ndim else 0 for array in arrays})
        if len(lengths) != 1:
            raise InvalidArgument(f"data must be arrays of equal length. Received: lengths {lengths}")
        count += lengths[0]
        _add(digest, arrays)
    if not count:
        raise InvalidArgument("data must hold at least one example. Received: none")
    return _Examples(arguments, count, digest.hexdigest())


def _array(leaf):
    try:
        return keras.ops.convert_to_numpy(leaf)
    except Exception:  # a tensor of another library than the backend
        return np.asarray(leaf)


def _add(digest, arrays):
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        plain = array.dtype.kind != "O"  # objects, such as texts, are but addresses
        digest.update(np.ascontiguousarray(array).tobytes() if plain else repr(array.tolist()).encode())


def _key(model, examples, method, pattern, calibration, batch_size):
    """Digests of all that the points depend on."""
    weights = hashlib.sha256()
    for variable in model.weights:
        weights.update(variable.path.encode())
        _add(weights, [read(variable)])
    with contextlib.suppress(Exception):  # a model of the user's own need not have a configuration
        weights.update(json.dumps(model.get_config(), sort_keys=True).encode())
    compiled = model.get_compile_config() or {}
    measures = {name: compiled.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    units = [type(pattern).__name__, pattern.get_config()]
    given = [type(method).__name__, method.get_config(), units, batch_size, measures]
    arguments = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode())
    if method.needs_data:
        _add(arguments, keras.tree.flatten(calibration))
    return {"model": weights.hexdigest(), "data": examples.digest, "arguments": arguments.hexdigest()}


@contextlib.contextmanager
def _evaluating(model: Any, variables: list, arguments: dict[str, Any]) -> Iterator[Callable]:
    """Give a function that evaluates and then puts back the variable that was pruned; after an error put back all.

    Seeds and states go back, too, so that no value depends on those measured before it.
    """
    before = {id(variable): (variable, read(variable)) for variable in model.variables}
    chosen = {id(variable) for variable in variables}
    state = [key for key, (variable, _) in before.items() if not variable.trainable and key not in chosen]

    def put_back(keys):
        for variable, value in (before[key] for key in keys):
            variable.assign(value)

    def evaluate(pruned=None):
        values = model.evaluate(**arguments, verbose=0, return_dict=True)
        put_back(state if pruned is None else [*state, id(pruned)])
        return {metric: value for metric, value in values.items() if isinstance(value, float)}

    try:
        yield evaluate
    except BaseException:
        keras_private.forget_evaluation(model)
        put_back(before)
        model.reset_metrics()
        raise


def _unpruned(model, evaluate):
    """The metrics of the model as it is, and of each whether greater is better."""
    with layer_inputs.errors_in_a_line():
        values = evaluate()
    if not values:
        raise InvalidArgument("model must be compiled with a loss or a metric that is one number. Received: none")
    better = {"up": True, "down": False}
    known = {name: better.get(keras_private.metric_direction(model, name) or "") for name in values}
    return values, {name: False if _is_loss(name) else known[name] for name in values}


def _moments(model, kernel, method, calibration, batch_size):
    """Of the inputs of a kernel's layer in the model as it is; None for methods without data."""
    layer = keras_private.holder(kernel.variable)[0] if method.needs_data else None
    return one_shot.with_moments(model, [kernel], layer, calibration, batch_size)[0][1]


@dataclasses.dataclass
class _Points:
    """Finished points; in the file of a cache, too.

    Attributes:
        key: digests of what they depend on.
        unpruned: metric -> value; empty before the first evaluation.
        greater_is_better: metric -> whether it is.
        rows: in the order in which they were measured.
    """

    key: dict[str, str]
    unpruned: dict[str, float] = dataclasses.field(default_factory=dict)
    greater_is_better: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    rows: list[SensitivityRow] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> dict[tuple[str, float], SensitivityRow]:
        """The rows by path and sparsity."""
        return {(row.path, row.sparsity): row for row in self.rows}


def _opened(cache, key):
    """The points in a cache, none where there is no file."""
    if not cache.parent.is_dir():
        raise InvalidArgument(f"cache must lie in a folder that exists. Received: {cache}")
    try:
        points = documents.read(cache, _Points)
    except FileNotFoundError:
        return _Points(key)
    differing = [name for name, digest in key.items() if points.key.get(name) != digest]
    if differing:
        raise InvalidArgument(
            f"cache must be of this model, data and arguments; give another file. Received: {cache}, with other "
            f"{' and '.join(differing)}"
        )
    return points
