"""Ways to make a step of ResNet-56 that do not pay and would take `make bench` past its 20 minutes."""

from benchmarks.convolutions import SLOW, compare


def measure():
    return compare("resnet", SLOW)
