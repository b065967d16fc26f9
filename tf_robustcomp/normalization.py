"""Batch norm as one operation, where the backend has it."""

import keras
from keras import ops

from tf_robustcomp.backend import fused_batch_norm


@keras.saving.register_keras_serializable("tf_robustcomp")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' own layer; on images, while it trains, by TensorFlow's fused operation, which walks through them once.

    The same up to rounding: moments of the batch over all but the last axis, moving averages of these (the variance not
    corrected for the size of the batch).  Synchronised over replicas and on other backends it is Keras' own code.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise (n, h, w, c), in training by the batch's moments; arguments as of Keras' layer."""
        plain = self.synchronized or self.renorm or not (self.scale and self.center and self.trainable)
        if not training or plain or mask is not None or len(inputs.shape) != 4 or self.axis not in (3, -1):
            return super().call(inputs, training=training, mask=mask)
        normed = fused_batch_norm(inputs, self.gamma, self.beta, self.epsilon)
        if normed is None:
            return super().call(inputs, training=training, mask=mask)
        outputs, *moments = normed
        # On CPUs TensorFlow joins the operation with the ReLU after it, which makes 0 of NaN: the loss must show it.
        self.add_loss(0.0 * ops.sum(moments[0] + moments[1]))
        for average, moment in zip((self.moving_mean, self.moving_variance), moments, strict=True):
            average.assign(average * self.momentum + moment * (1.0 - self.momentum))
        return outputs
