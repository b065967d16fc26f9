"""Compressors: learned lossy codes for images."""

from tf_robustcomp.compressors.compressor import BaseCompressor, Compressor
from tf_robustcomp.compressors.quantizer import ScalarQuantizer
from tf_robustcomp.compressors.structured import ResidualCompressor, RotationAligned, SuccessiveRefinement

__all__ = [
    "BaseCompressor",
    "Compressor",
    "ResidualCompressor",
    "RotationAligned",
    "ScalarQuantizer",
    "SuccessiveRefinement",
]
