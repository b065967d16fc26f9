"""Models of every kind that Keras knows, small: each a function that gives (model, batch of inputs)."""

import keras
import numpy as np
from keras import layers

CLASSES = 4


def normal(*shape):
    return np.random.default_rng(5).normal(size=(16, *shape)).astype("float32")


def head(x):
    return layers.Dense(CLASSES, name="logits")(x)


def image_model(*body, shape=(8, 8, 4)):
    inputs = layers.Input(shape)
    x = inputs
    for layer in body:
        x = layer(x)
    return keras.Model(inputs, head(layers.Flatten()(x))), normal(*shape)


def functional():
    inputs = layers.Input((12,))
    left, right = layers.Dense(16, activation="tanh")(inputs), layers.Dense(16)(inputs)
    return keras.Model(inputs, head(layers.BatchNormalization()(layers.Add()([left, right])))), normal(12)


def sequential():
    return keras.Sequential([layers.Input((12,)), layers.Dense(16), layers.LayerNormalization(), head_layer()]), normal(
        12
    )


def head_layer():
    return layers.Dense(CLASSES, name="logits")


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, units=16, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.out = layers.Dense(units, activation="tanh"), head_layer()

    def call(self, x):
        return self.out(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model, x = Subclassed(), normal(12)
    model(x[:1])
    return model, x


def nested():
    block = keras.Sequential([layers.Input((16,)), layers.Dense(16), layers.BatchNormalization()], name="block")
    inner = keras.Model(i := layers.Input((16,)), block(layers.Dense(16, activation="tanh")(i)), name="inner")
    inputs = layers.Input((12,))
    return keras.Model(inputs, head(inner(layers.Dense(16)(inputs)))), normal(12)


def shared_layer():
    shared = layers.Dense(12, name="shared")
    inputs = layers.Input((12,))
    return keras.Model(inputs, head(shared(layers.Activation("tanh")(shared(inputs))))), normal(12)


@keras.saving.register_keras_serializable("tests")
class OwnWeights(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 16), name="matrix")
        self.scale = self.add_weight(shape=(16,), initializer="ones", name="scale")

    def call(self, x):
        return keras.ops.matmul(x, self.matrix) * self.scale


def custom_layer():
    return keras.Sequential([layers.Input((12,)), OwnWeights(), head_layer()]), normal(12)


def attention():
    inputs = layers.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    return keras.Model(inputs, head(layers.Flatten()(layers.LayerNormalization()(x)))), normal(6, 8)


def embedding():
    inputs = layers.Input((6,), dtype="int32")
    x = layers.LSTM(8)(layers.Embedding(20, 8)(inputs))
    return keras.Model(inputs, head(x)), np.random.default_rng(1).integers(0, 20, (16, 6))


SMALL = {
    "functional": functional,
    "sequential": sequential,
    "subclassed": subclassed,
    "nested": nested,
    "shared_layer": shared_layer,
    "custom_layer": custom_layer,
    "conv1d": lambda: image_model(layers.Conv1D(8, 3), shape=(10, 4)),
    "conv2d": lambda: image_model(layers.Conv2D(8, 3), layers.BatchNormalization()),
    "conv3d": lambda: image_model(layers.Conv3D(8, 2), shape=(4, 4, 4, 2)),
    "transposed": lambda: image_model(layers.Conv2DTranspose(8, 3)),
    "depthwise": lambda: image_model(layers.DepthwiseConv2D(3)),
    "separable": lambda: image_model(layers.SeparableConv2D(8, 3)),
    "einsum": lambda: image_model(layers.EinsumDense("abc,cd->abd", (6, 8), bias_axes="d"), shape=(6, 8)),
    "attention": attention,
    "gru": lambda: image_model(layers.GRU(8), shape=(6, 8)),
    "embedding": embedding,
}

APPLICATIONS = {
    "mobilenet": lambda: keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=CLASSES),
    "efficientnet": lambda: keras.applications.EfficientNetB0(
        input_shape=(32, 32, 3), weights=None, classes=CLASSES, include_top=True
    ),
    "resnet": lambda: keras.applications.ResNet50V2(input_shape=(32, 32, 3), weights=None, classes=CLASSES),
    "densenet": lambda: keras.applications.DenseNet121(input_shape=(32, 32, 3), weights=None, classes=CLASSES),
}


def labels():
    return np.random.default_rng(3).integers(0, CLASSES, 16)
