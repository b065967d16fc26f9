"""Integers of any size with one of several tables each."""

import math

import numpy as np
import pytest

from tf_robustcomp.coding import integer_symbols, tables
from tf_robustcomp.utils.errors import BitstreamError, DataError


def normal_rows(*scales):
    erf = np.vectorize(math.erf)
    return [
        integer_symbols.table(0.5 * (1 + erf(integer_symbols.edges(math.ceil(5 * s) + 1) / s / math.sqrt(2))))
        for s in scales
    ]


def coded(values, index, rows):
    stack = integer_symbols.Stack()
    stack.add(values, index, rows)
    return stack.to_bytes(0.0)


def test_every_table_is_positive_and_sums_to_two_to_the_sixteenth():
    for row in normal_rows(0.11, 1.0, 17.0, 128.0):
        assert row.min() >= 1 and row.sum() == tables.TOTAL
        assert np.array_equal(row, row[::-1]) or abs(row - row[::-1]).max() <= 1


def test_integers_come_back_those_beyond_every_table_too(rng):
    rows = normal_rows(0.2, 3.0, 40.0)
    index = rng.integers(0, 3, 5000)
    values = np.round(rng.normal(size=5000) * np.array([0.2, 3.0, 40.0])[index]).astype(np.int64)
    values[:6] = [0, 500, -500, 60_000, -60_000, len(rows[1]) // 2]
    with tables.decoder(coded(values, index, rows), BitstreamError) as coder:
        found = integer_symbols.take(coder, index, rows)
    assert np.array_equal(found, values)


def test_the_size_is_the_cross_entropy(rng):
    rows = normal_rows(0.5, 8.0)
    index = rng.integers(0, 2, 20_000)
    values = np.round(rng.normal(size=20_000) * np.array([0.5, 8.0])[index]).astype(np.int64)
    probabilities = [rows[i][v + len(rows[i]) // 2] / 2**16 for i, v in zip(index, values, strict=True)]
    bits = -np.log2(probabilities).sum()
    assert integer_symbols.ideal_bits(values, index, rows) == pytest.approx(
        bits + 16 * sum(abs(v) == len(rows[i]) // 2 for i, v in zip(index, values, strict=True))
    )
    assert abs(8 * len(coded(values, index, rows)) - bits) < 0.001 * bits + 64


def test_damaged_tables_are_refused():
    row = normal_rows(1.0)[0]
    for bad in (row[:-1], np.where(row == row.max(), 0, row), row * 2):
        with pytest.raises(DataError, match="tables of the model"):
            integer_symbols.check_rows([row, bad])
