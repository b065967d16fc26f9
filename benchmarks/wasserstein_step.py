"""A min-max training step: ours against the published one in eager PyTorch (15 plain gradient steps), batch 64."""

import numpy as np

from benchmarks import peers
from benchmarks.pairs import medians
from benchmarks.rows import row

GAMMAS = (0.36, 1.0, 1.5)
BATCH, BATCHES = 64, 2
FAST = {"steps": 10, "method": "adaptive", "restarts": 0}


def measure(rounds=2):
    import keras

    import tf_robustcomp as rc
    from tf_robustcomp.datasets.images import load_images, resized

    images = resized(load_images("digits").x_train, 32)
    standard = _trained(rc, keras, images, None)
    robust = _trained(rc, keras, images, rc.WassersteinBall(gamma=1.0, steps=5), standard)
    models = {"standard": standard, "robust": robust}
    rows = []
    for gamma in GAMMAS:
        rows += _compare(rc, keras, models, gamma, images, rounds)
    return rows


def _trained(rc, keras, images, adversary, start=None):
    keras.utils.set_random_seed(0)
    model = rc.Compressor(10)
    if start is not None:
        model.set_weights(start.get_weights())
    _compile(model, keras.optimizers.Adam(1e-3, global_clipnorm=20.0), adversary)
    model.fit(images, batch_size=BATCH, epochs=1 if adversary else 5, verbose=0)
    return model


def _compile(model, optimizer, adversary):
    model.compile(optimizer, adversary=adversary)
    optimizer.build(model.trainable_variables)  # before the step, which TensorFlow else traces twice


def _compare(rc, keras, models, gamma, images, rounds):
    """Rows of each model; both take their turns in the same compiled copies."""
    fast, half = rc.WassersteinBall(gamma, **FAST), rc.WassersteinBall(gamma, **FAST, precision="bfloat16")
    published = rc.WassersteinBall(gamma, steps=15)
    judge, copies = rc.Compressor(10), []
    for adversary, policy in ((fast, "mixed_bfloat16"), (half, "float32"), (published, "float32")):
        copies.append(rc.Compressor(10, dtype=policy))
        _compile(copies[-1], keras.optimizers.Adam(1e-9), adversary)
    batch = images[:BATCH]

    def reached(adversary, attacked):
        """Mean objective in single precision at the points found on a copy, the model's weights being the same."""
        total = 0.0
        for start in range(0, BATCH * BATCHES, BATCH):
            clean = images[start : start + BATCH]
            x = adversary.attack(attacked, clean).x
            total += np.mean(judge.distortion(x, judge(x)) - gamma * judge.distortion(x, clean)) / BATCHES
        return total

    steps = [lambda copy=copy: float(copy.train_on_batch(batch)[0]) for copy in copies]
    rows = []
    for kind, model in models.items():
        for copy in (judge, *copies):
            copy.set_weights(model.get_weights())
        # Before the timing, whose training steps move the copies' batch norms.
        base, *objectives = (reached(*pair) for pair in ((published, judge), (fast, copies[0]), (half, judge)))
        taken = medians([*steps, peers.min_max_step(gamma, batch)], rounds, warm_up=1)
        rows += _rows(taken, [objective / base for objective in objectives], f"gamma {gamma}, {kind} model")
    return rows


def _rows(taken, objectives, case):
    rows = [
        row("min-max step in bfloat16, PyTorch / ours", taken[3] / taken[0], goal=">= 2.5"),
        row("the same, bfloat16 for the attack alone", taken[3] / taken[1]),
        row("the same, float32 and the published 15 steps", taken[3] / taken[2]),
        row("inner objective in bfloat16, ours / 15 steps", objectives[0], goal=">= 1"),
        row("the same, bfloat16 for the attack alone", objectives[1], goal=">= 1"),
    ]
    return [one | {"what": f"{one['what']}, {case}"} for one in rows]
