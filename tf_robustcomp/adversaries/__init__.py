"""Adversaries: the inner maximisation of min-max training, and of the evaluation of the worst case."""

from tf_robustcomp.adversaries.base import Adversary, AttackResult, Proposal, get
from tf_robustcomp.adversaries.lp_ball import L2Ball, LinfBall
from tf_robustcomp.adversaries.rotation import RotationRandom, RotationSearch
from tf_robustcomp.adversaries.wasserstein import WassersteinBall
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.utils.checks import check_images

__all__ = [
    "Adversary",
    "AttackResult",
    "L2Ball",
    "LinfBall",
    "Proposal",
    "RotationRandom",
    "RotationSearch",
    "WassersteinBall",
    "check_images",
    "distortion",
    "get",
    "rotate",
]
