"""Bounds on a network's error from the length of its code, and on the length from the error.

All bounds hold with probability 1 - delta over n independent examples, for all networks of one prefix-free language at
once; the language must be fixed before the examples are seen.  See docs/bounds.md.
"""

import math
from collections.abc import Callable

import numpy as np

from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument

KINDS = ("occam", "binomial", "catoni", "langford-seeger")
CATONI_GRID = 1e-4  # ratio, less 1, of the grid over lambda
HALVINGS = 100


def kl(q: float, p: float) -> float:
    """Return q ln(q/p) + (1-q) ln((1-q)/(1-p)), the relative entropy of two coins in nats.

    Args:
        q, p: floats in [0, 1], the probabilities of heads.
    """
    return sum(a * math.log(a / b) if b else math.inf for a, b in ((q, p), (1 - q, 1 - p)) if a)


def kl_inverse(q: float, c: float) -> float:
    """Return the largest p with kl(q || p) <= c.

    Args:
        q: float in [0, 1].
        c: float >= 0, nats.
    """
    return _last(lambda p: kl(q, p) <= c, q, 1.0)


def generalization_bound(
    training_error: float, bits: float, examples: int, delta: float = 0.05, kind: str = "occam"
) -> float:
    """Return what the true error of a network does not exceed, with probability 1 - delta.

    - "occam": kl^-1(training error, (l ln 2 + ln(1/delta)) / n): Chernoff's bound for each network at level
      delta 2^-l, and Kraft's inequality.
    - "binomial": the same with the binomial tail itself (Langford 2005): the p with P[Bin(n, p) <= errors] =
      delta 2^-l; the least that such a proof gives.
    - "catoni": Catoni 2007 with a union over lambda, as in Zhou et al. 2018 (arXiv 1804.05862).
    - "langford-seeger": kl^-1(training error, (l ln 2 + ln(2 sqrt(n) / delta)) / n) (Langford, Seeger, Maurer 2004),
      for randomised networks: ``bits`` is then the divergence of posterior from prior, in bits; n >= 8.

    Args:
        training_error: float in [0, 1], fraction of the n examples.
        bits: float >= 0, length l of the network's code.
        examples: int >= 1, n.
        delta: float in (0, 1), probability with which the bound may fail.
        kind: one of the above.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> round(rc.generalization_bound(0.0415, 4574, 60000), 4)
        0.1393
    """
    _check(training_error=training_error)
    n = _check_examples(examples, delta)
    if not 0 <= bits < math.inf:
        raise InvalidArgument(f"bits must be a number >= 0. Received: bits={bits}")
    check_choice("kind", kind, KINDS)
    nats = bits * math.log(2)
    if kind == "occam":
        return kl_inverse(training_error, (nats - math.log(delta)) / n)
    if kind == "binomial":
        return _binomial_tail_inverse(training_error, nats - math.log(delta), n)
    if kind == "catoni":
        return _catoni(training_error, nats - math.log(delta), n)
    check_at_least("examples, for langford-seeger,", n, 8)
    return kl_inverse(training_error, (nats + math.log(2 * math.sqrt(n) / delta)) / n)


def least_bits(training_error: float, true_error: float, examples: int, delta: float = 0.05) -> float:
    """Return the bits that every code of a network of such errors takes, with probability 1 - delta.

    The inverse of the bound: (n kl(q || p) - ln(1/delta)) / ln 2, for training error q below the true error p, else 0.
    Labels drawn at random from 10 classes have p = 0.9 exactly, whatever the network.

    Args:
        training_error, true_error: floats in [0, 1].
        examples: int >= 1, n.
        delta: float in (0, 1).

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> round(rc.least_bits(0.0, 0.9, 50000))
        166092
    """
    _check(training_error=training_error, true_error=true_error)
    n = _check_examples(examples, delta)
    if training_error >= true_error:
        return 0.0
    return max(0.0, (n * kl(training_error, true_error) + math.log(delta)) / math.log(2))


def _check(**fractions):
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise InvalidArgument(f"{name} must lie in [0, 1]. Received: {name}={value}")


def _check_examples(examples, delta):
    if not 0 < delta < 1:
        raise InvalidArgument(f"delta must lie in (0, 1). Received: delta={delta}")
    return check_at_least("examples", examples, 1)


def _last(holds: Callable, low: float, high: float) -> float:
    """The last place at which a condition holds that holds at ``low`` and, once broken, stays so."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high  # the safe side


def _binomial_tail_inverse(q, nats, n):
    errors = math.ceil(q * n - 1e-6)
    if errors >= n:
        return 1.0
    i = np.arange(1, errors + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])
    i = np.arange(errors + 1)

    def holds(p):
        if not 0 < p < 1:
            return p == 0
        terms = log_choose + i * math.log(p) + (n - i) * math.log1p(-p)
        top = terms.max()
        return top + math.log(np.exp(terms - top).sum()) >= -nats

    return _last(holds, errors / n, 1.0)


def _catoni(q, nats, n):
    def bound(log_scale):
        scale = math.exp(log_scale)
        union = 2 * math.log(2 + log_scale / math.log1p(CATONI_GRID))
        inside = q + (1 + CATONI_GRID) / scale * (nats + union)
        return math.expm1(-scale / n * inside) / math.expm1(-scale / n)

    low, high = 1e-9, math.log(1000.0 * n)
    for _ in range(HALVINGS):  # golden-section search
        a, b = high - (high - low) / 1.618034, low + (high - low) / 1.618034
        low, high = (low, b) if bound(a) <= bound(b) else (a, high)
    return min(1.0, bound((low + high) / 2))
