"""Methods of pruning without training: magnitude, Wanda, SparseGPT."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.pruning import patterns
from tf_robustcomp.pruning.kernels import Kernel
from tf_robustcomp.utils.checks import check_at_least, check_positive
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register, variants


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


def _ranks(scores, axis):
    """The rank of each score along an axis; of equal ones the first is lowest."""
    return np.argsort(np.argsort(scores, axis=axis, kind="stable"), axis=axis, kind="stable")
