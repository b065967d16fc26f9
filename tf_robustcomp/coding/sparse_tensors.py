"""Sparse tensors as bytes: where the nonzeros are, then their values, both entropy-coded by constriction.

::

    coding byte | number of nonzeros | [mask: bits by one probability] | values by coding

FLOAT32 keeps every bit: the four bytes of each value are coded plane by plane with a table for each plane.  FLOAT16
rounds.  CODEBOOK keeps the 2^b centres of a k-means clustering of the nonzeros, and for each its index.

Integers of 8 bits, or two of 4 bits in a byte, are symbols themselves.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tf_robustcomp.coding.tables import TOTAL, categorical, decoder, encoder, inflate, integer_table, stack_bytes
from tf_robustcomp.utils.errors import DataError

FLOAT32, FLOAT16, CODEBOOK = 0, 1, 2
CODINGS = {"float32": FLOAT32, "float16": FLOAT16, "codebook": CODEBOOK}
FLOATS: dict[int, np.dtype] = {FLOAT32: np.dtype("<f4"), FLOAT16: np.dtype("<f2")}
START = struct.Struct("<BQ")
SIZE = struct.Struct("<I")
RAW, CODED, CONSTANT = b"\0", b"\1", b"\2"
WHOLE, HALVES, DEFLATED = b"\0", b"\1", b"\2"
SAMPLE = 20_000  # values that k-means is fitted to


def encode(values: np.ndarray, coding: str = "float32", bits: int = 5, seed: int = 0) -> bytes:
    """Return the bytes of a float32 array.

    Args:
        values: float32 array.
        coding: "float32", "float16" or "codebook".
        bits: int 1 to 8, b of the codebook.
        seed: int, of k-means.
    """
    flat = np.ascontiguousarray(values, np.float32).ravel()
    # Negative zero counts as a value: every bit comes back.
    nonzero = flat.view(np.uint32) != 0
    kept = flat[nonzero]
    number = CODINGS[coding]
    mask = _encode_symbols(nonzero.astype(np.uint8), 2) if 0 < len(kept) < len(flat) else b""
    if number in FLOATS:
        stored = kept if number == FLOAT32 else np.clip(kept, -65504, 65504)
        planes = stored.astype(FLOATS[number]).view(np.uint8).reshape(len(kept), FLOATS[number].itemsize).T
        body = b"".join(_sized(_encode_symbols(plane, 256)) for plane in planes) if len(kept) else b""
    else:
        centres, index = _clustered(kept, 2**bits, seed)
        body = struct.pack("<H", len(centres)) + centres.astype("<f4").tobytes()
        body += _sized(_encode_symbols(index, len(centres))) if len(kept) else b""
    return START.pack(number, len(kept)) + _sized(mask) + body


def decode(data: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return the float32 array of ``shape`` that `encode` coded.

    Raises:
        DataError: not the bytes of such an array.
    """
    size = int(np.prod(shape, dtype=object))
    reader = Reader(data)
    number, count = START.unpack(reader.take(START.size))
    if count > size:
        raise DataError(f"{count} values do not fit an array of {size}")
    mask = reader.sized()
    nonzero = np.full(size, count > 0) if count in (0, size) else _decode_symbols(mask, size, 2).astype(bool)
    if int(nonzero.sum()) != count:
        raise DataError("the mask does not have as many ones as stated")
    values = np.zeros(size, np.float32)
    if count:
        values[nonzero] = _values(reader, number, count)
    elif number == CODEBOOK:
        reader.take(2)
    reader.end()
    return values.reshape(shape)


def encode_integers(values: np.ndarray) -> bytes:
    """Return the bytes of a uint8 array: the shortest of its values, its halves of 4 bits apart, or deflated."""
    flat = np.ascontiguousarray(values).ravel()
    forms = {DEFLATED: zlib.compress(flat.tobytes(), 9)}
    if len(flat):
        forms[WHOLE] = _sized(_encode_symbols(flat, 256))
        forms[HALVES] = _sized(_encode_symbols(flat & 15, 16)) + _sized(_encode_symbols(flat >> 4, 16))
    return min((form + code for form, code in forms.items()), key=len)


def decode_integers(data: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return the uint8 array of ``shape`` that `encode_integers` coded.

    Raises:
        DataError: not the bytes of such an array.
    """
    size = int(np.prod(shape, dtype=object))
    reader = Reader(data)
    form = reader.take(1)
    if form == DEFLATED:
        error = DataError("deflated integers cannot be read")
        raw = inflate(data[1:], error, most=size)
        if len(raw) != size:
            raise error
        return np.frombuffer(raw, np.uint8).reshape(shape)
    if form not in (WHOLE, HALVES):
        raise DataError("integers cannot be decoded")
    values = _decode_symbols(reader.sized(), size, 256 if form == WHOLE else 16)
    if form == HALVES:
        values = values + 16 * _decode_symbols(reader.sized(), size, 16)
    reader.end()
    return values.astype(np.uint8).reshape(shape)


def _values(reader, number, count):
    if number in FLOATS:
        planes = [_decode_symbols(reader.sized(), count, 256) for _ in range(FLOATS[number].itemsize)]
        return np.stack(planes, axis=1).astype(np.uint8).view(FLOATS[number]).ravel().astype(np.float32)
    if number != CODEBOOK:
        raise DataError(f"coding {number} is not known")
    (centres,) = struct.unpack("<H", reader.take(2))
    book = np.frombuffer(reader.take(4 * centres), "<f4")
    index = _decode_symbols(reader.sized(), count, centres)
    return book[index]


def _clustered(values, clusters, seed):
    """K-means in one dimension: ``(centres, index of each value)``; never more centres than distinct values."""
    from sklearn.cluster import KMeans

    distinct = np.unique(values)
    if len(distinct) <= clusters:
        return distinct.astype(np.float32), np.searchsorted(distinct, values)
    rng = np.random.default_rng(seed)
    sample = values if len(values) <= SAMPLE else rng.choice(values, SAMPLE, replace=False)
    start = np.quantile(sample, (np.arange(clusters) + 0.5) / clusters)
    fitted = KMeans(clusters, init=start[:, None], n_init=1).fit(sample[:, None].astype(np.float64))
    centres = np.unique(fitted.cluster_centers_.astype(np.float32))
    centres[centres == 0] = np.float32(1e-30)  # a value stays one
    return centres, np.searchsorted((centres[1:] + centres[:-1]) / 2, values)


# Symbols: a table of integer probabilities, then the code.


def _encode_symbols(symbols, levels):
    """A byte for the form, then the shortest: one symbol for all, all symbols, or a deflated table and a code."""
    counts = np.bincount(symbols, minlength=levels)
    if np.count_nonzero(counts) == 1:
        return CONSTANT + bytes([counts.argmax()])
    table = integer_table(counts[None])[0]
    coder = encoder()
    coder.encode_reverse(symbols.astype(np.int32), categorical(table))
    coded = _sized(zlib.compress(table.astype("<u2").tobytes(), 9)) + stack_bytes(coder)
    return RAW + symbols.astype(np.uint8).tobytes() if len(symbols) <= len(coded) else CODED + coded


def _decode_symbols(data, count, levels):
    reader = Reader(data)
    how = reader.take(1)
    if how == CONSTANT:
        (symbol,) = reader.take(1)
        reader.end()
        if symbol >= levels:
            raise DataError("symbols out of range")
        return np.full(count, symbol, np.int32)
    if how == RAW:
        symbols = np.frombuffer(reader.take(count), np.uint8).astype(np.int32)
        reader.end()
        if symbols.size and symbols.max() >= levels:
            raise DataError("symbols out of range")
        return symbols
    if how != CODED:
        raise DataError("symbols cannot be decoded")
    table = _read_table(reader.sized(), levels)
    with decoder(reader.take(len(data) - reader.at), DataError) as coder:
        return coder.decode(categorical(table), count)


def _read_table(deflated, levels):
    error = DataError("a table of symbols cannot be read")
    content = inflate(deflated, error, most=2 * levels)
    if len(content) != 2 * levels:
        raise error
    table = np.frombuffer(content, "<u2").astype(np.int64)
    if table.sum() != TOTAL:
        raise error
    return table


def _sized(data):
    return SIZE.pack(len(data)) + data


class Reader:
    """Takes bytes off the front of a file, and raises DataError when some are missing or left."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise DataError("cut: bytes are missing at the end")
        self.at += size
        return part

    def sized(self) -> bytes:
        """Return the next bytes, whose number stands before them."""
        return self.take(SIZE.unpack(self.take(SIZE.size))[0])

    def end(self) -> None:
        """Check that all bytes were taken."""
        if self.at != len(self.data):
            raise DataError("bytes are left at the end")
