"""Give a model that is pruned while it trains a new schedule."""

from typing import Any

from tf_robustcomp.pruning.optimizer import as_optimizer
from tf_robustcomp.utils.errors import InvalidArgument


def reschedule(model: Any, schedule: Any, distribution: Any = None) -> None:
    """Give a model that a pruning optimizer trains a new schedule; masks, dense weights and all slots go on.

    Steps count on from ``model.optimizer.iterations``.

    Args:
        model: compiled with a pruning optimizer, such as a loaded one.
        schedule: the new one.
        distribution: the new one; None keeps that of before.

    Raises:
        InvalidArgument: no optimizer of this package prunes the model, or an argument breaks its rule; nothing changes.

    Example:
        >>> model.compile(rc.MagnitudePruning("adam", rc.PolynomialDecay(0.0, 0.5, 0, 100)), loss)
        >>> model.fit(images, labels)
        >>> model.save("sparse.keras")
        >>> model = rc.load_model("sparse.keras")
        >>> now = int(model.optimizer.iterations)
        >>> rc.reschedule(model, rc.PolynomialDecay(0.5, 0.9, now, now + 10_000))
    """
    optimizer = as_optimizer(getattr(model, "optimizer", None))
    if optimizer is None:
        raise InvalidArgument("model must be compiled with a pruning optimizer. Received: none")
    optimizer.reschedule(schedule, distribution)
    if getattr(model, "train_function", None) is not None:  # a trace of it holds the old schedule
        model.make_train_function(force=True)
