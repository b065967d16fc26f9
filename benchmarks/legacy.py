"""Run, in a process of its own, tfmot on tf_keras, which cannot live beside Keras 3."""

import json
import os
import sys
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def resnet(depth, keras):
    layers = keras.layers
    blocks = (depth - 2) // 6
    inputs = x = keras.Input((32, 32, 3))

    def conv(x, filters, stride=1, size=3):
        return layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)

    def norm(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = conv(x, 16)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            before = norm(x)
            shortcut = conv(before, 16 << stage, stride, 1) if not block else x
            x = layers.Add()([shortcut, conv(norm(conv(before, 16 << stage, stride)), 16 << stage)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(norm(x))))


def mobilenet(keras, side):
    return keras.applications.MobileNetV2(
        (side, side, 3), alpha=1.0, weights=None, classes=10, classifier_activation=None
    )


def pruned(name, side, batch_size):
    """tfmot's side of `pruning_step`."""
    import numpy as np
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    from benchmarks.children import serve
    from benchmarks.pairs import peak_megabytes, times
    from benchmarks.pruning_step import compared

    rng = np.random.default_rng(0)
    x, y = rng.random((batch_size, side, side, 3), dtype="float32"), rng.integers(0, 10, batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    first = []

    def stepper(prune):
        model = resnet(56, keras) if name == "resnet" else mobilenet(keras, side)
        began = time.process_time()
        if prune:
            schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.9, 0, 15_000, frequency=500)
            model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=loss)
        callback = tfmot.sparsity.keras.UpdatePruningStep()
        callback.set_model(model)
        if prune:
            callback.on_train_begin()

        def step():
            if prune:
                callback.on_train_batch_begin(0)
            model.train_on_batch(x, y)

        step()
        first.append(time.process_time() - began)
        return step

    steps, memory = [], []
    for prune in (False, True):
        steps.append(stepper(prune))
        memory.append(peak_megabytes())
    serve(lambda rounds: compared(times(steps, rounds)) if rounds else {"first": first, "memory": memory})


def sizes(*sparsities):
    """Bytes of ResNet-56 by tfmot's route (prune, strip, save as .h5, gzip), by sparsity."""
    import tempfile
    import zlib
    from pathlib import Path

    import numpy as np
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    found = {}
    for sparsity in sparsities:
        keras.utils.set_random_seed(0)
        schedule = tfmot.sparsity.keras.ConstantSparsity(float(sparsity), 0, frequency=1)
        model = tfmot.sparsity.keras.prune_low_magnitude(resnet(56, keras), pruning_schedule=schedule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-9), loss=loss, run_eagerly=True)  # a graph takes most of a minute
        callback = tfmot.sparsity.keras.UpdatePruningStep()
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_train_batch_begin(0)
        model.train_on_batch(np.zeros((2, 32, 32, 3), "float32"), np.zeros(2))
        callback.on_epoch_end(0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.h5"
            tfmot.sparsity.keras.strip_pruning(model).save(path, include_optimizer=False)
            found[sparsity] = len(zlib.compress(path.read_bytes(), 9))
    print(json.dumps(found))


if __name__ == "__main__" and sys.argv[1] == "sizes":
    sizes(*sys.argv[2:])
elif __name__ == "__main__":
    pruned(sys.argv[2], *map(int, sys.argv[3:]))
