"""Integers of any size as one stack, each with one of several tables.

A table holds the symbols from -reach to reach.  Its two ends stand for everything beyond: how far follows uniformly in
16 bits.  The stack takes the symbols group by group, a group being those of one table, so that the coder is called once
for each table however many symbols there are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.coding import tables
from tf_robustcomp.utils.errors import DataError

BEYOND = 2**16  # how far an integer may be beyond the reach of its table


class Stack:
    """Collects groups of integers in the order in which they are decoded, then codes them."""

    def __init__(self) -> None:
        self._steps: list[tuple[np.ndarray, Any]] = []

    def add(self, values: np.ndarray, index: np.ndarray, rows: Sequence[np.ndarray]) -> None:
        """Add integers (n,), each with the table ``rows[index]``."""
        order, groups = _groups(index)
        values = values[order]
        for number, part in groups:
            row = rows[number]
            reach = len(row) // 2
            cut = np.clip(values[part], -reach, reach)
            self._steps.append(((cut + reach).astype(np.int32), tables.categorical(row)))
            beyond = np.abs(values[part])[np.abs(cut) == reach] - reach
            if len(beyond):
                self._steps.append((np.minimum(beyond, BEYOND - 1).astype(np.int32), tables.uniform(BEYOND)))

    def to_bytes(self, least: float) -> bytes:
        """Return the code, at least as long as `tables.check_count` asks for ``least`` bits."""
        coder = tables.encoder()
        for symbols, model in reversed(self._steps):
            coder.encode_reverse(symbols, model)
        return tables.stack_bytes(coder, 1, least)


def clipped(values: np.ndarray, index: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the integers as a `Stack` gives them back: nothing but what is beyond 2^16 changes."""
    reach = np.array([len(row) // 2 for row in rows])[index]
    return np.clip(values, -reach - BEYOND + 1, reach + BEYOND - 1)


def take(coder: Any, index: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the next integers (n,) of a decoder, int32, each with the table ``rows[index]``."""
    order, groups = _groups(index)
    found = np.empty(len(index), np.int32)
    for number, part in groups:
        row = rows[number]
        reach = len(row) // 2
        values = coder.decode(tables.categorical(row), part.stop - part.start) - reach
        ends = np.abs(values) == reach
        if ends.any():
            values[ends] += np.sign(values[ends]) * coder.decode(tables.uniform(BEYOND), int(ends.sum()))
        found[part] = values
    result = np.empty_like(found)
    result[order] = found
    return result


def ideal_bits(values: np.ndarray, index: np.ndarray, rows: Sequence[np.ndarray]) -> float:
    """Return the bits that a `Stack` of integers (n,) ideally takes."""
    order, groups = _groups(index)
    values, total = values[order].astype(np.int64), 0.0
    for number, part in groups:
        row = rows[number]
        reach = len(row) // 2
        cut = np.clip(values[part], -reach, reach)
        total += float(-np.log2(row[cut + reach] / tables.TOTAL).sum()) + 16.0 * float(np.sum(np.abs(cut) == reach))
    return total


def edges(reach: int) -> np.ndarray:
    """Return the borders between neighbouring symbols from -reach to reach, float64 (2 reach,)."""
    return np.arange(-reach, reach) + 0.5


def table(cumulative: np.ndarray) -> np.ndarray:
    """Return the integer table of the symbols between `edges` from a distribution's cumulative there."""
    return spread(np.diff(np.concatenate([[0.0], cumulative, [1.0]])))


def spread(weights: np.ndarray) -> np.ndarray:
    """Return integers of sum 2^16, at least 1, in proportion to weights (n,)."""
    share = (tables.TOTAL - len(weights)) * np.maximum(weights, 0) / np.maximum(weights, 0).sum()
    # What is left goes to the largest rests.
    row = 1 + np.floor(share).astype(np.int64)
    row[np.argsort(np.floor(share) - share, kind="stable")[: tables.TOTAL - row.sum()]] += 1
    return row


def check_rows(rows: Sequence[np.ndarray]) -> None:
    """Raise DataError where tables from a file are none: of odd length, positive, with a sum of 2^16."""
    if any(len(row) % 2 == 0 or row.min() < 1 or row.sum() != tables.TOTAL for row in rows):
        raise DataError("the tables of the model are missing or damaged")


def _groups(index):
    """The order that sorts by table, and for each table that occurs its slice."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index)
    ends = np.cumsum(counts)
    return order, [(int(n), slice(int(ends[n] - counts[n]), int(ends[n]))) for n in np.flatnonzero(counts)]
