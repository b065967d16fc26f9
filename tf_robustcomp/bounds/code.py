"""A prefix-free code for tensors of integers and step sizes, from which a network's weights follow.

::

    length of the rest in bytes, 7 bits a byte, the highest bit says that there are more
    a stack of asymmetric numeral systems (constriction) that holds numbers of a known range, all equally likely,
        and tensors of integers by an adaptive table
    checksums, which follow from the above, or from what was fixed before: not part of the code

Whoever reads knows from the length where the code ends, so no code is the beginning of another one.  Tables are made of
integers alone, and are the same on every machine.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import constriction
import numpy as np

from tf_robustcomp.coding import tables
from tf_robustcomp.coding.sparse_tensors import Reader
from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import DataError

# Step sizes: (64 + m) / 64 2^e, exact in float32, so that k s is the same number everywhere.  They are close: where one
# gives way to the next while training, all weights of a tensor move.
PER_OCTAVE = 64
STEPS = np.array([(1 + m / PER_OCTAVE) * 2.0**e for e in range(-12, 4) for m in range(PER_OCTAVE)], np.float32)
ZERO_STEP = 12 * PER_OCTAVE  # place of step size 1
# Scales of the discrete Laplace distribution with which the adaptive table begins: 1024 t, P(k) ~ t^abs(k).  They are
# those of mean magnitudes 0.016 * 1.6^i.
RATIOS = (8, 13, 21, 34, 54, 85, 135, 211, 318, 453, 596, 723, 822, 892, 939)
PRIOR = 12  # weight of the beginning table, in symbols
BLOCKS = 32  # the table follows each t-th part of this of the symbols so far; 1 symbol at first
CHECKSUM = 4


class Writer:
    """Collects what a code holds, first to last; each is counted under the name of a part.

    Attributes:
        parts: name -> ideal bits.
    """

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._held: list[tuple[np.ndarray, Any]] = []

    def number(self, part: str, value: int, choices: int) -> None:
        """Add a number, 0 to ``choices`` - 1."""
        self.numbers(part, np.array([value]), choices)

    def numbers(self, part: str, values: np.ndarray, choices: int) -> None:
        """Add numbers (n,), each 0 to ``choices`` - 1."""
        if choices > 1 and len(values):
            self._add(part, len(values) * np.log2(choices))
            self._held.append((values.astype(np.int32), constriction.stream.model.Uniform(choices)))

    def tensor(self, values: np.ndarray, step: int, levels: int) -> None:
        """Add integers of any shape about 0, and the place of their step size; of zeros alone only that they are."""
        symbols = values.ravel() + levels // 2
        lengths = [_ideal_bits(symbols, ratio, levels) for ratio in RATIOS] if values.any() else [0.0]
        scale = int(np.argmin(lengths)) + 1 if values.any() else 0
        self.number("scales", scale, len(RATIOS) + 1)
        if scale:
            self.number("step sizes", step, len(STEPS))
            self._add("values", lengths[scale - 1])
            for rows, row in _adaptive(RATIOS[scale - 1], levels, symbols.size, lambda rows: symbols[rows]):
                self._held.append((symbols[rows].astype(np.int32), tables.categorical(row)))

    def content(self) -> bytes:
        """Return the code, its length before it."""
        coder = tables.encoder()
        for symbols, model in reversed(self._held):
            coder.encode_reverse(symbols, model)
        body = tables.stack_bytes(coder)
        return _length(len(body)) + body

    def _add(self, part, bits):
        self.parts[part] = self.parts.get(part, 0.0) + float(bits)


class Unpacker:
    """Takes the contents of a code, in the order in which they were added.

    Args:
        coder: constriction's stack.
    """

    def __init__(self, coder: Any) -> None:
        self._coder = coder

    def number(self, choices: int) -> int:
        """Return the next number."""
        return int(self.numbers(1, choices)[0])

    def numbers(self, count: int, choices: int) -> np.ndarray:
        """Return the next numbers (count,)."""
        if choices <= 1 or not count:
            return np.zeros(count, np.int64)
        return self._coder.decode(constriction.stream.model.Uniform(choices), count).astype(np.int64)

    def tensor(self, shape: tuple, levels: int) -> tuple[np.ndarray, int]:
        """Return the integers of the next tensor, and the place of its step size (that of 1 for zeros)."""
        size = int(np.prod(shape))
        scale = self.number(len(RATIOS) + 1)
        if not scale:
            return np.zeros(shape, np.int64), ZERO_STEP
        step, symbols = self.number(len(STEPS)), np.zeros(size, np.int64)

        def known(rows):
            return symbols[rows]

        for rows, row in _adaptive(RATIOS[scale - 1], levels, size, known):
            symbols[rows] = self._coder.decode(tables.categorical(row), rows.stop - rows.start)
        return (symbols - levels // 2).reshape(shape), step


def write(path: str | Path, content: bytes, checks: bytes = b"") -> int:
    """Write a code's file, checksums after it; return the bits that count.

    Args:
        path: of the file.
        content: of `Writer.content`.
        checks: further checksums, of what was fixed before.
    """
    with files.replacing(path) as temporary:
        Path(temporary).write_bytes(content + checks + zlib.crc32(content + checks).to_bytes(CHECKSUM, "little"))
    return 8 * len(content)


def read(path: str | Path) -> tuple[bytes, bytes, int]:
    """Return the body of a code's file, its further checksums, and the bits that count.

    Raises:
        DataError: it is missing, cut, damaged or no such file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        reader = Reader(data)
        size, shift, byte = 0, 0, 128
        while byte & 128 and shift < 35:
            byte = reader.take(1)[0]
            size, shift = size | (byte & 127) << shift, shift + 7
        body = reader.take(size)
        bits, checks = 8 * reader.at, data[reader.at : -CHECKSUM]
        reader.take(CHECKSUM)
    except DataError as error:
        raise DataError(f"{path}: not the code of a network, or {error}") from None
    if zlib.crc32(data[:-CHECKSUM]) != int.from_bytes(data[-CHECKSUM:], "little"):
        raise DataError(f"{path}: not the code of a network, or damaged: its checksum is wrong")
    return body, checks, bits


def _length(size):
    """Bytes of an integer, 7 bits each; no such code is the beginning of another one."""
    low, rest = size & 127, size >> 7
    return bytes([low | 128]) + _length(rest) if rest else bytes([low])


def _adaptive(ratio, levels, size, known) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of a flat tensor, and the integer table for them that follows from the rows before."""
    distance = np.abs(np.arange(levels) - levels // 2)
    powers = [tables.TOTAL]
    for _ in range(levels // 2):
        powers.append(max(1, powers[-1] * ratio // 1024))
    first = np.array(powers, np.int64)[distance]
    counts, start = np.zeros(levels, np.int64), 0
    while start < size:
        rows = slice(start, min(size, start + max(1, start // BLOCKS)))
        weights = counts * first.sum() + PRIOR * first
        row = weights * (tables.TOTAL - levels) // weights.sum() + 1
        row[row.argmax()] += tables.TOTAL - row.sum()
        yield rows, row
        counts += np.bincount(known(rows), minlength=levels)
        start = rows.stop


def _ideal_bits(symbols, ratio, levels):
    rows = _adaptive(ratio, levels, symbols.size, lambda rows: symbols[rows])
    return -sum(float(np.log2(row[symbols[one]] / tables.TOTAL).sum()) for one, row in rows)
