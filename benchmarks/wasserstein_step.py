"""A min-max training step: ours against the published one in eager PyTorch (15 plain gradient steps), batch 64."""

import numpy as np

from benchmarks import peers
from benchmarks.pairs import medians

GAMMAS = (0.36, 1.0, 1.5)
BATCH = 64
FAST = {"steps": 9, "method": "adaptive", "restarts": 0, "precision": "bfloat16"}


def measure(rounds=4):
    import keras

    import tf_robustcomp as rc
    from tf_robustcomp.datasets.images import load_images, resized

    images = resized(load_images("digits").x_train, 32)
    rows = []
    standard = _trained(rc, keras, images, None)
    robust = _trained(rc, keras, images, rc.WassersteinBall(gamma=1.0, steps=5), standard)
    for kind, model in (("standard", standard), ("robust", robust)):
        for gamma in GAMMAS:
            rows += _compare(rc, keras, kind, model, gamma, images[:BATCH], rounds)
    return rows


def _trained(rc, keras, images, adversary, start=None):
    keras.utils.set_random_seed(0)
    model = rc.Compressor(10)
    if start is not None:
        model.set_weights(start.get_weights())
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=20.0), adversary=adversary)
    model.fit(images, batch_size=BATCH, epochs=2 if adversary else 8, verbose=0)
    return model


def _compare(rc, keras, kind, model, gamma, batch, rounds):
    fast, published = rc.WassersteinBall(gamma, **FAST), rc.WassersteinBall(gamma, steps=15)
    steps = []
    for adversary in (fast, published):
        copy = rc.Compressor(10)
        copy.set_weights(model.get_weights())
        copy.compile(keras.optimizers.Adam(1e-9), adversary=adversary)
        steps.append(lambda copy=copy: float(copy.train_on_batch(batch)[0]))
    taken = medians([*steps, peers.min_max_step(gamma, batch)], rounds, warm_up=1)
    reached = [float(np.mean(adversary.attack(model, batch).objective)) for adversary in (fast, published)]

    def row(what, value, goal=""):
        return {"what": f"{what}, gamma {gamma}, {kind} model", "value": value, "unit": "", "goal": goal}

    return [
        row("min-max step, PyTorch / ours", taken[2] / taken[0], ">= 2.5"),
        row("the same, ours with 15 steps", taken[2] / taken[1]),
        row("inner objective, ours / 15 steps", reached[0] / reached[1], ">= 1"),
    ]
