"""The compressor that the benchmarks attack and turn: width 64, trained for a few epochs on the embedded digits."""

import functools

BATCH = 64


@functools.cache
def digits():
    """Images of the digits in the compressor's size, (N, 32, 32, 1)."""
    from tf_robustcomp.data.images import load_images, resized

    return resized(load_images("digits").x_train, 32)


@functools.cache
def trained():
    """A compressor after 5 epochs; the same object for all who ask."""
    return _fitted(digits(), epochs=5)


def robust(start):
    """A copy of a compressor after 10 further batches, of min-max training."""
    import tf_robustcomp as rc

    return _fitted(digits()[: 10 * BATCH], epochs=1, adversary=rc.WassersteinBall(gamma=1.0, steps=5), start=start)


def _fitted(images, epochs, adversary=None, start=None):
    import keras

    import tf_robustcomp as rc

    keras.utils.set_random_seed(0)
    model = rc.Compressor(10)
    if start is not None:
        model.set_weights(start.get_weights())
    optimizer = rc.Adam(1e-3, global_clipnorm=20.0)
    model.compile(optimizer, adversary=adversary)
    optimizer.build(model.trainable_variables)  # before the step, which TensorFlow else traces twice
    model.fit(images, batch_size=BATCH, epochs=epochs, verbose=0)
    return model
