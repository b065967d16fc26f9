"""An optimizer around another one: every setting is the inner optimizer's."""

import warnings
from typing import Any

import keras

from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.inner import Setting, innermost


class WrappingOptimizer(keras.optimizers.Optimizer):
    """Base of an optimizer that adds something to the steps of ``inner_optimizer``.

    Learning rate, weight decay, clipping, moving averages, accumulation of gradients and loss scale are read from and
    written to the optimizer inside.

    Attributes:
        inner_optimizer: the Keras optimizer inside, which a subclass sets.
    """

    inner_optimizer: Any

    @property
    def variables(self) -> list[keras.Variable]:
        """Own slots, then the inner optimizer's."""
        return keras_private.own_variables(self) + self.inner_optimizer.variables

    weight_decay, clipnorm, clipvalue, global_clipnorm = (Setting() for _ in range(4))
    use_ema, ema_momentum, ema_overwrite_frequency = (Setting() for _ in range(3))
    loss_scale_factor, gradient_accumulation_steps = (Setting() for _ in range(2))

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Exclude variables from the inner optimizer's weight decay, by themselves or by words in their names."""
        for one in innermost(self.inner_optimizer):
            one.exclude_from_weight_decay(var_list, var_names)

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def optimizers(self) -> list[Any]:
        """Those that train: where Keras' SwapEMAWeights, under loss scaling outside, looks for the averages."""
        return innermost(self.inner_optimizer)

    @property
    def iterations(self) -> Any:
        """Updates that the inner optimizer has made."""
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Any) -> Any:
        """Scale the loss as the inner optimizer does."""
        return self.inner_optimizer.scale_loss(loss)

    def save_own_variables(self, store: Any) -> None:
        """Save own slots only: Keras saves the inner optimizer, an attribute, by itself."""
        for i, variable in enumerate(keras_private.own_variables(self)):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; warn, as Keras does, where it is of another optimizer."""
        own = keras_private.own_variables(self)
        saved = [tuple(store[str(i)].shape) for i in range(len(store.keys())) if str(i) in store]
        if saved != [tuple(variable.shape) for variable in own]:
            warnings.warn(
                f"Skipping variable loading for optimizer '{self.name}', as its {len(own)} variables are not the "
                f"{len(saved)} saved ones: it acts on other variables, by another rule, or is not built yet.",
                stacklevel=2,
            )
            return
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])
