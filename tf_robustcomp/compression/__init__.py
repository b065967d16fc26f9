"""Compressors: learned lossy codes for images."""

from tf_robustcomp.compression.entropy_layers import EntropyBottleneck, GaussianConditional
from tf_robustcomp.compression.hyperprior import FactorizedPrior, MeanScaleHyperprior
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.compression.quantizer import ScalarQuantizer
from tf_robustcomp.compression.refinement import SuccessiveRefinement
from tf_robustcomp.compression.residual import ResidualCompressor
from tf_robustcomp.compression.rotation_aligned import RotationAligned
from tf_robustcomp.compression.standard import Compressor
from tf_robustcomp.compression.training import MinMaxTraining

__all__ = [
    "CompressionModel",
    "Compressor",
    "EntropyBottleneck",
    "FactorizedPrior",
    "GaussianConditional",
    "MeanScaleHyperprior",
    "MinMaxTraining",
    "ResidualCompressor",
    "RotationAligned",
    "ScalarQuantizer",
    "SuccessiveRefinement",
]
