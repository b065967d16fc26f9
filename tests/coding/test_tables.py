"""The coder of integers: exact, near the ideal length, and safe on bytes from anywhere."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_robustcomp.coding import tables
from tf_robustcomp.utils.errors import BitstreamError


@settings(deadline=None, max_examples=150)
@given(st.integers(2, 300), st.integers(0, 200), st.integers(0, 2**32))
def test_uniform_symbols_come_back_in_the_bits_of_the_formula(levels, count, seed):
    symbols = np.random.default_rng(seed).integers(0, levels, count)
    data = tables.encode_uniform(symbols, levels)
    ideal = count * math.log2(levels)
    assert ideal - 1e-6 <= 8 * len(data) + 32 and 8 * len(data) <= 1.001 * ideal + 40
    np.testing.assert_array_equal(tables.decode_uniform(data, count, levels, BitstreamError), symbols)


@pytest.mark.parametrize("levels", [2, 3, 12, 255, 256])
@pytest.mark.parametrize("symbol", [0, 1, -1])
@pytest.mark.parametrize("run", [1, 20, 64, 4000])
def test_runs_of_one_symbol_come_back_wherever_they_stand(levels, symbol, run, rng):
    same = np.full(run, symbol % levels)
    other = rng.integers(0, levels, 50)
    for symbols in (same, np.concatenate([other, same]), np.concatenate([same, other])):
        data = tables.encode_uniform(symbols, levels)
        np.testing.assert_array_equal(tables.decode_uniform(data, len(symbols), levels, BitstreamError), symbols)
        with pytest.raises(BitstreamError):
            tables.decode_uniform(data, 3 * len(symbols) + 200, levels, BitstreamError)


def test_ten_thousand_symbols_of_twelve_levels_cost_at_most_a_word_more_than_ideal(rng):
    data = tables.encode_uniform(rng.integers(0, 12, 10_000), 12)
    assert 10_000 * math.log2(12) <= 8 * len(data) <= 10_000 * math.log2(12) + 40


@pytest.mark.parametrize("levels", [2, 12, 256])
def test_a_wrong_count_is_an_error_and_a_forged_one_takes_no_memory(levels, rng):
    data = tables.encode_uniform(rng.integers(0, levels, 1000), levels)
    for count in (0, 500, 1500, 2**31 - 1):
        with pytest.raises(BitstreamError):
            tables.decode_uniform(data, count, levels, BitstreamError)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=256).filter(any))
def test_a_table_sums_to_its_total_and_keeps_what_occurs(counts):
    table = tables.integer_table(np.array([counts]))[0]
    assert table.sum() == tables.TOTAL
    np.testing.assert_array_equal(table > 0, np.array(counts) > 0)


def test_inflated_bytes_are_limited_and_whole():
    error = BitstreamError("no")
    data = zlib.compress(b"a" * 1000, 9)
    assert tables.inflate(data, error) == tables.inflate(data, error, most=1000) == b"a" * 1000
    for bad in (data[:-1], data + b"x", b"none"):
        with pytest.raises(BitstreamError):
            tables.inflate(bad, error)
    with pytest.raises(BitstreamError):
        tables.inflate(data, error, most=999)
