"""Encoders: ways to find the code of an image for a decoder that stays as it is."""

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder
from tf_robustcomp.compression.encoders.best_of import BestOf
from tf_robustcomp.compression.encoders.code_list import ListEncoder
from tf_robustcomp.compression.encoders.latents import LatentSearch
from tf_robustcomp.compression.encoders.network import NetworkEncoder
from tf_robustcomp.compression.encoders.search import SearchEncoder
from tf_robustcomp.compression.encoders.transformed import TransformedEncoder

__all__ = [
    "BestOf",
    "CodeSearch",
    "Encoder",
    "LatentSearch",
    "ListEncoder",
    "NetworkEncoder",
    "SearchEncoder",
    "TransformedEncoder",
]
