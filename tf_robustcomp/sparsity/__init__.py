"""Network half: pruning any Keras 3 model, as an optimizer."""

from tf_robustcomp.sparsity.callback import DynamicNetworkSurgery
from tf_robustcomp.sparsity.optimizer import PruningOptimizer, is_kernel
from tf_robustcomp.sparsity.report import SparsityReport, sparsity_report
from tf_robustcomp.sparsity.rules import DNS, MagnitudePruning
from tf_robustcomp.sparsity.schedules import ConstantSparsity, PolynomialDecay

__all__ = [
    "DNS",
    "ConstantSparsity",
    "DynamicNetworkSurgery",
    "MagnitudePruning",
    "PolynomialDecay",
    "PruningOptimizer",
    "SparsityReport",
    "is_kernel",
    "sparsity_report",
]
