"""A plain training step of the compressor (batch 64) and of ResNet-56 (batch 128): ours, what was tried, eager PyTorch.

Each configuration is a process, asked in turn.
"""

import itertools
import sys

from benchmarks.children import Child, medians, serve_steps
from benchmarks.rows import row

ONEDNN_OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}
CONFIGURATIONS = {  # name: words, environment
    "TensorFlow, as it is by default": ((), {}),
    "TensorFlow, batch norm as Keras has it": (("unfused",), {}),
    "TensorFlow, deterministic": (("deterministic",), {}),
    "TensorFlow, XLA": (("jit",), {}),
    "TensorFlow, bfloat16": (("bfloat16",), {}),
    "TensorFlow, without oneDNN": ((), ONEDNN_OFF),
    "TensorFlow, 5 steps per execution": (("many",), {}),
    "JAX": ((), {"KERAS_BACKEND": "jax"}),
    "Keras on PyTorch": ((), {"KERAS_BACKEND": "torch"}),
    "eager PyTorch, channels last": (("peer",), {}),
}
PEER = "eager PyTorch, channels last"
MANY, ROUNDS = 5, 2


def measure():
    return [*_compared("compressor"), *_compared("resnet")]


def _compared(network):
    children = {
        name: Child("benchmarks.convolutions", [network, *words], environment)
        for name, (words, environment) in CONFIGURATIONS.items()
    }
    seconds = medians(children, ROUNDS, MANY)
    rows = []
    for name, taken in seconds.items():
        if name != PEER:
            value = seconds[PEER] / taken if taken else float("nan")
            goal = ">= 1.15" if name.endswith(("default", "TensorFlow, bfloat16")) else ""
            rows.append(row(f"step of {network}, PyTorch / {name}", value, goal=goal))
    return rows


def child(network, *words):
    import numpy as np

    rng = np.random.default_rng(0)
    if network == "compressor":
        images, labels = rng.random((64, 32, 32, 1), dtype="float32"), None
    else:
        images, labels = rng.random((128, 32, 32, 3), dtype="float32"), rng.integers(0, 10, 128)
    if "peer" in words:
        from benchmarks import peers

        serve_steps(peers.compressor_step(images) if labels is None else peers.resnet_step(images, labels))
    else:
        serve_steps(_ours(images, labels, words))


def _ours(images, labels, words):
    import keras

    import tf_robustcomp as rc
    from tf_robustcomp import backend

    backend.set_fusing("unfused" not in words)
    keras.config.set_dtype_policy("mixed_bfloat16" if "bfloat16" in words else "float32")
    if "deterministic" in words:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    options = {"jit_compile": "jit" in words or keras.backend.backend() == "jax"}
    options |= {"steps_per_execution": MANY if "many" in words else 1}
    if labels is None:
        model, data = rc.Compressor(10), (images,)
        model.compile(keras.optimizers.Adam(1e-4), **options)
    else:
        model, data = rc.resnet_v2(56), (images, labels)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    model.optimizer.build(model.trainable_variables)  # before the step, which TensorFlow else traces twice
    return _fitted(model, data, MANY if "many" in words else 1)


def _fitted(model, data, count):
    """A step as ``fit`` makes it, its loss looked at; several at once are made at every first of so many calls."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return lambda: model.train_on_batch(*data)
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors(data if len(data) > 1 else data[0]).repeat()
    calls = itertools.count(-1)  # the first call is the warm-up's
    model.fit(batches, steps_per_epoch=count, verbose=0)
    iterator = iter(batches)

    def step():
        if next(calls) % count == 0:
            float(model.train_function(iterator)["loss"])

    return step


if __name__ == "__main__":
    child(*sys.argv[1:])
