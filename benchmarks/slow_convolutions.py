"""Ways to make a training step that take too long for `make bench` and do not pay; see `convolutions`."""

from benchmarks import convolutions


def measure():
    return convolutions.measure(slow=True)
