"""Fixed-rate coding: all symbols together as one number in base L, in exactly ceil(n log2 L) bits."""

import math

import gmpy2
import numpy as np

from tf_robustcomp.errors import BitstreamError

DIGITS = 16  # symbols that are joined in NumPy before the large numbers begin; L^DIGITS fits 64 bits up to L = 16


def size_bits(count, levels):
    """ceil(count log2 L), without rounding errors."""
    return (gmpy2.mpz(levels) ** count - 1).bit_length() if count else 0


def pack(symbols, levels):
    """Integers (n,), each 0 to L - 1 -> bytes, the first symbol in the lowest place, little-endian."""
    size = (size_bits(len(symbols), levels) + 7) // 8
    group = _group(levels)
    padded = np.zeros(-(-len(symbols) // group) * group, np.uint64)
    padded[: len(symbols)] = symbols
    powers = np.array([levels**place for place in range(group)], np.uint64)
    values = [gmpy2.mpz(int(value)) for value in padded.reshape(-1, group) @ powers]
    base = gmpy2.mpz(levels) ** group
    while len(values) > 1:
        values += [gmpy2.mpz(0)] * (len(values) % 2)
        values = [low + high * base for low, high in zip(values[::2], values[1::2], strict=True)]
        base = base**2
    return int(values[0] if values else 0).to_bytes(size, "little")


def unpack(data, count, levels):
    """Inverse of ``pack``: bytes -> int32 (count,).

    Raises:
        BitstreamError: not that many bytes, or no such number.
    """
    # The first test is cheap: without it a forged count would ask for a number of that size.
    if abs(len(data) * 8 - count * math.log2(levels)) > 8 + count * 1e-9:
        raise BitstreamError(f"{len(data)} bytes cannot hold {count} symbols of {levels} levels")
    if len(data) != (size_bits(count, levels) + 7) // 8:
        raise BitstreamError(f"{len(data)} bytes cannot hold {count} symbols of {levels} levels")
    value = gmpy2.mpz(int.from_bytes(data, "little"))
    if value >= gmpy2.mpz(levels) ** count:
        raise BitstreamError("symbols out of range")
    group = _group(levels)
    groups = max(1, -(-count // group))
    bases = [gmpy2.mpz(levels) ** group]
    while 2 ** len(bases) < groups:
        bases.append(bases[-1] ** 2)
    values = [value]
    for base in reversed(bases) if groups > 1 else ():
        values = [part for one in values for part in gmpy2.f_divmod(one, base)[::-1]]
    numbers = np.array([int(one) for one in values[:groups]], np.uint64)
    powers = np.array([levels**place for place in range(group)], np.uint64)
    return (numbers[:, None] // powers % np.uint64(levels)).astype(np.int32).ravel()[:count]


def _group(levels):
    """Symbols whose joint value is below 2^63."""
    return max(1, min(DIGITS, int(63 / math.log2(levels))))
