"""What compression proves: bounds on a network's error from the length of its code."""

from tf_robustcomp.bounds.kl import generalization_bound, kl, kl_inverse, least_bits
from tf_robustcomp.bounds.network_file import code_bits, load_code, save_code
from tf_robustcomp.bounds.optimizers import CodedOptimizer, Quantize, Subspace

__all__ = [
    "CodedOptimizer",
    "Quantize",
    "Subspace",
    "code_bits",
    "generalization_bound",
    "kl",
    "kl_inverse",
    "least_bits",
    "load_code",
    "save_code",
]
