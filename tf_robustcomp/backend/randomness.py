"""Randomness as a function of (seed, step): no state to save, the same after a resume and on every replica."""

import zlib
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend import keras_private


class StepSeed(keras.random.SeedGenerator):
    """Seed for ``keras.random`` functions that depends on a step counter only.

    ``keras.random.SeedGenerator`` keeps a counter that must be saved and kept equal over replicas.  Here the counter
    is one that already exists, such as ``optimizer.iterations``, which may be a tensor inside a traced function.

    Args:
        seed: int, which stream of random numbers.
        step: int or scalar integer tensor, the position in it.
        number: int or scalar integer tensor, which of several streams that belong to one seed.
    """

    def __init__(
        self, seed: Any, step: Any, number: Any = 0
    ) -> None:  # no super().__init__: it would create the state that this does without
        self.seed = seed
        self.step = step
        self.number = number

    def next(self, ordered: bool = True) -> Any:
        """Return an integer tensor (2,), the seed and the step, as the backend's random functions take them."""
        dtype = keras_private.random_seed_dtype()
        seed, step, number = (ops.cast(value, dtype) for value in (self.seed, self.step, self.number))
        return ops.stack([seed + ops.cast(7919, dtype) * number, step])


def step_seed(purpose: str, seed: int, step: Any) -> StepSeed:
    """Return a seed for keras.random: a separate stream for each purpose (a name) and seed, at the given step."""
    return StepSeed(zlib.crc32(f"{purpose} {seed}".encode()) >> 1, step)  # seeds are int32 on some backends
