"""Entropy coding of symbols with integer tables, fitted once and kept with the model; the coder is constriction's."""

import constriction
import numpy as np

from tf_robustcomp import ans
from tf_robustcomp.errors import BitstreamError, InvalidArgument

TOTAL_BITS = 16
TOTAL = 2**TOTAL_BITS  # every row of a table sums to this, so that a probability is an exact float
LEAST_BITS = 1 / 8  # a symbol's cost at least: no table is surer, so that a short stream cannot claim many symbols
GREATEST = int(TOTAL * 2**-LEAST_BITS)
PRIOR = 8.0  # weight, in symbols, of the histogram without context within each context
MAX_PARENTS = 2
MOST_ENTRIES = 4  # of a table, for each row that it is fitted to
WORTH = 0.005  # share of a latent's held-out bits that a parent must save


class EntropyModel:
    """Probabilities of each latent's symbols, given those of up to two earlier latents.

    Which latents condition which is chosen greedily, by the bits of held-out symbols.  Since parents come earlier, the
    code of a stage never depends on the next one's.

    Args:
        levels: int >= 2, values L of a symbol.
        parents: for each latent a tuple of earlier latents.
        tables: for each latent integers (L^parents, L), each row of sum 65536 and positive.
    """

    def __init__(self, levels, parents, tables):
        self.levels = levels
        self.parents = [tuple(map(int, own)) for own in parents]
        self.tables = [np.asarray(table, np.int64) for table in tables]
        for latent, (own, table) in enumerate(zip(self.parents, self.tables, strict=True)):
            sound = table.shape == (levels ** len(own), levels) and table.min() > 0
            if not sound or (table.sum(axis=1) != TOTAL).any() or any(not 0 <= p < latent for p in own):
                raise InvalidArgument(f"entropy table of latent {latent} is not one of {levels} levels")

    @classmethod
    def fit(cls, symbols, levels, max_parents=MAX_PARENTS):
        """Fit to symbols (n, d).

        Args:
            symbols: int (n, d), 0 to L - 1, of training images.
            levels: int >= 2, L.
            max_parents: int >= 0, latents at most that condition another; 0 gives a histogram for each latent.
        """
        symbols = np.asarray(symbols)
        parents = [_choose_parents(symbols, latent, levels, max_parents) for latent in range(symbols.shape[1])]
        tables = [_table(symbols, latent, own, levels) for latent, own in enumerate(parents)]
        return cls(levels, parents, tables)

    def ideal_bits(self, symbols, first=0):
        """Cross entropy in bits of the latents from ``first`` on: symbols (n, d) -> float."""
        bits = 0.0
        for latent in range(first, symbols.shape[1]):
            table = self.tables[latent]
            bits -= np.log2(table[self._context(symbols, latent), symbols[:, latent]] / TOTAL).sum()
        return float(bits)

    def encode(self, symbols, first=0):
        """Code the latents from ``first`` on: symbols (n, d) -> bytes.  The earlier ones only condition."""
        coder = constriction.stream.stack.AnsCoder()
        for latent in reversed(range(first, symbols.shape[1])):
            column = symbols[:, latent].astype(np.int32)
            for rows, model in reversed(list(self._groups(symbols, latent))):
                coder.encode_reverse(column[rows], model)
        # A stack's last word is never 0, so zero bytes at the end can be taken off and put back.
        return coder.get_compressed().astype(ans.WORD).tobytes().rstrip(b"\0")

    def decode(self, data, known, width):
        """Inverse of ``encode``: bytes and the earlier latents (n, first) -> symbols (n, width).

        Raises:
            BitstreamError: no such symbols.
        """
        count, first = known.shape
        if count * (width - first) * LEAST_BITS > 8 * len(data) + 2 * 8 * ans.WORD.itemsize:
            raise BitstreamError(f"{len(data)} bytes cannot hold {count} x {width - first} symbols")
        symbols = np.zeros((count, width), np.int32)
        symbols[:, :first] = known
        with ans.decoder(data + b"\0" * (-len(data) % ans.WORD.itemsize), BitstreamError) as coder:
            for latent in range(first, width):
                for rows, model in self._groups(symbols, latent):
                    symbols[rows, latent] = coder.decode(model, symbols[rows].shape[0])
        return symbols

    def to_arrays(self):
        """Arrays of integers that say it all, for `from_arrays`."""
        width = max(map(len, self.parents), default=0)
        parents = np.array([[*own, *[-1] * (width - len(own))] for own in self.parents], np.int32)
        return {
            "parents": parents.reshape(len(self.parents), width),
            "tables": np.concatenate(self.tables).astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, levels, parents, tables):
        """Inverse of ``to_arrays``.

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
        """For each context that occurs: the rows of it, as an index, and constriction's model."""
        table = self.tables[latent]
        if not self.parents[latent]:
            yield slice(None), _model(table[0])
            return
        context = self._context(symbols, latent)
        order = np.argsort(context, kind="stable")
        values, starts = np.unique(context[order], return_index=True)
        for value, rows in zip(values, np.split(order, starts[1:]), strict=True):
            yield rows, _model(table[value])


def _model(row):
    return constriction.stream.model.Categorical((row / TOTAL).astype(np.float32), perfect=False)


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
    """Integer table from counts; a context's counts are drawn to the histogram of all."""
    column = symbols[:, latent]
    whole = np.bincount(column, minlength=levels) + 0.5
    counts = np.zeros((levels ** len(parents), levels))
    np.add.at(counts, (_context(symbols, parents, levels), column), 1)
    return _integers(counts + PRIOR * whole / whole.sum() if parents else whole[None])


def _integers(weights):
    """Rows of positive numbers -> rows of positive integers of sum TOTAL, none above GREATEST."""
    levels = weights.shape[1]
    share = weights / weights.sum(axis=1, keepdims=True)
    share = np.where(share.max(axis=1, keepdims=True) * TOTAL > GREATEST - levels, _mixed(share), share)
    table = np.maximum(1, np.floor(share * TOTAL)).astype(np.int64)
    rows = np.arange(len(table))
    table[rows, table.argmax(axis=1)] += TOTAL - table.sum(axis=1)
    return table


def _mixed(share):
    """Mix with the uniform distribution until the greatest share is GREATEST."""
    levels = share.shape[1]
    greatest = (GREATEST - levels) / TOTAL
    top = share.max(axis=1, keepdims=True)
    part = np.clip((top - greatest) / (top - 1 / levels), 0, 1)
    return (1 - part) * share + part / levels
