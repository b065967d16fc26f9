"""Adam as one operation for each variable, where the backend has it."""

import keras
from keras import ops

from tf_robustcomp.backend import fused_adam


@keras.saving.register_keras_serializable("tf_robustcomp")
class Adam(keras.optimizers.Adam):
    """Keras' own optimizer (Kingma, Ba 2015, arXiv 1412.6980); on TensorFlow one walk through memory.

    The same up to rounding.  With ``amsgrad``, for sparse gradients, over replicas and on other backends it is Keras'
    own code, a dozen operations that take a tenth of a compressor's training step.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Move one variable and its two moments; arguments as of Keras' optimizer."""
        index = self._get_variable_index(variable)
        moments = self._momentums[index], self._velocities[index]
        step, settings = ops.cast(self.iterations + 1, variable.dtype), (self.beta_1, self.beta_2, self.epsilon)
        if self.amsgrad or not fused_adam(variable, *moments, gradient, learning_rate, step, *settings):
            super().update_step(gradient, variable, learning_rate)
