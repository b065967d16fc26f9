"""Kernels that are pruned without training: which, in what units, and how far."""

import dataclasses
import math
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.pruning import distributions, layer_inputs, patterns
from tf_robustcomp.pruning.coupling import Coupling
from tf_robustcomp.pruning.layer_inputs import KernelMatrix
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils.errors import InvalidArgument


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


def check_sparsity(sparsity: Any) -> None:
    """Raise InvalidArgument unless ``sparsity`` is a number in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.number) or not 0 <= sparsity < 1:
        raise InvalidArgument(f"sparsity must lie in [0, 1). Received: {sparsity!r}")


def rising_sparsities(sparsity: float, rounds: int) -> list[float]:
    """Return the sparsities ``1 - (1 - s)^(k/n)`` of n rounds, each of which cuts the same fraction of what is left."""
    return [1.0 - (1.0 - sparsity) ** (k / rounds) for k in range(1, rounds)] + [sparsity]


def planned(
    variables: list,
    sparsity: float,
    method: Any,
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
                f"{type(method).__name__}. Received: {path}"
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


def read(variable: Any) -> np.ndarray:
    """Return the values of a variable or tensor in memory of their own: JAX gives away buffers of models it trains."""
    return np.array(ops.convert_to_numpy(variable))
