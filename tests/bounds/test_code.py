import itertools

import numpy as np
import pytest

from tf_robustcomp.bounds import code
from tf_robustcomp.coding import tables
from tf_robustcomp.utils.errors import DataError


def content_of(tensors, levels=31, numbers=()):
    writer = code.Writer()
    for value, choices in numbers:
        writer.number("header", value, choices)
    for values, step in tensors:
        writer.tensor(np.asarray(values), step, levels)
    return writer, writer.content()


def test_numbers_and_tensors_come_back(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 2, 4), (7,), (1,), (300,), (2, 5)]
    tensors = [(np.clip(np.round(rng.laplace(0, scale, shape)), -15, 15).astype(int), 10 + i)
               for i, (shape, scale) in enumerate(zip(shapes, (0.2, 1, 9, 2, 0), strict=True))]  # fmt: skip
    writer, content = content_of(tensors, numbers=[(5, 6), (0, 1), (65535, 65536)])
    bits = code.write(tmp_path / "a", content)
    body, checks, read_bits = code.read(tmp_path / "a")
    assert checks == b"" and bits == read_bits == 8 * len(content) == 8 * (tmp_path / "a").stat().st_size - 32
    with tables.decoder(body, DataError) as coder:
        unpacker = code.Unpacker(coder)
        assert [unpacker.number(n) for n in (6, 1, 65536)] == [5, 0, 65535]
        for values, step in tensors:
            found, found_step = unpacker.tensor(values.shape, 31)
            np.testing.assert_array_equal(found, values)
            assert found_step == (step if values.any() else code.ZERO_STEP)
    assert sum(writer.parts.values()) <= bits <= sum(writer.parts.values()) + 16 + 40


def test_values_take_about_their_entropy():
    rng = np.random.default_rng(1)
    values = np.clip(np.round(rng.laplace(0, 1.5, 20000)), -15, 15).astype(int)
    _, counts = np.unique(values, return_counts=True)
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    _, content = content_of([(values, 3)])
    assert entropy < 8 * len(content) < 1.005 * entropy + 200
    _, content = content_of([(np.where(values > 0, 15, -7), 3)])  # far from the table that it begins with
    assert 8 * len(content) < 1.02 * 20000 + 300


def test_krafts_inequality_holds_over_every_network_of_a_toy_language():
    """All tensors of 3 integers in {-1, 0, 1} with each 16th step size; none begins another, and 2^-l sum to <= 1."""
    contents = {
        content_of([(np.array(values), step)], levels=3)[1]
        for values in itertools.product((-1, 0, 1), repeat=3)
        for step in range(0, len(code.STEPS), 16)
    }
    assert len(contents) == 26 * len(code.STEPS) // 16 + 1  # the step size of zeros is not coded
    assert sum(2.0 ** (-8 * len(content)) for content in contents) <= 1
    ordered = sorted(contents)
    assert not any(after.startswith(before) for before, after in itertools.pairwise(ordered))


def test_lengths_are_prefix_free():
    lengths = [code._length(size) for size in (*range(300), 2**14 - 1, 2**14, 2**21)]
    assert len(set(lengths)) == len(lengths)
    assert not any(b.startswith(a) for a, b in itertools.permutations(lengths, 2))


def test_every_table_is_one_of_positive_integers():
    symbols = np.zeros(5000, int)
    for ratio, levels in itertools.product(code.RATIOS, (3, 31, 255)):
        for _, row in code._adaptive(ratio, levels, 5000, lambda rows: symbols[rows]):
            assert row.min() >= 1 and row.sum() == tables.TOTAL


def test_step_sizes_are_exact():
    assert code.STEPS[code.ZERO_STEP] == 1.0
    mantissas, _ = np.frexp(code.STEPS)
    assert set(mantissas * 128) == set(range(64, 128))
    np.testing.assert_array_equal(code.STEPS, np.sort(code.STEPS))


@pytest.mark.parametrize("change", ["empty", "cut", "longer", "flipped", "other", "missing"])
def test_a_damaged_file_is_one_line(tmp_path, change):
    path = tmp_path / "a.rcnb"
    _, content = content_of([(np.arange(-5, 5), 9)])
    code.write(path, content)
    data = bytearray(path.read_bytes())
    if change == "missing":
        path.unlink()
    else:
        flipped = bytes([*data[:3], data[3] ^ 4, *data[4:]])
        path.write_bytes(
            {"empty": b"", "cut": data[:-1], "longer": data + b"x", "flipped": flipped, "other": b"\xff" * 90}[change]
        )
    with pytest.raises(DataError, match="a.rcnb") as caught:
        code.read(path)
    assert "\n" not in str(caught.value)


def test_no_single_flipped_bit_passes(tmp_path):
    path = tmp_path / "a"
    _, content = content_of([(np.arange(-5, 5), 9)])
    code.write(path, content)
    data = path.read_bytes()
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(DataError):
            code.read(path)
