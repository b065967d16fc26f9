"""The Keras backend that runs, and what differs between backends."""

import keras

BACKEND = keras.backend.backend()
