import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_robustcomp.compressors import radix
from tf_robustcomp.errors import BitstreamError


@settings(deadline=None, max_examples=150)
@given(st.integers(2, 300), st.integers(0, 200), st.integers(0, 2**32))
def test_packing_is_the_number_in_base_l(levels, count, seed):
    symbols = np.random.default_rng(seed).integers(0, levels, count)
    number = sum(int(symbol) * levels**place for place, symbol in enumerate(symbols))
    data = radix.pack(symbols, levels)
    assert int.from_bytes(data, "little") == number
    assert radix.size_bits(count, levels) == (math.ceil(count * math.log2(levels) - 1e-9) if count else 0)
    assert len(data) == -(-radix.size_bits(count, levels) // 8)
    np.testing.assert_array_equal(radix.unpack(data, count, levels), symbols)


def test_a_thousand_images_take_the_bits_of_the_formula(rng):
    symbols = rng.integers(0, 12, 10_000)
    assert radix.size_bits(10_000, 12) == math.ceil(10_000 * math.log2(12))
    np.testing.assert_array_equal(radix.unpack(radix.pack(symbols, 12), 10_000, 12), symbols)


@pytest.mark.parametrize("levels", [2, 3, 12, 256, 1000])
def test_numbers_out_of_range_and_wrong_sizes_are_refused(levels):
    data = radix.pack(np.full(9, levels - 1), levels)
    above = (int.from_bytes(data, "little") + 1).to_bytes(len(data) + 1, "little")
    for wrong in (above[: len(data)], data + b"\0", data[:-1], b""):
        if wrong == above[: len(data)] and levels in (2, 256) and above[len(data)]:
            continue  # all bytes are taken: the next number wraps round
        with pytest.raises(BitstreamError):
            radix.unpack(wrong, 9, levels)


def test_a_forged_count_asks_for_no_memory():
    with pytest.raises(BitstreamError, match="cannot hold"):
        radix.unpack(b"12345678", 2**60, 12)
