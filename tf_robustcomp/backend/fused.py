"""Batch norm and Adam as one operation each, where the backend has it."""

from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend import BACKEND, keras_private

if BACKEND == "tensorflow":
    import tensorflow as tf


def fused_batch_norm(x, scale, offset, epsilon):
    """Normalise a training batch by one operation, where the backend has it.

    Args:
        x: (n, h, w, c).
        scale, offset: (c,), float32.
        epsilon: float >= 0.00001.

    Returns:
        ``(normalised x, mean (c,), variance (c,) divided by n h w)``, the last two without gradient; or None.
    """
    if BACKEND != "tensorflow":
        return None
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.convert_to_tensor(scale),
        offset=tf.convert_to_tensor(offset),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=epsilon,
        is_training=True,
    )
    count = tf.cast(tf.size(x) // tf.shape(x)[-1], variance.dtype)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance * (count - 1.0) / count)


def fused_adam(variable, momentum, velocity, gradient, learning_rate, step, beta_1, beta_2, epsilon):
    """Make one step of Adam on one variable by one operation, where the backend has it.

    Args:
        variable, momentum, velocity: variables of one shape, Keras' or TensorFlow's, all of which it assigns to.
        gradient: tensor of that shape.
        learning_rate, step: scalar tensors; the first step is 1.
        beta_1, beta_2, epsilon: floats.

    Returns:
        bool, whether it was done.
    """
    if BACKEND != "tensorflow" or tf.distribute.has_strategy():
        return False
    if isinstance(gradient, tf.IndexedSlices):
        return False
    variables = (v.value if isinstance(v, keras.Variable) else v for v in (variable, momentum, velocity))
    var, m, v = (one.handle for one in variables)
    dtype = variable.dtype
    beta_1, beta_2 = tf.constant(beta_1, dtype), tf.constant(beta_2, dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=var,
        m=m,
        v=v,
        beta1_power=beta_1**step,
        beta2_power=beta_2**step,
        lr=tf.cast(learning_rate, dtype),
        beta1=beta_1,
        beta2=beta_2,
        epsilon=tf.constant(epsilon, dtype),
        grad=tf.cast(gradient, dtype),
    )
    return True


@keras.saving.register_keras_serializable("tf_robustcomp")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm that trains on images by one operation of TensorFlow, which walks through them once.

    It equals Keras' layer up to rounding: moments of the batch over all axes but the last, and moving averages of them
    (the variance is not corrected for the size of the batch).  Synchronised over replicas, on other backends and with
    ``fused=False`` it runs Keras' own code.

    Args:
        fused: whether to use that operation.
        **kwargs: arguments of ``keras.layers.BatchNormalization``.
    """

    def __init__(self, fused: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fused = fused and not kwargs.get("renorm")  # the operation knows no renormalisation

    def call(self, inputs, training=None, mask=None):
        """Normalise (n, h, w, c), in training by the batch's moments; arguments as of Keras' layer."""
        normed = None
        if self.fused and training and mask is None and self._is_plain(inputs):
            normed = fused_batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        if normed is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, *moments = normed
        # On CPUs TensorFlow joins the operation with the ReLU after it, which makes 0 of NaN: the loss must show it.
        self.add_loss(0.0 * ops.sum(moments[0] + moments[1]))
        for average, moment in zip((self.moving_mean, self.moving_variance), moments, strict=True):
            average.assign(average * self.momentum + moment * (1.0 - self.momentum))
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "fused": self.fused}

    def _is_plain(self, inputs: Any) -> bool:
        whole = self.scale and self.center and self.trainable and not self.synchronized
        return whole and len(inputs.shape) == 4 and self.axis in (3, -1)


@keras.saving.register_keras_serializable("tf_robustcomp")
class Adam(keras.optimizers.Adam):
    """Adam (Kingma, Ba 2015, arXiv 1412.6980) by one operation for each variable, where TensorFlow has it.

    It equals Keras' optimizer up to rounding.  With ``amsgrad``, for sparse gradients, over replicas, on other backends
    and with ``fused=False`` it runs Keras' own code: a dozen operations, a tenth of a compressor's training step.

    Args:
        learning_rate: float or Keras schedule.
        fused: whether to use that operation.
        **kwargs: further arguments of ``keras.optimizers.Adam``.

    Example:
        >>> model.compile(rc.Adam(2e-3, global_clipnorm=20.0))
    """

    def __init__(self, learning_rate: Any = 0.001, fused: bool = True, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.fused = fused

    def update_step(self, gradient, variable, learning_rate):
        """Move one variable and its two moments; arguments as of Keras' optimizer."""
        moments = keras_private.adam_moments(self, variable)
        step, settings = ops.cast(self.iterations + 1, variable.dtype), (self.beta_1, self.beta_2, self.epsilon)
        fused = self.fused and not self.amsgrad
        if not fused or not fused_adam(variable, *moments, gradient, learning_rate, step, *settings):
            super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "fused": self.fused}
