import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_robustcomp.coding import entropy_model as entropy
from tf_robustcomp.coding.entropy_model import TOTAL, EntropyModel
from tf_robustcomp.utils.errors import BitstreamError, InvalidArgument

LEVELS = 6


def markov(rng, count, width=4, stay=0.8):
    """Latent 2 repeats latent 0, with noise; the others are independent and skewed."""
    symbols = np.minimum(rng.geometric(0.45, (count, width)) - 1, LEVELS - 1)
    same = rng.random(count) < stay
    symbols[:, 2] = np.where(same, symbols[:, 0], symbols[:, 2])
    return symbols.astype(np.int32)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 20), st.integers(1, 60), st.integers(1, 5), st.integers(0, 2), st.integers(0, 2**32))
def test_what_is_encoded_is_decoded(levels, count, width, max_parents, seed):
    rng = np.random.default_rng(seed)
    fitted = rng.integers(0, rng.integers(1, levels + 1), (rng.integers(1, 200), width)).astype(np.int32)
    model = EntropyModel.fit(fitted, levels, max_parents)
    symbols = rng.integers(0, levels, (count, width)).astype(np.int32)  # also those that training never saw
    first = int(rng.integers(0, width))
    data = model.encode(symbols, first)
    np.testing.assert_array_equal(model.decode(data, symbols[:, :first], width), symbols)


def test_tables_are_positive_integers_of_one_sum(rng):
    model = EntropyModel.fit(markov(rng, 500), LEVELS)
    for table in model.tables:
        assert table.dtype == np.int64 and table.min() >= 1
        assert (table.sum(axis=1) == TOTAL).all() and table.max() <= entropy.GREATEST


def test_a_latent_that_never_changes_costs_the_least_that_a_symbol_may(rng):
    symbols = np.full((100_000, 1), 3, np.int32)
    model = EntropyModel.fit(symbols, LEVELS)
    assert entropy.LEAST_BITS <= model.ideal_bits(symbols) / len(symbols) < 1.2 * entropy.LEAST_BITS


def test_without_context_the_cost_is_the_entropy_of_the_histogram(rng):
    symbols = markov(rng, 20_000, stay=0.0)
    model = EntropyModel.fit(symbols, LEVELS)
    bits = 0.0
    for column in symbols.T:
        counts = np.bincount(column, minlength=LEVELS)
        share = counts[counts > 0] / len(column)
        bits -= len(column) * (share * np.log2(share)).sum()
    assert model.parents == [()] * 4
    assert model.ideal_bits(symbols) == pytest.approx(bits, rel=2e-3)


def test_the_latent_that_tells_most_becomes_the_context(rng):
    symbols = markov(rng, 4000)
    model = EntropyModel.fit(symbols, LEVELS)
    assert model.parents == [(), (), (0,), ()]
    alone = EntropyModel.fit(symbols, LEVELS, max_parents=0)
    assert model.ideal_bits(markov(rng, 4000)) < 0.9 * alone.ideal_bits(markov(rng, 4000))


@pytest.mark.parametrize("max_parents", [0, 2])
def test_payload_and_ideal_agree_within_one_per_cent(rng, max_parents):
    model = EntropyModel.fit(markov(rng, 4000), LEVELS, max_parents)
    symbols = markov(rng, 1000, width=4)
    assert 8 * len(model.encode(symbols)) == pytest.approx(model.ideal_bits(symbols), rel=0.01)


def test_arrays_say_it_all(rng):
    model = EntropyModel.fit(markov(rng, 3000), LEVELS)
    arrays = model.to_arrays()
    assert all(array.dtype == np.int32 for array in arrays.values())
    again = EntropyModel.from_arrays(LEVELS, **arrays)
    symbols = markov(rng, 50)
    assert again.parents == model.parents and again.encode(symbols) == model.encode(symbols)


@pytest.mark.parametrize("change", ["sum", "zero", "rows", "later"])
def test_tables_that_are_none_are_refused(change, rng):
    model = EntropyModel.fit(markov(rng, 3000), LEVELS)
    arrays = model.to_arrays()
    if change == "sum":
        arrays["tables"][0, 0] += 1
    elif change == "zero":
        arrays["tables"][0, :2] += [arrays["tables"][0, 1], -arrays["tables"][0, 1]]
    elif change == "rows":
        arrays["tables"] = arrays["tables"][:-1]
    else:
        arrays["parents"][2] = 3
    with pytest.raises(InvalidArgument, match="entropy table"):
        EntropyModel.from_arrays(LEVELS, **arrays)


def test_streams_that_say_more_or_less_are_refused(rng):
    model = EntropyModel.fit(markov(rng, 3000), LEVELS)
    symbols = markov(rng, 40)
    data = model.encode(symbols)
    with pytest.raises(BitstreamError, match="more symbols"):
        model.decode(data + b"abcdefgh", symbols[:, :0], 4)
    with pytest.raises(BitstreamError, match="cannot hold"):
        model.decode(data[:2], np.zeros((10**6, 0), np.int32), 4)


def test_a_symbol_that_is_nearly_certain_comes_back_however_often_it_stands():
    model = EntropyModel(2, [()], [np.array([[65535, 1]])])
    symbols = np.zeros((4_000_000, 1), np.int32)
    data = model.encode(symbols)
    np.testing.assert_array_equal(model.decode(data, symbols[:, :0], 1), symbols)
