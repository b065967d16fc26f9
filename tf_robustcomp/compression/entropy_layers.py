"""Entropy models as layers: a differentiable rate in training, integer tables in coding."""

import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.coding import integer_symbols
from tf_robustcomp.compression.integer_network import FIRST_INDEX
from tf_robustcomp.utils.errors import InvalidArgument

LEAST = 2.0**-20  # added to a likelihood: what no table gives less than, nearly


def bits(likelihood: Any) -> Any:
    """Return -log2 of likelihoods, finite also where they are 0."""
    return -ops.log2(likelihood + LEAST)


@keras.saving.register_keras_serializable("tf_robustcomp")
class EntropyBottleneck(keras.layers.Layer):
    """A factorised prior: one learned cumulative distribution per channel (Balle et al. 2018, arXiv 1802.01436, 6.1).

    Symbols are integers from -127 to 127.

    Args:
        filters: sequence of int >= 1, widths of the monotone network that is the cumulative's logit.
        init_scale: float > 0, the width of the distributions before training.

    Example:
        >>> bits = rc.EntropyBottleneck()(np.zeros((8, 4, 4, 16), "float32"))  # one number for each value
    """

    LARGEST = 127

    def __init__(self, filters: Any = (3, 3), init_scale: float = 3.0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.filters, self.init_scale = tuple(filters), init_scale

    def build(self, input_shape: Any) -> None:
        """Make the weights, and the tables (all zero until `make_tables`)."""
        channels, widths = input_shape[-1], (1, *self.filters, 1)
        scale = self.init_scale ** (1 / (len(widths) - 1))
        self.matrices, self.biases, self.factors = [], [], []
        for index, (rows, columns) in enumerate(itertools.pairwise(widths)):
            start = math.log(math.expm1(1 / scale / columns))
            shape = (channels, rows, columns)
            constant = keras.initializers.Constant(start)
            self.matrices.append(self.add_weight(shape=shape, initializer=constant, name=f"matrix_{index}"))
            uniform = keras.initializers.RandomUniform(-0.5, 0.5, seed=index)
            self.biases.append(self.add_weight(shape=(channels, columns), initializer=uniform, name=f"bias_{index}"))
            if index < len(widths) - 2:
                self.factors.append(
                    self.add_weight(shape=(channels, columns), initializer="zeros", name=f"factor_{index}")
                )
        size = (channels, 2 * self.LARGEST + 1)
        self.tables = self.add_weight(shape=size, initializer="zeros", dtype="int32", trainable=False, name="tables")
        self.built = True

    def likelihood(self, values: Any) -> Any:
        """Return the probability of the unit interval around each value: (..., c) -> (..., c)."""
        lower, upper = self._logits(values - 0.5), self._logits(values + 0.5)
        sign = ops.stop_gradient(ops.where(lower + upper > 0, -1.0, 1.0))  # of the two tails, the one that is precise
        return ops.abs(ops.sigmoid(sign * upper) - ops.sigmoid(sign * lower))

    def call(self, values: Any) -> Any:
        """Return the bits of values (..., c), each."""
        return bits(self.likelihood(values))

    @property
    def rows(self) -> list[np.ndarray]:
        """Tables of the channels, from -127 to 127."""
        return checked(list(ops.convert_to_numpy(self.tables).astype(np.int64)))

    def make_tables(self) -> None:
        """Make the integer tables from the learned distributions."""
        edges = integer_symbols.edges(self.LARGEST)
        shape = (len(edges), self.tables.shape[0])
        logits = self._logits(ops.convert_to_tensor(np.broadcast_to(edges[:, None], shape).astype(np.float32)))
        values = 1 / (1 + np.exp(-ops.convert_to_numpy(logits).astype(np.float64)))
        self.tables.assign(np.stack([integer_symbols.table(column) for column in values.T]))

    def rounded(self, values: Any) -> np.ndarray:
        """Return the symbols of values (..., c), int32."""
        rounded = np.floor(np.asarray(ops.convert_to_numpy(values), np.float32) + np.float32(0.5))
        return np.clip(rounded, -self.LARGEST, self.LARGEST).astype(np.int32)

    def push(self, stack: integer_symbols.Stack, symbols: np.ndarray) -> None:
        """Add symbols (..., c) to a stack."""
        stack.add(symbols.ravel(), self._channels(symbols.shape[:-1]), self.rows)

    def pull(self, coder: Any, places: Any) -> np.ndarray:
        """Return symbols (*places, c) from a decoder, int32."""
        found = integer_symbols.take(coder, self._channels(places), self.rows)
        return np.clip(found, -self.LARGEST, self.LARGEST).reshape(*places, -1)

    def least_bits(self) -> float:
        """Return the bits that the symbols of one place take at least."""
        return float(sum(-np.log2(row.max() / row.sum()) for row in self.rows))

    def _channels(self, places):
        return np.tile(np.arange(self.tables.shape[0], dtype=np.int32), math.prod(places))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters, "init_scale": self.init_scale}

    def _logits(self, values):
        """The logit of the cumulative, which grows with the value."""
        x = ops.expand_dims(values, -1)
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = ops.sum(ops.expand_dims(x, -1) * ops.softplus(matrix), axis=-2) + bias
            if index < len(self.factors):
                x = x + ops.tanh(self.factors[index]) * ops.tanh(x)
        return x[..., 0]


@keras.saving.register_keras_serializable("tf_robustcomp")
class GaussianConditional(keras.layers.Layer):
    """Latents under a normal distribution of given mean and scale (Minnen, Balle, Toderici 2018, arXiv 1809.02736).

    Scales are 64 steps of one ratio from 0.11 to 128; their index selects a table.

    Example:
        >>> residual = np.zeros((1, 4, 4, 16), "float32")  # value - mean
        >>> bits = rc.GaussianConditional()(residual, index=np.full(residual.shape, 30.0, "float32"))
    """

    SCALES = np.exp(np.linspace(math.log(0.11), math.log(128.0), 64))
    STEP = math.log(128.0 / 0.11) / 63

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, input_shape: Any) -> None:
        """Make the tables, one after the other (all zero until `make_tables`)."""
        self.reaches = [math.ceil(6 * scale) + 1 for scale in self.SCALES]
        size = (sum(2 * reach + 1 for reach in self.reaches),)
        self.tables = self.add_weight(shape=size, initializer="zeros", dtype="int32", trainable=False, name="tables")
        self.built = True

    def index(self, scale: Any) -> Any:
        """Return the index of a scale as a real number, for integers that `IntegerParameters` gives."""
        return FIRST_INDEX + scale / 4

    def table_index(self, scale: np.ndarray) -> np.ndarray:
        """Return the index of the table, 0 to 63, for such integers: exact."""
        return np.clip(FIRST_INDEX + np.floor((scale + 2) / 4), 0, len(self.SCALES) - 1).astype(np.uint8)

    @property
    def rows(self) -> list[np.ndarray]:
        """Tables of the scales, each from minus its reach to its reach."""
        ends = np.cumsum([2 * reach + 1 for reach in self.reaches])
        return checked(np.split(ops.convert_to_numpy(self.tables).astype(np.int64), ends[:-1]))

    def make_tables(self) -> None:
        """Make the integer tables of the normal distributions."""
        erf = np.vectorize(math.erf)
        rows = []
        for scale, reach in zip(self.SCALES, self.reaches, strict=True):
            rows.append(integer_symbols.table(0.5 * (1 + erf(integer_symbols.edges(reach) / scale * math.sqrt(0.5)))))
        self.tables.assign(np.concatenate(rows))

    def clipped(self, values: np.ndarray) -> np.ndarray:
        """Return integers that every table can code."""
        return np.clip(values, 1 - integer_symbols.BEYOND, integer_symbols.BEYOND - 1)

    def likelihood(self, residual: Any, index: Any) -> Any:
        """Return the probability of the unit interval around value - mean, for real indices of a scale."""
        inside = ops.clip(index, 0.0, 63.0)
        slight = 0.1 * (index - inside)  # a gradient that leads back from outside
        scale = ops.exp(math.log(0.11) + self.STEP * (inside + slight - ops.stop_gradient(slight)))
        distance = ops.abs(residual)
        root = math.sqrt(0.5)
        return 0.5 * (ops.erf((distance + 0.5) / scale * root) - ops.erf((distance - 0.5) / scale * root))

    def call(self, residual: Any, index: Any) -> Any:
        """Return the bits of value - mean, each."""
        return bits(self.likelihood(residual, index))


def checked(rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return tables if they are made; else raise InvalidArgument."""
    if not rows[0].any():
        raise InvalidArgument("compress needs model.fit_entropy_model() first")
    integer_symbols.check_rows(rows)
    return rows
