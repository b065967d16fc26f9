"""Training a network that has a short code: optimizers whose weights are few integers times few step sizes."""

import math
import types
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import inner, keras_private
from tf_robustcomp.backend.gradients import apply_gradients, at_once, numpy_values
from tf_robustcomp.backend.replicas import replicas, update_on_every_replica
from tf_robustcomp.backend.wrapper import WrappingOptimizer
from tf_robustcomp.bounds.code import PER_OCTAVE, STEPS, ZERO_STEP
from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument

MOST = 2**16 - 1  # of a dimension or a seed, as files hold them


class CodedOptimizer(WrappingOptimizer):
    """Base of the optimizers whose model has a short code: latent tensors, quantised, give the model's weights.

    One step::

        gradient at the model's weights --> gradients of latents and step sizes --> inner optimizer
        latents x, step s --> k = round(x / s) --> values k s --> model

    The inner optimizer trains the latents and one step size for each of them, by straight-through estimates (learned
    step sizes: Esser et al. 2020, arXiv 1902.08153).  The gradient of the code length, ``bit_weight * ln 2 / examples``
    times the bits, is added: with bit_weight 1 and a mean cross-entropy in nats as loss, the sum is the length of a
    message that holds the network and the labels.  The length is that of a discrete Laplace distribution whose scale is
    the latent's own (`code_length`), close to what the file's adaptive code takes.

    A subclass says how many latents there are and how the weights follow from their values.

    Args:
        inner_optimizer: the Keras optimizer (instance, name or config) that trains the latents.
        examples: int >= 1, number n of training examples.
        bit_weight: float >= 0, weight of the code length in the loss; 0 trains for accuracy alone.
        levels: odd int, 3 to 255: each k is one of so many integers about 0.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        examples: int,
        bit_weight: float = 1.0,
        levels: int = 31,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        inner.refuse_settings(settings)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = keras.optimizers.get(inner_optimizer)
        if isinstance(self.inner_optimizer, WrappingOptimizer):
            raise InvalidArgument(
                f"inner_optimizer must be one of Keras. Received: inner_optimizer={type(inner_optimizer).__name__}"
            )
        if not 0 <= bit_weight < math.inf:
            raise InvalidArgument(f"bit_weight must be a number >= 0. Received: bit_weight={bit_weight}")
        if levels % 2 == 0 or not 3 <= levels <= 255:
            raise InvalidArgument(f"levels must be odd, from 3 to 255. Received: levels={levels}")
        self.examples = check_at_least("examples", examples, 1)
        self.bit_weight, self.levels = float(bit_weight), int(levels)

    # What a subclass says ---------------------------------------------------------------------------------------------

    def first_latents(self, weights: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
        """Return the latents at which training begins, and their step sizes, given the model's weights."""
        raise NotImplementedError

    def weights_of(self, values: list) -> list:
        """Return the model's weights, given the latents' values."""
        raise NotImplementedError

    def pull_back(self, gradients: list) -> list:
        """Return the gradients of the latents' values, given those of the model's weights."""
        raise NotImplementedError

    def slots(self, arrays: Sequence[np.ndarray], name: str) -> list[keras.Variable]:
        """Return float32 slots that begin with arrays."""
        return [
            self.add_variable(a.shape, keras.initializers.Constant(a), "float32", name=f"{name}_{i}")
            for i, a in enumerate(arrays)
        ]

    # The order of a step ----------------------------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Make latents for the model's variables, and let the inner optimizer make its slots for them."""
        if self.built:
            return
        variables = list(variables)
        latents, steps = self.first_latents(numpy_values(variables))
        log_steps = [math.log2(step) for step in steps]
        arrays = [*latents, np.array(log_steps)]
        self._trained = self.slots(arrays, "latent")
        for one in inner.innermost(self.inner_optimizer):
            one.exclude_from_weight_decay([self._trained[-1]])
        self.inner_optimizer.build(list(self._trained))
        keras_private.mark_built(self, variables)
        self._write(*variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One step of the inner optimizer on latents and step sizes, whose values the model then has."""
        if len(grads) == 0:  # as Keras does where all is frozen
            return
        if not self.built:
            with at_once():  # so that the first step has its gradient at the quantised weights
                self.build(list(trainable_variables))
        variables = keras_private.trained_variables(self)
        given = {
            keras_private.variable_key(self, variable): grad
            for grad, variable in zip(grads, trainable_variables or variables, strict=True)
        }
        found = [given.get(keras_private.variable_key(self, variable)) for variable in variables]
        gradients = [
            ops.zeros(v.shape) if g is None else ops.cast(ops.convert_to_tensor(g, sparse=False), "float32")
            for g, v in zip(found, variables, strict=True)
        ]
        apply_gradients(self.inner_optimizer, self._gradients(self.pull_back(gradients)), list(self._trained))
        update_on_every_replica([(self._write, variables)])
        keras_private.count_step(self)

    def _gradients(self, slopes):
        """Gradients of latents and of the binary logarithms of the step sizes, given those of the values."""
        price = self.bit_weight * math.log(2) / self.examples / replicas()  # whose gradients are summed
        of_latents, of_steps = [], []
        for latent, slope, (number, step) in zip(self._trained, slopes, self._quantised(), strict=False):
            scaled = ops.convert_to_tensor(latent) / step
            inside = ops.cast(ops.abs(scaled) <= self.levels / 2, "float32")
            size = ops.mean(ops.abs(scaled)) + 0.5 / math.prod(latent.shape)  # a latent of zeros has a finite slope
            bits = -ops.log2(size / (1.0 + ops.sqrt(1.0 + size**2)))  # of one more in the sum of |k|: see `code_length`
            of_latents.append(slope * inside + price * bits * ops.sign(scaled) / step)
            error = ops.sum(slope * (number - scaled * inside)) * step
            of_steps.append(math.log(2) * (error - price * bits * ops.sum(ops.abs(scaled))))
        return [*of_latents, ops.stack(of_steps)]

    def _quantised(self):
        """For each latent its integers k, as floats, and its step size s."""
        log_steps = ops.convert_to_tensor(self._trained[-1])
        octaves = ops.floor(log_steps)
        places = ops.round(PER_OCTAVE * (octaves + 2.0 ** (log_steps - octaves) - 1.0)) + ZERO_STEP
        places = ops.clip(places, 0, len(STEPS) - 1)
        steps = ops.take(ops.convert_to_tensor(STEPS), ops.cast(places, "int32"))
        most = self.levels // 2
        pairs = []
        for i, latent in enumerate(self._trained[:-1]):
            pairs.append((ops.clip(ops.round(ops.convert_to_tensor(latent) / steps[i]), -most, most), steps[i]))
        return pairs

    def _write(self, *variables):
        weights = self.weights_of([number * step for number, step in self._quantised()])
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(ops.cast(ops.reshape(weight, variable.shape), variable.dtype))

    # What was reached -------------------------------------------------------------------------------------------------

    def symbols(self) -> tuple[list[np.ndarray], list[int]]:
        """Return the integers k of each latent, and the place of its step size in `code.STEPS`."""
        pairs = [(ops.convert_to_numpy(k), ops.convert_to_numpy(s)) for k, s in self._quantised()]
        return [k.astype(np.int64) for k, _ in pairs], [int(np.flatnonzero(s == STEPS)[0]) for _, s in pairs]

    def code_length(self) -> float:
        """Return an estimate of the bits of all k: those of discrete Laplace distributions of their mean magnitudes.

        With P(k) = (1 - t) / (1 + t) t^|k| the mean m of abs(k) is 2 t / (1 - t^2), so t = m / (1 + sqrt(1 + m^2));
        the bits of a latent of N integers are -N (log2 ((1 - t) / (1 + t)) + m log2 t).
        """
        total = 0.0
        for numbers in self.symbols()[0]:
            mean = np.abs(numbers).mean()
            if mean > 0:
                t = mean / (1 + math.sqrt(1 + mean**2))
                total -= numbers.size * (math.log2((1 - t) / (1 + t)) + mean * math.log2(t))
        return total

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "examples": self.examples,
            "bit_weight": self.bit_weight,
            "levels": self.levels,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "CodedOptimizer":
        """Return an optimizer made from ``get_config``."""
        made = keras.saving.deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**(config | {"inner_optimizer": made}))


@keras.saving.register_keras_serializable("tf_robustcomp")
class Quantize(CodedOptimizer):
    """Quantisation-aware training with the code length in the loss, for any Keras model.

    Every weight is k s, with one learned step size s for each variable.

    Args:
        inner_optimizer, examples, bit_weight, levels: see `CodedOptimizer`.
        begin: "zero", the weights are k s; or "model", they are what they were when the optimizer was built plus k s:
            then only the change is coded, for a network whose beginning was trained on other data.

    Example:
        >>> model.compile(rc.Quantize("adam", examples=len(images), bit_weight=2), loss)
        >>> model.fit(images, labels, epochs=20)
        >>> bits = rc.save_code(model, "network.rcnb")
    """

    def __init__(
        self,
        inner_optimizer: Any,
        examples: int,
        bit_weight: float = 1.0,
        levels: int = 31,
        begin: str = "zero",
        name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(inner_optimizer, examples, bit_weight, levels, name, **settings)
        self.begin = check_choice("begin", begin, ("zero", "model"))

    def build(self, variables: Any) -> None:
        """Keep the weights that the model begins with, where only the change is coded."""
        if self.begin == "model" and not self.built:
            self.beginning = self.slots(numpy_values(variables), "beginning")
        super().build(variables)

    def first_latents(self, weights: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
        """Begin with the weights, at a quarter of their size; or with no change."""
        sizes = [float(np.sqrt(np.mean(w**2))) or 0.25 for w in weights]
        latents = [np.zeros_like(w) for w in weights] if self.begin == "model" else list(weights)
        return latents, [size / 4 for size in sizes]

    def weights_of(self, values: list) -> list:
        """The values, or what the model began with and the values."""
        if self.begin == "zero":
            return values
        return [ops.convert_to_tensor(b) + v for b, v in zip(self.beginning, values, strict=True)]

    def pull_back(self, gradients: list) -> list:
        """The same."""
        return gradients

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return super().get_config() | {"begin": self.begin}


@keras.saving.register_keras_serializable("tf_robustcomp")
class Subspace(CodedOptimizer):
    """Training in a random subspace of few dimensions (Li et al. 2018, arXiv 1804.08838; Lotfi et al. 2022).

    The weights are theta0 + P w: each weight belongs to one coordinate of w by a hash of its place, with a random sign,
    times the layer's Glorot limit.  P is not stored, and costs as much as the number of weights.  The coordinates w are
    quantised, all with one step size.

    theta0 follows from the seed, too: Glorot-uniform for kernels, what the model begins with for vectors; these must
    then be constant.

    Args:
        inner_optimizer, examples, bit_weight, levels: see `CodedOptimizer`.
        dim: int >= 1, number of coordinates.
        seed: int, 0 to 65535, of theta0 and P.
        begin: "seed", see above, or "model": theta0 is what the weights were when the optimizer was built, for a
            network whose beginning was trained on other data.

    Raises:
        InvalidArgument: an argument breaks its rule, or a vector of the model does not begin as a constant.

    Example:
        >>> model.compile(rc.Subspace("adam", examples=len(images), dim=100), loss)
        >>> model.fit(images, labels, epochs=20)
    """

    def __init__(
        self,
        inner_optimizer: Any,
        examples: int,
        dim: int,
        seed: int = 0,
        bit_weight: float = 1.0,
        levels: int = 31,
        begin: str = "seed",
        name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(inner_optimizer, examples, bit_weight, levels, name, **settings)
        self.dim, self.seed = check_at_least("dim", dim, 1), check_at_least("seed", seed, 0)
        if self.dim > MOST or self.seed >= MOST:
            raise InvalidArgument(f"dim and seed must be at most {MOST}. Received: dim={dim}, seed={seed}")
        self.begin = check_choice("begin", begin, ("seed", "model"))

    def build(self, variables: Any) -> None:
        """Make theta0 and P."""
        if not self.built:
            values = numpy_values(variables)
            places = projection(self.seed, [v.shape for v in values], self.dim)
            self._projection = types.SimpleNamespace(places=places, sizes=[v.size for v in values])
            firsts = values if self.begin == "model" else seeded_weights(self.seed, values)
            self.beginning = self.slots(firsts, "beginning")
        super().build(variables)

    def first_latents(self, weights: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
        """Begin in the middle; a step is a quarter of the largest weight that theta0 may have."""
        return [np.zeros(self.dim, np.float32)], [0.25]

    def weights_of(self, values: list) -> list:
        """theta0 + P w."""
        return [
            ops.convert_to_tensor(first) + ops.reshape(ops.take(values[0], index) * scale, first.shape)
            for first, (index, scale) in zip(self.beginning, self._projection.places, strict=True)
        ]

    def pull_back(self, gradients: list) -> list:
        """P transposed, times the gradients."""
        terms = [
            ops.segment_sum(ops.reshape(gradient, (-1,)) * scale, ops.convert_to_tensor(index), self.dim)
            for gradient, (index, scale) in zip(gradients, self._projection.places, strict=True)
        ]
        return [sum(terms[1:], terms[0])]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return super().get_config() | {"dim": self.dim, "seed": self.seed, "begin": self.begin}


def projection(seed: int, shapes: Sequence[tuple], dim: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return P: for each weight of each variable its coordinate, int32, and its scale, float32, both flat."""
    raw = np.random.PCG64([seed, 1])  # the numbers of a bit generator, unlike those of distributions, never change
    found = []
    for shape in shapes:
        bits = raw.random_raw(math.prod(shape))
        signs = 1.0 - 2.0 * (bits >> np.uint64(63)).astype(np.float64)
        found.append(((bits % np.uint64(dim)).astype(np.int32), (signs * _limit(shape)).astype(np.float32)))
    return found


def seeded_weights(seed: int, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return theta0: Glorot-uniform kernels of a seed; vectors as they are, which must be constant.

    Raises:
        InvalidArgument: a vector is not constant, so it may have seen the data.
    """
    raw, found = np.random.PCG64([seed, 0]), []
    for value in values:
        if value.ndim > 1:
            uniform = (raw.random_raw(value.size) >> np.uint64(11)) * 2.0**-53
            value = ((2 * uniform - 1) * _limit(value.shape)).astype(np.float32).reshape(value.shape)
        elif value.size and np.ptp(value):
            raise InvalidArgument("begin='seed' needs vectors that begin as constants; use begin='model'")
        found.append(value.astype(np.float32))
    return found


def _limit(shape):
    """Largest weight of Glorot's uniform distribution."""
    field = math.prod(shape[:-2]) if len(shape) > 1 else 1
    ends = shape[-2:] if len(shape) > 1 else (*shape, *shape)
    return math.sqrt(6 / max(1, field * sum(ends)))
