"""Evaluating a compressor: worst case at five prices, and the rotation curve, beside the originals' ways.

What 10,000 images take is computed from a part of them: `benchmarks.growth` shows that time is linear in their number.
"""

import numpy as np

from benchmarks import compressor, peers
from benchmarks.pairs import medians
from benchmarks.rows import row

GAMMAS = (4.0, 3.0, 2.0, 1.5, 1.0)
WAYS = (("ensemble", "float32"), ("converged", "float32"), ("converged", "bfloat16"), ("paper", "float32"))
IMAGES, ANGLES = 10_000, 360
ANGLES_IMAGES = 2048  # the original's, per angle


def measure(images=48, angles=(-100.0, 35.0)):
    from tf_robustcomp import evaluation

    data, model = compressor.digits(), compressor.trained()
    part = data[:images]

    curves = {}

    def worst_case(attack, precision):
        curve = evaluation.worst_case_curve(model, part, GAMMAS, attack=attack, precision=precision, check=0)
        curves[attack, precision] = curve

    theirs = [peers.attack(gamma, part[start : start + 64]) for gamma in GAMMAS for start in range(0, images, 64)]
    attacks = [lambda way=way: worst_case(*way) for way in WAYS]
    ways = [*attacks, lambda: [attack() for attack in theirs]]
    ensemble, converged, fast, published, eager = medians(ways, rounds=1, warm_up=0)
    full, single, half, steps = (curves[way] for way in WAYS)
    rho = max(row.rho for row in steps.rows)

    turned = data[: 16 * images]
    ways = [lambda: evaluation.rotation_curve(model, turned, angles), peers.turned(turned, angles)]
    ours, rotations = medians(ways, rounds=3, warm_up=1)
    points = len(angles) * len(turned)
    return [
        row("worst case, 15 published steps: PyTorch / ours, time", eager / published, goal=">= 1"),
        row("worst case, ensemble / 15 steps, time", ensemble / published),
        row("worst case at the radius that 15 steps reach, ensemble / 15 steps", _at(rho, full, steps)),
        row("worst case at that radius, ensemble / converged", _at(rho, full, single)),
        row("computed: ensemble, 200 images at 9 prices", ensemble * 9 / len(GAMMAS) * 200 / images / 60, "min"),
        row("worst case, converged with a restart / 15 steps, time", converged / published),
        row("worst case, converged, climbing in bfloat16 / 15 steps, time", fast / published),
        row("worst case at the radius that 15 steps reach, converged / 15 steps", _at(rho, single, steps)),
        row("worst case at that radius, climbing in bfloat16 / 15 steps", _at(rho, half, steps)),
        row("computed: converged, 10,000 images at 5 prices", converged * IMAGES / images / 60, "min"),
        row("computed: the same, climbing in bfloat16", fast * IMAGES / images / 60, "min"),
        row("computed: PyTorch's 15 steps, the same", eager * IMAGES / images / 60, "min"),
        row("rotation curve: PyTorch / ours, time of an image", rotations / ours),
        row("computed: 360 angles of 10,000 images, ours", ours / points * ANGLES * IMAGES / 60, "min"),
        row("computed: 360 angles of 2,048 images, PyTorch", rotations / points * ANGLES * ANGLES_IMAGES / 60, "min"),
        row("standard error of a point, 10,000 / 2,048 images", float(np.sqrt(ANGLES_IMAGES / IMAGES))),
    ]


def _at(rho, curve, base):
    return float(curve.at(rho) / base.at(rho))
