"""A program that uses every kind of public name, for `mypy --strict` alone; it is not run."""

from typing import assert_type

import numpy as np

import tf_robustcomp as rc


def networks(images: np.ndarray, labels: np.ndarray) -> float:
    """Prune, shrink, bound."""
    schedule = rc.PolynomialDecay(0.0, 0.9, begin_step=0, end_step=100, frequency=10)
    model = rc.resnet_v2(20, (32, 32, 3), 10)
    model.compile(rc.DNS("adam", schedule, distribution=rc.ERK(), pattern=rc.NM(2, 4)), "mse")
    rc.prune(model, 0.5, "snip", (images, labels), pattern=rc.Channels(coupled=True), distribution="global")
    rc.recalibrate(model, images)
    rc.reschedule(model, rc.ConstantSparsity(0.9, 0))
    assert_type(rc.sparsity_report(model), rc.SparsityReport)
    assert_type(rc.model_report(rc.shrink(model), before=model), rc.ModelReport)
    assert_type(rc.sensitivity(model, (images, labels)), rc.SensitivityReport)
    assert_type(rc.iterative_pruning(model, (images, labels), 0.9, 3, 5), rc.IterativePruningReport)
    rc.save_sparse(model, "model.rcsm", coding="float16")
    rc.load_sparse("model.rcsm")
    noisy, redrawn = rc.random_labels(labels, 0.3)
    assert_type(rc.least_bits(0.0, 0.9, len(noisy) + len(redrawn)), float)
    return rc.generalization_bound(0.01, rc.code_bits("network.rcnb"), 60000)


def data(images: np.ndarray) -> bytes:
    """Train, attack, code."""
    model = rc.Compressor(latent_dim=10, levels=12, width=16)
    adversary = rc.WassersteinBall(gamma=1.0, steps=8, method="adaptive")
    model.compile(rc.Adam(2e-3), adversary=adversary, augmentation=rc.NoiseAugmentation(rho=20.0))
    assert_type(adversary.attack(model, images), rc.AttackResult)
    assert_type(rc.worst_case_curve(model, images, [2, 1]), rc.WorstCaseCurve)
    assert_type(rc.worst_case_at(model, images, 24), rc.WorstCaseCurve)
    assert_type(rc.noise_curve(model, images, [20]), rc.ShiftCurve)
    assert_type(rc.corruption_curve(model, images), rc.CorruptionCurve)
    assert_type(rc.dual_estimate(model, images, 1.0, [24]), rc.DualEstimate)
    assert_type(rc.rate_allocation(model, images), rc.RateAllocation)
    assert_type(rc.worst_rotations(model, images), rc.WorstRotations)
    assert_type(rc.rate_curve(model, images, [1.0]), rc.AimCurve)
    listed = rc.ListEncoder.fit(model, images)
    encoder = rc.BestOf([listed, rc.SearchEncoder(budget=100)])
    assert_type(rc.certified_curve(model, images, [8, 24], listed), rc.CertifiedCurve)
    try:
        stream: bytes = model.compress(images, encoder=encoder)
    except rc.BitstreamError as error:
        raise rc.Error(str(error)) from error
    return stream


class Halved(rc.Encoder):
    """A variant with annotations."""

    def improve(self, search: rc.CodeSearch) -> None:
        """Offer half of each symbol."""
        rows = search.rows()
        search.offer(rows, search.symbols[rows] // 2)
