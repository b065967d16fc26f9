"""A min-max training step: ours against the published one in eager PyTorch (15 plain gradient steps), batch 64."""

import numpy as np

from benchmarks import compressor, peers
from benchmarks.compressor import BATCH
from benchmarks.pairs import medians
from benchmarks.rows import row

GAMMAS = (0.36, 1.0, 1.5)
BATCHES = 2
FAST = {"steps": 8, "method": "adaptive", "restarts": 0}


def measure(rounds=2):
    import tf_robustcomp as rc

    standard = compressor.trained()
    models = {"standard": standard, "robust": compressor.robust(standard)}
    fast, half = rc.WassersteinBall(1.0, **FAST), rc.WassersteinBall(1.0, **FAST, precision="bfloat16")
    published = rc.WassersteinBall(1.0, steps=15)
    judge, copies = rc.Compressor(10), []
    for adversary, policy in ((fast, "mixed_bfloat16"), (half, "float32"), (published, "float32")):
        copies.append(rc.Compressor(10, dtype=policy))
        optimizer = rc.Adam(1e-9)
        copies[-1].compile(optimizer, adversary=adversary)
        optimizer.build(copies[-1].trainable_variables)
    images, batch = compressor.digits(), compressor.digits()[:BATCH]

    def reached(adversary, attacked):
        """Mean objective in single precision at the points found on a copy, the model's weights being the same."""
        total = 0.0
        for start in range(0, BATCH * BATCHES, BATCH):
            clean = images[start : start + BATCH]
            x = adversary.attack(attacked, clean).x
            gained = judge.distortion(x, judge(x)) - adversary.gamma * judge.distortion(x, clean)
            total += np.mean(gained) / BATCHES
        return total

    steps = [lambda copy=copy: float(copy.train_on_batch(batch)[0]) for copy in copies]
    rows = []
    for gamma in GAMMAS:  # another price needs no new trace
        for adversary in (fast, half, published):
            adversary.gamma = gamma
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
