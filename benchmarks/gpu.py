"""Training on a GPU with the JAX backend: images/s, share of the peak, largest batch.  Without one: nothing, said so.

    python -m benchmarks gpu
    python -m benchmarks.gpu measure cpu 512 256  # to try it without: platform, matrix product's side, batch to stop at

The peak is what a large matrix product of the same precision reaches in the same process.  A training step counts as
three forward passes, an evaluation of an attack with a gradient as two.
"""

import itertools
import json
import sys
import time

from benchmarks.children import answer
from benchmarks.rows import row, show

ON_JAX = {"KERAS_BACKEND": "jax"}
CASES = {  # title: batch, forward passes that a step is worth
    "ResNet-56": (128, 3),
    "min-max, 15 published steps": (64, 15 * 2 + 3),
    "min-max, 8 adaptive steps": (64, 7 * 2 + 1 + 3),
}
PRECISIONS = ("float32", "bfloat16")
STEPS = 20  # of a timed epoch


def measure(platform="gpu", side=8192, limit=2**17):
    if not answer("benchmarks.gpu", ["devices", platform], ON_JAX):
        print(f" no {platform} that JAX sees, so nothing is measured there;", end="")
        return []
    rows = []
    for title, (batch, passes) in CASES.items():
        for precision in PRECISIONS:
            words = (title, precision, str(batch), str(side), str(limit))
            found = answer("benchmarks.gpu", ["train", platform, *words], ON_JAX)
            share = found["speed"] * passes * found["forward"] / found["peak"]
            case = f"{platform}, {title}, {precision}"
            rows += [
                row(f"{case}, batch {batch}", found["speed"], "images/s"),
                row(f"{case}, share of a large matrix product's {found['peak'] / 1e12:.3g} TFLOP/s", share),
                row(f"{case}, largest batch of 2^n times {batch}", found["largest"], "images"),
                row(f"{case}, that batch", found["largest_speed"], "images/s"),
            ]
    return rows


def devices(platform):
    """Names of those that JAX has of a platform."""
    import jax

    try:
        return [device.device_kind for device in jax.devices(platform)]
    except RuntimeError:
        return []


def train(title, precision, batch, side, limit):
    """Speed at a batch size and at the largest (images/s), FLOP of an image's forward pass, FLOP/s of a product."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    found = {"peak": _peak(precision, side), "forward": _forward(title), "speed": _speed(title, batch)}
    found |= {"largest": batch, "largest_speed": found["speed"]}
    while 2 * found["largest"] <= limit:
        try:
            found["largest_speed"] = _speed(title, 2 * found["largest"])
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        found["largest"] *= 2
    return found


def _model(title):
    import keras

    import tf_robustcomp as rc

    if title == "ResNet-56":
        model = rc.resnet_v2(56)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), loss)
    else:
        ascent = {"steps": 8, "method": "adaptive", "restarts": 0} if "adaptive" in title else {"steps": 15}
        model = rc.Compressor(10)
        model.compile(rc.Adam(1e-4), adversary=rc.WassersteinBall(1.0, **ascent))
    return model


def _shape(title):
    return (32, 32, 3 if title == "ResNet-56" else 1)


def _speed(title, batch):
    """Images a second in an epoch of ``fit``, after a step that compiles it."""
    import numpy as np

    rng = np.random.default_rng(0)
    model = _model(title)
    images = rng.random((batch, *_shape(title)), dtype="float32")
    data = (images, rng.integers(0, 10, batch)) if title == "ResNet-56" else (images,)
    batches = (data for _ in itertools.count())
    model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
    began = time.perf_counter()
    model.fit(batches, steps_per_epoch=STEPS, shuffle=False, verbose=0)
    return STEPS * batch / (time.perf_counter() - began)


def _forward(title, images=8):
    """Floating point operations of an image, of which a multiplication and an addition are two."""
    import jax

    model = _model(title)

    state = [variable.value for variable in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    x = jax.numpy.zeros((images, *_shape(title)))
    lowered = jax.jit(lambda x: model.stateless_call(*state, x, training=False)[0]).lower(x)
    return lowered.cost_analysis()["flops"] / images


def _peak(precision, side, products=10):
    """Floating point operations a second of products of square matrices."""
    import jax

    a = jax.numpy.ones((side, side), precision)
    product = jax.jit(jax.numpy.matmul)
    product(a, a).block_until_ready()
    began = time.perf_counter()
    for _ in range(products):
        last = product(a, a)
    last.block_until_ready()
    return products * 2 * side**3 / (time.perf_counter() - began)


if __name__ == "__main__":
    action, platform, *words = sys.argv[1:]
    if action == "devices":
        print(json.dumps(devices(platform)))
    elif action == "train":
        print(json.dumps(train(*words[:2], *map(int, words[2:]))))
    else:
        show(measure(platform, *map(int, words)))
