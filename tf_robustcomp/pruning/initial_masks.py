"""Initial masks that continue the zeros which are there, as initializers of slots."""

from collections.abc import Sequence
from typing import Any

from keras import ops


def nonzero(variable: Any, shape: Any, dtype: Any) -> Any:
    """Return the initial mask of a variable: where it is not zero, everywhere if it is zero everywhere."""
    del shape
    used = ops.not_equal(ops.convert_to_tensor(variable), 0)
    return ops.cast(ops.logical_or(used, ops.logical_not(ops.any(used))), dtype)


def zeros_share(variable: Any, shape: Any, dtype: Any) -> Any:
    """Return the fraction of a variable that its initial mask cuts."""
    return 1.0 - ops.mean(ops.cast(nonzero(variable, shape, "bool"), dtype))


def used_units(coupling: Any, variables: Sequence[Any], index: int, shape: Any, dtype: Any) -> Any:
    """Return the initial mask of a block: the groups with a weight that is not zero, all if there is none."""
    del shape
    used = coupling.pool([ops.abs(ops.cast(ops.convert_to_tensor(v), "float32")) for v in variables])[index] > 0
    return ops.cast(ops.logical_or(used, ops.logical_not(ops.any(used))), dtype)


def unused_share(coupling: Any, variables: Sequence[Any], index: int, shape: Any, dtype: Any) -> Any:
    """Return the fraction of a block that its initial mask cuts."""
    return 1.0 - ops.mean(ops.cast(used_units(coupling, variables, index, shape, "bool"), dtype))
