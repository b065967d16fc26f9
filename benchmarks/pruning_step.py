"""A training step that prunes against the same step that does not, ours and tfmot's: ResNet-56 and MobileNetV2.

Each library runs in a process of its own (tfmot needs tf_keras); within it dense and pruned steps alternate, so that
the ratio is paired.  Time to first step includes wrapping, compiling and tracing; both libraries do that at once, so it
is the processor's time.  Then each has the machine for itself.

    python -m benchmarks.pruning_step mobilenet 32 64 15

measures one network: its name, side of the images, batch size, rounds.
"""

import sys
import time

from benchmarks.children import Child, serve
from benchmarks.pairs import peak_megabytes, ratios, times
from benchmarks.rows import row, show

TITLES = {"resnet": "ResNet-56", "mobilenet": "MobileNetV2"}
# Network, side of the images (MobileNetV2's weights are published for 96 and more), batch, rounds.
CASES = (("resnet", 32, 128, 7), ("mobilenet", 96, 32, 7))


def ours(name, side, batch_size):
    """Answer, for no rounds, what it took to begin, and for some, what their steps took; so does `legacy.pruned`."""
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
    serve(lambda rounds: compared(times(steps, rounds)) if rounds else {"first": first, "memory": memory})


def compared(taken):
    """Of the seconds of dense and of pruned steps, round by round."""
    return {"ratios": ratios(taken), "dense": min(taken[0])}


def measure(cases=CASES):
    rows = []
    for name, side, batch_size, rounds in cases:
        words = ["serve", name, str(side), str(batch_size)]
        libraries = [Child(module, words) for module in ("benchmarks.pruning_step", "benchmarks.legacy")]
        started = [library.ask(0) for library in libraries]
        mine, peer = (start | library.ask(rounds) for start, library in zip(started, libraries, strict=True))
        for library in libraries:
            library.close()
        rows += _rows(TITLES[name], batch_size, mine, peer)
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


if __name__ == "__main__" and sys.argv[1] == "serve":
    ours(sys.argv[2], *map(int, sys.argv[3:]))
elif __name__ == "__main__":
    show(measure([(sys.argv[1], *map(int, sys.argv[2:]))]))
