"""An upper bound on the worst case of an image for an encoder that takes the nearest of a list of codewords.

With codewords s_i, weights w on the simplex and price gamma, for every image y in [0, 1]^p

    min_i ||y - s_i||^2 - gamma ||y - x||^2  <=  sum_i w_i ||y - s_i||^2 - gamma ||y - x||^2
                                              =  v + sum over pixels of (y - m)^2 - gamma (y - x)^2,

where m = sum_i w_i s_i and v = sum_i w_i ||s_i||^2 - ||m||^2.  The pixels part, so the maximum over the box is known:
at clip(x + (x - m) / (gamma - 1), 0, 1) for gamma > 1, and at the better of 0 and 1 otherwise.  Every w gives a valid
bound.  It is convex in w, and its slope in w_i is ||y - s_i||^2 at the maximiser y (Danskin 1967).  For gamma > 1 the
left side is concave in y, so the best w closes the gap, and the maximiser is the worst image for that list.
"""

from typing import NamedTuple

import numpy as np

HALVINGS = 12  # of the interval in which the step along a direction is searched


class Bound(NamedTuple):
    """A bound for each image, and the image that attains it for the weights found.

    Attributes:
        value: (n,), at least the maximum over y of min_i ||y - s_i||^2 - penalty.
        worst: (n, p), maximiser for these weights.
        weights: (n, k), on the simplex.
    """

    value: np.ndarray
    worst: np.ndarray
    weights: np.ndarray


def wasserstein_bound(x: np.ndarray, codewords: np.ndarray, gamma: float, iterations: int = 15) -> Bound:
    """Return the bound for the penalty gamma ||y - x||^2, over y in [0, 1]^p.

    Args:
        x: images (n, p).
        codewords: (n, k, p), some codewords of the list for each image.
        gamma: price >= 0.
        iterations: int >= 0, steps of Frank and Wolfe (1956), each moving weight from the codeword that is furthest
            from the maximiser to the nearest one.
    """

    def maximiser(mean):
        if gamma > 1:
            return np.clip(x + (x - mean) / (gamma - 1), 0, 1)
        ends = [(end - mean) ** 2 - gamma * (end - x) ** 2 for end in (0.0, 1.0)]
        return (ends[1] > ends[0]).astype(x.dtype)

    return _bound(x, codewords, maximiser, lambda y: gamma * _squares(y - x), iterations)


def linf_bound(x: np.ndarray, codewords: np.ndarray, epsilon: float, iterations: int = 15) -> Bound:
    """Return the bound on min_i ||y - s_i||^2 over y in [0, 1]^p with no pixel further than epsilon from x."""
    low, high = np.clip(x - epsilon, 0, 1), np.clip(x + epsilon, 0, 1)

    def maximiser(mean):
        return np.where((high - mean) ** 2 > (low - mean) ** 2, high, low)

    return _bound(x, codewords, maximiser, lambda y: 0.0, iterations)


def _bound(x, codewords, maximiser, penalty, iterations):
    x, codewords = x.astype(np.float64), codewords.astype(np.float64)
    norms = _squares(codewords)
    rows = np.arange(len(x))
    weights = np.zeros(codewords.shape[:2])
    weights[rows, _slopes(x, codewords, norms).argmin(axis=1)] = 1  # the nearest codeword
    mean = np.einsum("nk,nkp->np", weights, codewords)
    best = Bound(np.full(len(x), np.inf), x, weights)
    for iteration in range(iterations + 1):
        worst = maximiser(mean)
        slopes = _slopes(worst, codewords, norms)
        value = np.sum(weights * slopes, axis=1) - penalty(worst)
        lower = value < best.value
        best = Bound(
            np.where(lower, value, best.value),
            np.where(lower[:, None], worst, best.worst),
            np.where(lower[:, None], weights, best.weights),
        )
        if iteration == iterations:
            break
        near = slopes.argmin(axis=1)
        far = np.where(weights > 0, slopes, -np.inf).argmax(axis=1)
        direction = codewords[rows, near] - codewords[rows, far]
        step = _step(maximiser, mean, direction, norms[rows, near] - norms[rows, far], weights[rows, far])
        weights = weights.copy()
        weights[rows, near] += step
        weights[rows, far] = np.maximum(weights[rows, far] - step, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = np.einsum("nk,nkp->np", weights, codewords)
    return best


def _step(maximiser, mean, direction, norms, most):
    """The weight (n,) to move, found by bisection: the slope of a convex function rises."""
    low, high = np.zeros(len(mean)), most.copy()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        worst = maximiser(mean + middle[:, None] * direction)
        rising = norms - 2 * np.einsum("np,np->n", worst, direction) > 0  # ||y - near||^2 - ||y - far||^2
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    return (low + high) / 2


def _slopes(y, codewords, norms):
    """||y - s_i||^2 (n, k)."""
    products = np.matmul(codewords, y[:, :, None])[:, :, 0]
    return _squares(y)[:, None] - 2 * products + norms


def _squares(values):
    return np.einsum("...p,...p->...", values, values)
