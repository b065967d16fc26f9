"""Batches whose order is a function of (seed, step), not a state: a resumed run sees what it would have seen."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def training_batches(
    arrays: Sequence[np.ndarray], batch_size: int, seed: int, first_step: int = 0, prepare: Callable | None = None
) -> tf.data.Dataset:
    """Return endless batches: the records in one random order after the other, cut into pieces of ``batch_size``.

    The order of epoch ``e`` is a stateless permutation by (seed, e), and batch ``t`` holds positions
    ``t * batch_size`` and following of the orders laid end to end; so a batch may reach over the end of an epoch,
    every record is seen equally often, and a data set smaller than a batch works.

    Args:
        arrays: tuple of arrays of equal length n > 0; kept in memory once, gathered from for every batch.
        batch_size: records in a batch.
        seed: int, of the order.
        first_step: the step that the first batch belongs to.
        prepare: function of the gathered tensors, run in the pipeline; its result is the batch.

    Returns:
        ``tf.data.Dataset`` without end, of fixed batch size.
    """
    count = len(arrays[0])
    first_epoch, offset = divmod(first_step * batch_size, count)

    def order_of(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=(tf.cast(seed, tf.int64), epoch))
        return order[tf.where(epoch == first_epoch, offset, 0) :]

    positions = tf.data.Dataset.counter(first_epoch).map(order_of).rebatch(batch_size)
    return _gathered(positions, arrays, prepare)


def evaluation_batches(
    arrays: Sequence[np.ndarray], batch_size: int, prepare: Callable | None = None
) -> tf.data.Dataset:
    """Return the records once, in order; the last batch may be smaller.

    Args: see `training_batches`.
    """
    return _gathered(tf.data.Dataset.range(len(arrays[0])).batch(batch_size), arrays, prepare)


def scaled(images: Any, *others: Any) -> tuple:
    """Scale bytes to float32 in [0, 1]: the only preparation in the randomisation experiments."""
    return tf.cast(images, tf.float32) / 255.0, *others


def _gathered(positions, arrays, prepare):
    tensors = tuple(tf.constant(array) for array in arrays)

    def gather(index):
        batch = tuple(tf.gather(tensor, index) for tensor in tensors)
        return prepare(*batch) if prepare else batch

    return positions.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
