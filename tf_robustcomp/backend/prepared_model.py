"""A Keras model that prepares each batch before the ordinary Keras step."""

import contextvars
import itertools
from typing import Any

import keras

_IN_TRAINING_STEP = contextvars.ContextVar("in_training_step", default=False)


class PreparedModel(keras.Model):
    """A ``keras.Model`` with one hook, for all backends, that prepares each batch for the ordinary Keras step.

    Under JAX, Keras hands a training step the values of all variables and expects the new ones back.  Here
    ``prepare_train_batch`` reads and assigns variables in the plain way on every backend.
    """

    @property
    def in_training_step(self) -> bool:
        """True while a training step is traced; each replica of a strategy traces in its own thread."""
        return _IN_TRAINING_STEP.get()

    def prepare_train_batch(self, data: Any) -> Any:
        """Return ``(x, y)`` for Keras' training data.  It may assign to any variable of the model."""
        return data

    def prepare_test_batch(self, data: Any) -> Any:
        """Return ``(x, y)`` for Keras' test data.  It assigns to nothing."""
        return data

    def train_step(self, *args: Any) -> Any:
        """Make one training step, on JAX as ``(state, data)``."""
        *state, data = args
        entered = _IN_TRAINING_STEP.set(True)
        try:
            if not state:
                return super().train_step(self.prepare_train_batch(data))
            state, data = self._prepared_statelessly(state[0], data)
            return super().train_step(state, data)
        finally:
            _IN_TRAINING_STEP.reset(entered)

    def test_step(self, *args: Any) -> Any:
        """Make one test step, on JAX as ``(state, data)``."""
        *state, data = args
        return super().test_step(*state, self.prepare_test_batch(data))

    def _prepared_statelessly(self, state, data):
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        pairs = zip(itertools.chain(*variables), itertools.chain(*state), strict=True)
        with keras.StatelessScope(pairs) as scope:
            data = self.prepare_train_batch(data)
        return tuple([scope.get_current_value(variable) for variable in group] for group in variables), data
