"""Network half: the classifiers that the experiments prune."""

from tf_robustcomp.networks.resnet import resnet_v2

__all__ = ["resnet_v2"]
