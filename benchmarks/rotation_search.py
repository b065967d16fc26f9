"""The worst angle of a batch: RotationSearch against scipy's differential evolution as the paper has it."""

from benchmarks import compressor
from benchmarks.pairs import medians
from benchmarks.rows import row


def measure(batch_size=128, batches=4):
    import numpy as np
    from scipy.optimize import differential_evolution

    import tf_robustcomp as rc
    from tf_robustcomp.data.shifts import rotate
    from tf_robustcomp.evaluation import models as subjects

    images, model = compressor.digits()[: batch_size * batches], compressor.trained()
    score = subjects.measurer(model, 1, rotate)
    search = rc.RotationSearch()
    evaluations, shares = [], []

    def evolve(batch, seed):
        def negative(angle):
            evaluations[-1] += 1
            return -float(score(batch, np.float32(angle[0]))[1].mean())

        evaluations.append(0)
        return -differential_evolution(negative, [(-180, 180)], popsize=8, init="random", seed=seed).fun

    parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
    for number, part in enumerate(parts):
        ours = float(np.mean(search.attack(model, part).objective))
        shares.append(ours / evolve(part, number))
    first = parts[0]
    ours, theirs = medians([lambda: np.asarray(search(model, first)), lambda: evolve(first, 0)], rounds=3, warm_up=1)
    return [
        row(
            f"RotationSearch / differential evolution, maximum, worst of {len(parts)} batches",
            min(shares),
            goal=">= 0.995",
        ),
        row("RotationSearch / differential evolution, time", ours / theirs, goal="<= 0.2"),
        row("evaluations of differential evolution", np.mean(evaluations), "batches"),
    ]
