"""Sparse tensors as bytes: where the nonzeros are, then their values, both entropy-coded by constriction.

::

    coding byte | number of nonzeros | [mask: bits by one probability] | values by coding

FLOAT32 keeps every bit: the four bytes of each value are coded plane by plane with a table for each plane.  FLOAT16
rounds.  CODEBOOK keeps the 2^b centres of a k-means clustering of the nonzeros, and for each its index.
"""

import struct
import zlib

import constriction
import numpy as np

from tf_robustcomp import ans
from tf_robustcomp.errors import DataError

FLOAT32, FLOAT16, CODEBOOK = 0, 1, 2
CODINGS = {"float32": FLOAT32, "float16": FLOAT16, "codebook": CODEBOOK}
START = struct.Struct("<BQ")
SIZE = struct.Struct("<I")
TABLE_BITS = 16
RAW, CODED = b"\0", b"\1"
SAMPLE = 20_000  # values that k-means looks at


def encode(values, coding="float32", bits=5, seed=0):
    """Bytes of a float32 array.

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
    if number == FLOAT32:
        planes = kept.view(np.uint8).reshape(-1, 4).T
        body = b"".join(_sized(_encode_symbols(plane, 256)) for plane in planes) if len(kept) else b""
    elif number == FLOAT16:
        planes = np.clip(kept, -65504, 65504).astype(np.float16).view(np.uint8).reshape(-1, 2).T
        body = b"".join(_sized(_encode_symbols(plane, 256)) for plane in planes) if len(kept) else b""
    else:
        centres, index = _clustered(kept, 2**bits, seed)
        body = struct.pack("<H", len(centres)) + centres.astype("<f4").tobytes()
        body += _sized(_encode_symbols(index, len(centres))) if len(kept) else b""
    return START.pack(number, len(kept)) + _sized(mask) + body


def decode(data, shape):
    """Inverse of ``encode``: float32 array of ``shape``.

    Raises:
        DataError: not the bytes of such an array.
    """
    size = int(np.prod(shape, dtype=object))
    reader = _Reader(data)
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


def _values(reader, number, count):
    if number in (FLOAT32, FLOAT16):
        width = 4 if number == FLOAT32 else 2
        planes = [_decode_symbols(reader.sized(), count, 256).astype(np.uint8) for _ in range(width)]
        return np.stack(planes, axis=1).copy().view("<f4" if width == 4 else "<f2").ravel().astype(np.float32)
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
    """A byte that says how, then the symbols raw (a byte each), or a deflated table and their code: the shorter."""
    counts = np.bincount(symbols, minlength=levels)
    coder = constriction.stream.stack.AnsCoder()
    table = _integers(counts)
    if np.count_nonzero(counts) > 1:
        coder.encode_reverse(symbols.astype(np.int32), _model(table))
    deflated = zlib.compress(table.astype("<u2").tobytes(), 9)
    coded = SIZE.pack(len(deflated)) + deflated + coder.get_compressed().astype(ans.WORD).tobytes()
    return RAW + symbols.astype(np.uint8).tobytes() if len(symbols) <= len(coded) else CODED + coded


def _decode_symbols(data, count, levels):
    reader = _Reader(data)
    how = reader.take(1)
    if how == RAW:
        symbols = np.frombuffer(reader.take(count), np.uint8).astype(np.int32)
        reader.end()
        if symbols.size and symbols.max() >= levels:
            raise DataError("symbols out of range")
        return symbols
    table = _read_table(reader.sized(), levels)
    rest = reader.take(len(data) - reader.at)
    if how != CODED or len(rest) % ans.WORD.itemsize:
        raise DataError("symbols cannot be decoded")
    if np.count_nonzero(table) == 1:
        if rest:
            raise DataError("a code of one symbol has data")
        return np.full(count, table.argmax(), np.int32)
    with ans.decoder(rest, DataError) as coder:
        return coder.decode(_model(table), count)


def _read_table(deflated, levels):
    try:
        table = np.frombuffer(zlib.decompressobj().decompress(deflated, 2 * levels + 1), "<u2").astype(np.int64)
    except (zlib.error, ValueError):
        table = np.zeros(0, np.int64)
    if len(table) != levels or table.sum() != 2**TABLE_BITS - 1:
        raise DataError("a table of symbols cannot be read")
    return table


def _integers(counts):
    """Counts -> integers of sum 2^16 - 1, at least 1 where a symbol occurs, 0 where none does."""
    total = 2**TABLE_BITS - 1
    table = np.where(counts > 0, np.maximum(1, np.floor(counts / counts.sum() * total)), 0).astype(np.int64)
    table[table.argmax()] += total - table.sum()
    return table


def _model(table):
    probabilities = (table / (2**TABLE_BITS - 1)).astype(np.float32)
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def _sized(data):
    return SIZE.pack(len(data)) + data


class _Reader:
    """Takes bytes off the front, and says when they are missing or left."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise DataError("cut: bytes are missing at the end")
        self.at += size
        return part

    def sized(self):
        return self.take(SIZE.unpack(self.take(SIZE.size))[0])

    def end(self):
        if self.at != len(self.data):
            raise DataError("bytes are left at the end")
