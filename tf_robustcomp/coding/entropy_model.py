"""Entropy coding of symbols with integer tables, fitted once and saved with the model."""

from collections.abc import Mapping, Sequence

import numpy as np

from tf_robustcomp.coding.tables import (
    TOTAL,
    categorical,
    check_count,
    decoder,
    encoder,
    integer_table,
    stack_bytes,
)
from tf_robustcomp.utils.errors import BitstreamError, InvalidArgument

LEAST_BITS = 1 / 8  # lower bound on the bits of a symbol, which lets the decoder reject forged counts of symbols
GREATEST = int(TOTAL * 2**-LEAST_BITS)  # so no symbol is more probable than this
PRIOR = 8.0  # weight, in symbols, of the histogram without context within each context
MAX_PARENTS = 2
MOST_ENTRIES = 4  # entries of a table for each row of symbols that it is fitted to
WORTH = 0.005  # fraction of a latent's held-out bits that a parent must save


class EntropyModel:
    """Probabilities of each latent's symbols, given those of up to two earlier latents, its parents.

    The parents are chosen greedily, by the bits of held-out symbols.  Since they come earlier, the code of a stage
    never depends on that of the next one.

    Args:
        levels: int >= 2, values L of a symbol.
        parents: for each latent a tuple of earlier latents.
        tables: for each latent integers (L^parents, L), each row of sum 65536 and positive.
    """

    def __init__(self, levels: int, parents: Sequence[Sequence[int]], tables: Sequence[np.ndarray]) -> None:
        self.levels = levels
        self.parents = [tuple(map(int, own)) for own in parents]
        self.tables = [np.asarray(table, np.int64) for table in tables]
        for latent, (own, table) in enumerate(zip(self.parents, self.tables, strict=True)):
            sound = table.shape == (levels ** len(own), levels) and table.min() > 0
            if not sound or (table.sum(axis=1) != TOTAL).any() or any(not 0 <= p < latent for p in own):
                raise InvalidArgument(f"entropy table of latent {latent} is not one of {levels} levels")

    @classmethod
    def fit(cls, symbols: np.ndarray, levels: int, max_parents: int = MAX_PARENTS) -> "EntropyModel":
        """Return the model fitted to symbols (n, d).

        Args:
            symbols: int (n, d), 0 to L - 1, of training images.
            levels: int >= 2, L.
            max_parents: int >= 0, most parents of a latent; 0 gives a histogram for each latent.
        """
        symbols = np.asarray(symbols)
        parents = [_choose_parents(symbols, latent, levels, max_parents) for latent in range(symbols.shape[1])]
        tables = [_table(symbols, latent, own, levels) for latent, own in enumerate(parents)]
        return cls(levels, parents, tables)

    def ideal_bits(self, symbols: np.ndarray, first: int = 0) -> float:
        """Return the cross entropy in bits of the latents from ``first`` on, for symbols (n, d)."""
        return float(self.bits(symbols, first).sum())

    def bits(self, symbols: np.ndarray, first: int = 0) -> np.ndarray:
        """Return the bits (n,) of the latents from ``first`` on of each row of symbols (n, d)."""
        bits = np.zeros(len(symbols))
        for latent in range(first, symbols.shape[1]):
            bits -= np.log2(self.tables[latent][self._context(symbols, latent), symbols[:, latent]] / TOTAL)
        return bits

    def encode(self, symbols: np.ndarray, first: int = 0) -> bytes:
        """Code the latents from ``first`` on of symbols (n, d); the decoder must know the earlier ones."""
        coder = encoder()
        for latent in reversed(range(first, symbols.shape[1])):
            column = symbols[:, latent].astype(np.int32)
            for rows, model in reversed(list(self._groups(symbols, latent))):
                coder.encode_reverse(column[rows], model)
        return stack_bytes(coder, len(symbols) * (symbols.shape[1] - first), LEAST_BITS)

    def decode(self, data: bytes, known: np.ndarray, width: int) -> np.ndarray:
        """Return the symbols (n, width) of ``encode``'s bytes, given the earlier latents (n, first).

        Raises:
            BitstreamError: the bytes are not the code of such symbols.
        """
        count, first = known.shape
        check_count(data, count * (width - first), LEAST_BITS, BitstreamError)
        symbols = np.zeros((count, width), np.int32)
        symbols[:, :first] = known
        with decoder(data, BitstreamError) as coder:
            for latent in range(first, width):
                for rows, model in self._groups(symbols, latent):
                    symbols[rows, latent] = coder.decode(model, symbols[rows].shape[0])
        return symbols

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """Return arrays of integers from which `from_arrays` makes the same model."""
        width = max(map(len, self.parents), default=0)
        parents = np.array([[*own, *[-1] * (width - len(own))] for own in self.parents], np.int32)
        return {
            "parents": parents.reshape(len(self.parents), width),
            "tables": np.concatenate(self.tables).astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, levels: int, parents: np.ndarray, tables: np.ndarray) -> "EntropyModel":
        """Return the model that ``to_arrays`` describes.

        Raises:
            InvalidArgument: the arrays do not fit together.
        """
        own = [tuple(int(p) for p in row if p >= 0) for row in np.asarray(parents)]
        ends = np.cumsum([levels ** len(row) for row in own])
        if len(tables) != ends[-1]:
            raise InvalidArgument(f"entropy tables must have {ends[-1]} rows. Received: {len(tables)}")
        return cls(levels, own, np.split(np.asarray(tables), ends[:-1]))

    def _context(self, symbols, latent):
        return _context(symbols, self.parents[latent], self.levels)

    def _groups(self, symbols, latent):
        """Yield, for each context that occurs, an index of its rows and constriction's model."""
        table = self.tables[latent]
        if not self.parents[latent]:
            yield slice(None), categorical(table[0])
            return
        context = self._context(symbols, latent)
        order = np.argsort(context, kind="stable")
        values, starts = np.unique(context[order], return_index=True)
        for value, rows in zip(values, np.split(order, starts[1:]), strict=True):
            yield rows, categorical(table[value])


def _context(symbols, parents, levels):
    context = np.zeros(len(symbols), np.int64)
    for parent in parents:
        context = context * levels + symbols[:, parent]
    return context


def _choose_parents(symbols, latent, levels, max_parents):
    """Add the earlier latent that saves most on held-out rows, while one saves enough."""
    fitted, held_out = symbols[::2], symbols[1::2]
    if not len(held_out):
        return ()

    def bits(parents):
        table = _table(fitted, latent, parents, levels)
        return -np.log2(table[_context(held_out, parents, levels), held_out[:, latent]] / TOTAL).sum()

    chosen: tuple[int, ...] = ()
    best = bits(chosen)
    while len(chosen) < max_parents:
        if levels ** (len(chosen) + 2) > MOST_ENTRIES * len(symbols):
            break  # a table that so few rows cannot fill
        tried = [(*chosen, other) for other in range(latent) if other not in chosen]
        costs = [bits(parents) for parents in tried]
        if not costs or min(costs) > (1 - WORTH) * best:
            break
        best, chosen = min(costs), tried[int(np.argmin(costs))]
    return chosen


def _table(symbols, latent, parents, levels):
    """Integer table from counts; those of a rare context are shrunk towards the histogram of all."""
    column = symbols[:, latent]
    whole = np.bincount(column, minlength=levels) + 0.5
    counts = np.zeros((levels ** len(parents), levels))
    np.add.at(counts, (_context(symbols, parents, levels), column), 1)
    return _integers(counts + PRIOR * whole / whole.sum() if parents else whole[None])


def _integers(weights):
    """Rows of positive weights -> rows of positive integers of sum TOTAL, none above GREATEST."""
    fraction = weights / weights.sum(axis=1, keepdims=True)
    levels = weights.shape[1]
    greatest = (GREATEST - levels) / TOTAL  # rounding adds less than ``levels``
    top = fraction.max(axis=1, keepdims=True)
    # Mixed with the uniform distribution until the greatest fraction is the greatest allowed.
    uniform = np.where(top > greatest, (top - greatest) / np.maximum(top - 1 / levels, 1e-12), 0.0)
    return integer_table((1 - uniform) * fraction + uniform / levels)
