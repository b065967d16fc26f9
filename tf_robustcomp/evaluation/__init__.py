"""Evaluation: compressors in and out of the distribution they were trained on."""

from tf_robustcomp.evaluation.aims import AimCurve, rate_curve, targeted_curve
from tf_robustcomp.evaluation.certificates import CertifiedCurve, certified_curve
from tf_robustcomp.evaluation.corruption import CorruptionCurve, corruption_curve
from tf_robustcomp.evaluation.dual import DualEstimate, dual_estimate
from tf_robustcomp.evaluation.rates import RateAllocation, rate_allocation
from tf_robustcomp.evaluation.rotations import WorstRotations, worst_rotations
from tf_robustcomp.evaluation.shifts import ShiftCurve, lp_curve, noise_curve, rotation_curve
from tf_robustcomp.evaluation.worst_case import WorstCaseCurve, worst_case_at, worst_case_curve

__all__ = [
    "AimCurve",
    "CertifiedCurve",
    "CorruptionCurve",
    "DualEstimate",
    "RateAllocation",
    "ShiftCurve",
    "WorstCaseCurve",
    "WorstRotations",
    "certified_curve",
    "corruption_curve",
    "dual_estimate",
    "lp_curve",
    "noise_curve",
    "rate_allocation",
    "rate_curve",
    "rotation_curve",
    "targeted_curve",
    "worst_case_at",
    "worst_case_curve",
    "worst_rotations",
]
