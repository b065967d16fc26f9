"""Compression that holds outside the world it was trained on.

The names below are the package's interface; each is loaded from the module beside it.
"""

import importlib
import sys

_MODULES = {
    "adam": ("Adam",),
    "adversaries": ("L2Ball", "LinfBall", "RotationRandom", "RotationSearch", "WassersteinBall"),
    "augmentation": ("NoiseAugmentation", "RotationAugmentation"),
    "compressors": ("Compressor", "ResidualCompressor", "RotationAligned", "ScalarQuantizer", "SuccessiveRefinement"),
    "classifiers": ("resnet_v2",),
    "datasets.random_labels": ("random_labels",),
    "errors": ("BitstreamError", "DataError", "Error", "InvalidArgument", "RunError"),
    "evaluation": (
        "DualEstimate",
        "RateAllocation",
        "ShiftCurve",
        "WorstCaseCurve",
        "dual_estimate",
        "lp_curve",
        "noise_curve",
        "rate_allocation",
        "rotation_curve",
        "worst_case_curve",
    ),
    "sparsity": (
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
        "MovementPruning",
        "PolynomialDecay",
        "PruningMonitor",
        "PruningOptimizer",
        "RandomPruning",
        "RigL",
        "SparsityReport",
        "Uniform",
        "Unstructured",
        "load_sparse",
        "save_sparse",
        "sparsity_report",
    ),
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__


def load_all():
    """Load every name, and with it register every class that Keras may meet in a file."""
    for name in __all__:
        __getattr__(name)


# A command (`python -m tf_robustcomp.x`, or a script that says so) loads Keras only once its flags are read, so that
# --help answers at once; everybody else gets everything, so that keras.saving.load_model knows the classes.
if sys.argv[:1] != ["-m"] and not getattr(sys.modules.get("__main__"), "LOADS_KERAS_LATER", False):
    load_all()
