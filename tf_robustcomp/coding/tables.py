"""Integer probability tables and the coder that uses them: constriction's stack of asymmetric numeral systems (ANS).

Only integers enter the coder.  Every row of a table sums to 2^16, so that its probabilities are exact as floats and the
same on every machine.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np

from tf_robustcomp.utils.errors import DataError, Error

WORD = np.dtype("<u4")
TOTAL = 2**16  # sum of a row
MAX_INFLATION = 1100  # deflated data never unpacks to more than this many times its size


def integer_table(weights: np.ndarray) -> np.ndarray:
    """Round rows of non-negative weights to integers of sum 2^16, at least 1 where a weight is positive.

    Args:
        weights: (rows, levels), no row all zero.
    """
    fraction = weights / weights.sum(axis=1, keepdims=True)
    table = np.where(weights > 0, np.maximum(1, np.floor(fraction * TOTAL)), 0).astype(np.int64)
    table[np.arange(len(table)), table.argmax(axis=1)] += TOTAL - table.sum(axis=1)
    return table


def categorical(row: np.ndarray) -> Any:
    """Return constriction's model of a table's row."""
    return constriction.stream.model.Categorical((row / TOTAL).astype(np.float32), perfect=False)


def uniform(levels: int) -> Any:
    """Return constriction's model of equally likely symbols 0 to levels - 1."""
    return constriction.stream.model.Uniform(levels)


def encoder() -> Any:
    """Return an empty stack.  It gives symbols back in reverse, so the last symbol is encoded first."""
    return constriction.stream.stack.AnsCoder()


def stack_bytes(coder: Any, count: int = 0, least_bits: float = 0.0) -> bytes:
    """Return a stack's content, at least as long as `check_count` asks for that count of symbols.

    The last word of a stack is never 0, so zero bytes at the end carry nothing: they can go and come back.  A stack
    begins as the number 0, and symbol 0 of its first interval leaves it there.  A run of such symbols thus takes no
    bytes at all, and zero bytes stand for them.
    """
    return coder.get_compressed().astype(WORD).tobytes().rstrip(b"\0").ljust(_least_size(count, least_bits), b"\0")


@contextlib.contextmanager
def decoder(data: bytes, error: type[DataError]) -> Iterator[Any]:
    """Give a stack that holds bytes from anywhere; the block must take all of its symbols.

    Args:
        data: from `stack_bytes`.
        error: raised where the bytes are not the code of what is taken.
    """
    data = data.rstrip(b"\0")
    words = np.frombuffer(data + b"\0" * (-len(data) % WORD.itemsize), WORD).astype(np.uint32)
    try:
        coder = constriction.stream.stack.AnsCoder(words)
        yield coder
        left = not coder.is_empty()
    except BaseException as caught:  # a Rust panic is no Exception
        if isinstance(caught, Error) or not (
            isinstance(caught, Exception) or type(caught).__name__ == "PanicException"
        ):
            raise
        raise error("symbols cannot be decoded") from None
    if left:
        raise error("more symbols than stated")


def check_count(data: bytes, count: int, least_bits: float, error: type[DataError]) -> None:
    """Refuse a stated count of symbols that the bytes cannot hold, before memory is taken for them."""
    if len(data) < _least_size(count, least_bits):
        raise error(f"{len(data)} bytes cannot hold {count} symbols")


def _least_size(count, least_bits):
    """Bytes that so many symbols take at least; a state of two words is all that a stack can hold for nothing."""
    return max(0, math.ceil(count * least_bits / 8) - 2 * WORD.itemsize)


def encode_uniform(symbols: np.ndarray, levels: int) -> bytes:
    """Code integers (n,), each 0 to L - 1, at a fixed rate: n log2 L bits and at most a word and 0.1 % more."""
    coder = encoder()
    coder.encode_reverse(symbols.astype(np.int32), uniform(levels))
    return stack_bytes(coder, len(symbols), math.log2(levels))


def decode_uniform(data: bytes, count: int, levels: int, error: type[DataError]) -> np.ndarray:
    """Return the int32 symbols (count,) of `encode_uniform`; raise ``error`` where the bytes do not hold them."""
    check_count(data, count, math.log2(levels), error)
    with decoder(data, error) as coder:
        return coder.decode(uniform(levels), count)


def inflate(data: bytes, error: DataError, most: int | None = None) -> bytes:
    """Unpack deflated bytes from anywhere.

    Args:
        data: deflated bytes, nothing after them.
        error: raised where they are not whole or unpack to too much.
        most: bytes that they may unpack to; default: what deflate can reach.
    """
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, MAX_INFLATION * max(len(data), 1) if most is None else most + 1)
    except zlib.error:
        raise error from None
    if not unpacker.eof or unpacker.unused_data or (most is not None and len(content) > most):
        raise error
    return content
