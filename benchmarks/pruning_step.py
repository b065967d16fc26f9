"""A training step that prunes against the same step that does not, ours and tfmot's: ResNet-56 and MobileNetV2.

Each library runs in a process of its own (tfmot needs tf_keras); within it dense and pruned steps alternate, so that
the ratio is paired.  Time to first step includes wrapping, compiling and tracing; both libraries do that at once, so it
is the processor's time.  Then each has the machine for itself.

    python -m benchmarks.pruning_step mobilenet 32 64 15

measures one network: its name, side of the images, batch size, rounds.
"""

import json
import sys
import time

from benchmarks.children import Stages, between_stages
from benchmarks.pairs import peak_megabytes, ratios, times
from benchmarks.rows import row

# Network, title, side of the images (MobileNetV2's weights are published for 96 and more), batch, rounds.
CASES = (
    ("resnet", "ResNet-56", 32, 128, 9),
    ("mobilenet", "MobileNetV2", 96, 32, 9),
)


def ours(name, side, batch_size, rounds):
    import keras
    import numpy as np

    import tf_robustcomp as rc
    from benchmarks.legacy import mobilenet

    rng = np.random.default_rng(0)
    x, y = rng.random((batch_size, side, side, 3), dtype="float32"), rng.integers(0, 10, batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule = rc.PolynomialDecay(0.0, 0.9, 0, 15_000, frequency=500)  # within the rounds one update, at step 0
    first, steps, memory = [], [], []
    for wrap in (lambda inner: inner, lambda inner: rc.DNS(inner, schedule)):
        model = rc.resnet_v2(56) if name == "resnet" else mobilenet(keras, side)
        began = time.process_time()
        model.compile(wrap(keras.optimizers.SGD(0.01, momentum=0.9)), loss=loss)
        model.train_on_batch(x, y)
        first.append(time.process_time() - began)
        memory.append(peak_megabytes())
        steps.append(lambda model=model: float(model.train_on_batch(x, y)))
    between_stages({"first": first, "memory": memory})
    taken = times(steps, rounds)
    print(json.dumps({"ratios": ratios(taken), "dense": min(taken[0])}))


def measure():
    rows = []
    for name, title, side, batch_size, rounds in CASES:
        words = [name, str(side), str(batch_size), str(rounds)]
        libraries = [Stages(module, words) for module in ("benchmarks.pruning_step", "benchmarks.legacy")]
        started = [library.answer() for library in libraries]
        mine, peer = (start | library.last() for start, library in zip(started, libraries, strict=True))
        rows += _rows(title, batch_size, mine, peer)
    return rows


def _rows(title, batch_size, mine, peer):
    rows = [
        row("DNS step / dense step", mine["ratios"][1], goal="<= 1.03"),
        row("tfmot step / dense step", peer["ratios"][1]),
        row("first pruned step / first dense step", mine["first"][1] / mine["first"][0]),
        row("tfmot: first pruned step / first dense step", peer["first"][1] / peer["first"][0]),
        row("memory that DNS adds to the dense model's", mine["memory"][1] - mine["memory"][0], "MiB"),
        row("tfmot: memory added", peer["memory"][1] - peer["memory"][0], "MiB"),
        row(f"dense step, batch {batch_size}", batch_size / mine["dense"], "images/s"),
    ]
    return [one | {"what": f"{one['what']}, {title}"} for one in rows]


if __name__ == "__main__":
    ours(sys.argv[1], *map(int, sys.argv[2:]))
