"""The code of photographs, and their qualities as integers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tf_robustcomp.utils.errors import InvalidArgument

STEPS = 2**16 - 1  # a quality is a multiple of 1 / STEPS


@dataclasses.dataclass(frozen=True)
class Code:
    """The code of n images of one size.

    Attributes:
        symbols: integers, int32 arrays (n, rows, columns, channels), in the order in which they are decoded.
        size: (height, width) of the images.
        steps: int (n,), the quality of each image as a multiple of 1 / 65535.
    """

    symbols: tuple[np.ndarray, ...]
    size: tuple[int, int]
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator["Code"]:
        """Return the codes of the images, one by one."""
        for number in range(len(self)):
            own = slice(number, number + 1)
            yield Code(tuple(part[own] for part in self.symbols), self.size, self.steps[own])


def quality_steps(quality: Any, count: int) -> np.ndarray:
    """Return qualities as the integers of a stream, int64 (count,); raise InvalidArgument outside of [0, 1]."""
    values = np.broadcast_to(np.asarray(quality, np.float64), (count,))
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InvalidArgument(f"quality must lie in [0, 1]. Received: quality={quality}")
    return np.round(values * STEPS).astype(np.int64)


def coarse(step: np.ndarray) -> np.ndarray:
    """Return qualities as the integers, 0 to 255, that select tables: int (n,) -> float32 (n,)."""
    return ((step * 255 + STEPS // 2) // STEPS).astype(np.float32)
