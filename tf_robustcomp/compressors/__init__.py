"""Compressors: learned lossy codes for images."""

from tf_robustcomp.compressors.base import BaseCompressor
from tf_robustcomp.compressors.compressor import Compressor
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
