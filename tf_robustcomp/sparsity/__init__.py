"""Network half: pruning any Keras 3 model, as an optimizer."""

from tf_robustcomp.sparsity.callback import DynamicNetworkSurgery, PruningMonitor
from tf_robustcomp.sparsity.distributions import ERK, ByPath, Global, Uniform
from tf_robustcomp.sparsity.optimizer import PruningOptimizer
from tf_robustcomp.sparsity.patterns import NM, Blocks, Channels, Unstructured
from tf_robustcomp.sparsity.pruned_variable import Moment, is_kernel
from tf_robustcomp.sparsity.report import SparsityReport, sparsity_report
from tf_robustcomp.sparsity.rules import DNS, MagnitudePruning, MovementPruning, RandomPruning, RigL
from tf_robustcomp.sparsity.schedules import ConstantSparsity, PolynomialDecay
from tf_robustcomp.sparsity.sparse_file import load_sparse, save_sparse

__all__ = [
    "DNS",
    "ERK",
    "NM",
    "Blocks",
    "ByPath",
    "Channels",
    "ConstantSparsity",
    "DynamicNetworkSurgery",
    "Global",
    "MagnitudePruning",
    "Moment",
    "MovementPruning",
    "PolynomialDecay",
    "PruningMonitor",
    "PruningOptimizer",
    "RandomPruning",
    "RigL",
    "SparsityReport",
    "Uniform",
    "Unstructured",
    "is_kernel",
    "load_sparse",
    "save_sparse",
    "sparsity_report",
]
