"""Network half: pruning any Keras 3 model, as an optimizer."""

from tf_robustcomp.pruning import channel_rules  # noqa: F401 (which registers the rules of Keras' layers)
from tf_robustcomp.pruning.at_initialization import SNIP, GraSP, SynFlow
from tf_robustcomp.pruning.callbacks import DynamicNetworkSurgery, PruningMonitor
from tf_robustcomp.pruning.channels import LayerCall, Space, channel_rule
from tf_robustcomp.pruning.context import StepContext
from tf_robustcomp.pruning.distributions import ERK, LAMP, ByPath, Global, Uniform
from tf_robustcomp.pruning.dns import DNS
from tf_robustcomp.pruning.model_report import ModelReport, model_report
from tf_robustcomp.pruning.one_shot import prune
from tf_robustcomp.pruning.one_shot_methods import OneShotMethod, SparseGPT
from tf_robustcomp.pruning.optimizer import PruningOptimizer
from tf_robustcomp.pruning.patterns import NM, Blocks, Channels, Unstructured
from tf_robustcomp.pruning.pruning_rounds import IterativePruningReport, PruningRound
from tf_robustcomp.pruning.recalibration import recalibrate
from tf_robustcomp.pruning.recipes import iterative_pruning
from tf_robustcomp.pruning.report import SparsityReport, sparsity_report
from tf_robustcomp.pruning.reschedule import reschedule
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.pruning.rules import MagnitudePruning, MovementPruning, RandomPruning, RigL
from tf_robustcomp.pruning.schedules import ConstantSparsity, PolynomialDecay
from tf_robustcomp.pruning.sensitivity import sensitivity
from tf_robustcomp.pruning.sensitivity_report import SensitivityReport
from tf_robustcomp.pruning.shrink import shrink
from tf_robustcomp.pruning.sparse_file import load_sparse, save_sparse

__all__ = [
    "DNS",
    "ERK",
    "LAMP",
    "NM",
    "SNIP",
    "Blocks",
    "ByPath",
    "Channels",
    "ConstantSparsity",
    "DynamicNetworkSurgery",
    "Global",
    "GraSP",
    "IterativePruningReport",
    "LayerCall",
    "MagnitudePruning",
    "ModelReport",
    "MovementPruning",
    "OneShotMethod",
    "PolynomialDecay",
    "PruningMonitor",
    "PruningOptimizer",
    "PruningRound",
    "RandomPruning",
    "RigL",
    "SensitivityReport",
    "Space",
    "SparseGPT",
    "SparsityReport",
    "StepContext",
    "SynFlow",
    "Uniform",
    "Unstructured",
    "channel_rule",
    "is_kernel",
    "iterative_pruning",
    "load_sparse",
    "model_report",
    "prune",
    "recalibrate",
    "reschedule",
    "save_sparse",
    "sensitivity",
    "shrink",
    "sparsity_report",
]
