"""A plain training step of the compressor (batch 64) and of ResNet-56 (batch 128): ours, what was tried, eager PyTorch.

Each configuration is a process, asked in turn.  One process differs from the next of its kind by a tenth and more, so

    python -m benchmarks.convolutions 7

makes seven times three fresh ones, of PyTorch and of ours in both precisions, and gives the median of the ratios, the
least and the greatest.
"""

import itertools
import statistics
import sys

from benchmarks.children import Child, medians, serve_steps
from benchmarks.rows import row, show

ONEDNN_OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}
PEER, DEFAULT, HALF = "eager PyTorch, channels last", "TensorFlow, as it is by default", "TensorFlow, bfloat16"
CONFIGURATIONS = {  # name: words, environment
    DEFAULT: ((), {}),
    "TensorFlow, batch norm and Adam as Keras has them": (("unfused",), {}),
    "TensorFlow, deterministic": (("deterministic",), {}),
    "TensorFlow, XLA": (("jit",), {}),
    HALF: (("bfloat16",), {}),
    "TensorFlow, without oneDNN": ((), ONEDNN_OFF),
    "TensorFlow, 5 steps per execution": (("many",), {}),
    "JAX": ((), {"KERAS_BACKEND": "jax"}),
    "Keras on PyTorch": ((), {"KERAS_BACKEND": "torch"}),
    PEER: (("peer",), {}),
}
MANY, ROUNDS = 5, 2


def measure():
    return [*_compared("compressor"), *_compared("resnet")]


def _compared(network):
    goals = dict.fromkeys((DEFAULT, HALF), ">= 1.15")
    return [
        row(f"step of {network}, PyTorch / {name}", value, goal=goals.get(name, ""))
        for name, value in _ratios(network, CONFIGURATIONS).items()
    ]


def _ratios(network, names):
    """PyTorch's seconds of a step by those of each other way; nan where it failed."""
    children = {
        name: Child("benchmarks.convolutions", [network, *CONFIGURATIONS[name][0]], CONFIGURATIONS[name][1])
        for name in names
    }
    seconds = medians(children, ROUNDS, MANY)
    return {name: seconds[PEER] / taken if taken else float("nan") for name, taken in seconds.items() if name != PEER}


def repeated(times):
    """Rows of the ratios' medians over so many fresh processes of each kind."""
    rows = []
    for network in ("compressor", "resnet"):
        found = [_ratios(network, (DEFAULT, HALF, PEER)) for _ in range(times)]
        for name in (DEFAULT, HALF):
            values = sorted(one[name] for one in found)
            title = f"step of {network}, PyTorch / {name}, {values[0]:.3g} to {values[-1]:.3g}"
            rows.append(row(title, statistics.median(values), goal=">= 1.15"))
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

    fused = "unfused" not in words
    keras.config.set_dtype_policy("mixed_bfloat16" if "bfloat16" in words else "float32")
    if "deterministic" in words:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    options = {"jit_compile": "jit" in words or keras.backend.backend() == "jax"}
    options |= {"steps_per_execution": MANY if "many" in words else 1}
    if labels is None:
        model, data = rc.Compressor(10, fused=fused), (images,)
        model.compile(rc.Adam(1e-4, fused=fused), **options)
    else:
        model, data = rc.resnet_v2(56, fused=fused), (images, labels)
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


if __name__ == "__main__" and sys.argv[1].isdecimal():
    show(repeated(int(sys.argv[1])))
elif __name__ == "__main__":
    child(*sys.argv[1:])
