"""Network half: the classifiers that the experiments prune, and small ones whose code is short."""

from tf_robustcomp.networks.compact import compact_network
from tf_robustcomp.networks.resnet import resnet_v2

__all__ = ["compact_network", "resnet_v2"]
