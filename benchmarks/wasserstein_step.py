"""A min-max training step: ours against the published one in eager PyTorch (15 plain gradient steps), batch 64."""

import numpy as np

from benchmarks import peers
from benchmarks.pairs import medians

GAMMAS = (0.36, 1.0, 1.5)
BATCH, BATCHES = 64, 4
FAST = {"steps": 10, "method": "adaptive", "restarts": 0}


def measure(rounds=2):
    import keras

    import tf_robustcomp as rc
    from tf_robustcomp.datasets.images import load_images, resized

    images = resized(load_images("digits").x_train, 32)
    rows = []
    standard = _trained(rc, keras, images, None)
    robust = _trained(rc, keras, images, rc.WassersteinBall(gamma=1.0, steps=5), standard)
    for kind, model in (("standard", standard), ("robust", robust)):
        for gamma in GAMMAS:
            rows += _compare(rc, keras, kind, model, gamma, images, rounds)
    return rows


def _trained(rc, keras, images, adversary, start=None):
    keras.utils.set_random_seed(0)
    model = rc.Compressor(10)
    if start is not None:
        model.set_weights(start.get_weights())
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=20.0), adversary=adversary)
    model.fit(images, batch_size=BATCH, epochs=2 if adversary else 8, verbose=0)
    return model


def _compare(rc, keras, kind, model, gamma, images, rounds):
    fast, half = rc.WassersteinBall(gamma, **FAST), rc.WassersteinBall(gamma, **FAST, precision="bfloat16")
    published = rc.WassersteinBall(gamma, steps=15)
    copies = []
    for adversary, policy in ((fast, "mixed_bfloat16"), (half, "float32"), (published, "float32")):
        copy = rc.Compressor(10, dtype=policy)
        copy.set_weights(model.get_weights())
        copy.compile(keras.optimizers.Adam(1e-9), adversary=adversary)
        copies.append(copy)
    batch = images[:BATCH]

    def reached(adversary, attacked):
        """Mean objective in single precision at the points found on a copy, the model's weights being the same."""
        total = 0.0
        for start in range(0, BATCH * BATCHES, BATCH):
            clean = images[start : start + BATCH]
            x = adversary.attack(attacked, clean).x
            total += np.mean(model.distortion(x, model(x)) - gamma * model.distortion(x, clean)) / BATCHES
        return total

    # Before the timing, whose training steps move the copies' batch norms.
    base, *objectives = (reached(*pair) for pair in ((published, model), (fast, copies[0]), (half, model)))
    steps = [lambda copy=copy: float(copy.train_on_batch(batch)[0]) for copy in copies]
    taken = medians([*steps, peers.min_max_step(gamma, batch)], rounds, warm_up=1)

    def row(what, value, goal=""):
        return {"what": f"{what}, gamma {gamma}, {kind} model", "value": float(value), "unit": "", "goal": goal}

    return [
        row("min-max step in bfloat16, PyTorch / ours", taken[3] / taken[0], ">= 2.5"),
        row("the same, bfloat16 for the attack alone", taken[3] / taken[1]),
        row("the same, float32 and the published 15 steps", taken[3] / taken[2]),
        row("inner objective in bfloat16, ours / 15 steps", objectives[0] / base, ">= 1"),
        row("the same, bfloat16 for the attack alone", objectives[1] / base, ">= 1"),
    ]
