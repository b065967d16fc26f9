"""Partly random labels: the randomisation test of Zhang et al. 2017 (arXiv 1611.03530)."""

from typing import Any

import numpy as np

from tf_robustcomp.utils.errors import InvalidArgument

CIFAR10_RECORDS = 50_000


def random_labels(
    labels: Any, proportion: float, seed: int = 42, num_classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a fraction of the labels by uniform random ones, as Zhou et al. 2018 (arXiv 1804.05862) did.

    One ``RandomState(seed)`` gives first the random labels, then the draws; record ``i`` is redrawn where
    ``draw_i <= proportion``.  So the noisy sets are nested in ``proportion``, and a random label may equal the true
    one.  For fewer than 50,000 records the first ones of 50,000 are used, so a subset has the labels that the whole
    set gives it.

    Args:
        labels: integers (n,) in [0, num_classes), in the order of the records.
        proportion: in [0, 1].
        seed: int in [0, 2^32).
        num_classes: number of classes.

    Returns:
        ``(noisy, redrawn)``: labels (n,) of the input's dtype; bool (n,), which records were redrawn.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> noisy, redrawn = rc.random_labels(labels, 0.3, seed=0)
        >>> bool(np.all(noisy[~redrawn] == labels[~redrawn]))
        True
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidArgument(f"labels must be integers (n,). Received: {labels.dtype} of shape {labels.shape}")
    if not 0.0 <= proportion <= 1.0:
        raise InvalidArgument(f"proportion must lie in [0, 1]. Received: proportion={proportion}")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise InvalidArgument(f"labels must lie in [0, {num_classes}). Received: {labels.min()} to {labels.max()}")
    if not 0 <= seed < 2**32:
        raise InvalidArgument(f"seed must lie in [0, 2^32). Received: seed={seed}")
    drawn = max(len(labels), CIFAR10_RECORDS)
    rng = np.random.RandomState(seed)
    replacements = rng.randint(num_classes, size=drawn)[: len(labels)]
    redrawn = rng.random_sample(size=drawn)[: len(labels)] <= proportion
    return np.where(redrawn, replacements, labels).astype(labels.dtype), redrawn
