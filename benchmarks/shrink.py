"""Measure `rc.shrink`: time to shrink, multiply-accumulates, latency, exactness; beside Torch-Pruning.

    python -m benchmarks shrink
    python -m benchmarks.shrink 5  # rounds

Channels are cut by `rc.prune` with coupled channels, of random weights; batch norms are random, too, so that emptied
channels give constants.  Latency: one example, one thread, the shrunk model's by the masked one's, medians of paired
ratios.  Differences of outputs are the greatest over the masked model's greatest output.

Torch-Pruning gets the same ResNet-20 with the same weights in torch, and takes out the channels that are zero there.
"""

import importlib.util
import re
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import ratios, times
from benchmarks.rows import row, show

SHARES = (0.3, 0.5, 0.7)
ROUNDS = 30


def measure(rounds=ROUNDS):
    import keras

    import tf_robustcomp as rc

    at_224 = {"input_shape": (224, 224, 3), "weights": None, "classifier_activation": None}
    networks = {
        "ResNet-56": lambda: rc.resnet_v2(56, fused=False),
        "MobileNetV2": lambda: keras.applications.MobileNetV2(**at_224),
        "ResNet50V2": lambda: keras.applications.ResNet50V2(**at_224),
    }
    rows, there = [], _runtimes()
    for name, build in networks.items():
        for share in SHARES:
            keras.utils.set_random_seed(0)
            model = with_random_norms(build())
            rc.prune(model, share, pattern=rc.Channels(coupled=True))
            rows += _shrunk(f"{name}, {share:.0%} of channels", model, there, rounds)
            keras.backend.clear_session()
    return rows + beside_torch_pruning()


def _runtimes():
    """Those that are installed; of others it says so."""
    from tf_robustcomp.backend import runtimes

    there = []
    for runtime in (runtimes.LITERT, runtimes.ONNX):
        if lacking := runtimes.missing((*runtime.writers, *runtime.runners)):
            print(f" (no rows of {runtime.name}: {', '.join(lacking)} not installed)", end="", flush=True)
        else:
            there.append(runtime)
    return there


def _shrunk(name, model, there, rounds):
    """Rows of one masked model, in the runtimes that are there."""
    from tf_robustcomp.backend import runtimes

    small, seconds = shrunk(model)
    images = _images(model, 4)
    rows = [
        row(f"{name}: shrink", seconds, "s"),
        row(f"{name}: multiply-accumulates left", macs(small) / macs(model)),
        row(f"{name}: difference of outputs", difference(small(images), model(images)), goal="<= 1e-5"),
    ]
    for runtime in there:
        with tempfile.TemporaryDirectory() as folder:
            runs = []
            for index, one in enumerate((model, small)):
                path = Path(folder) / f"{index}{runtime.suffix}"
                runtimes.export(one, runtime, path, images[:1])
                runs.append(runtime.load(path, images[:1], 1))
            rows.append(row(f"{name}: latency in {runtime.name}", ratios(times(runs, rounds))[1], goal="< 1"))
    return rows


def shrunk(model):
    """The shrunk model, and the seconds that it took."""
    import tf_robustcomp as rc

    began = time.perf_counter()
    small = rc.shrink(model)
    return small, time.perf_counter() - began


def macs(model):
    """Multiply-accumulates for one image."""
    from tf_robustcomp.pruning.macs import count_macs

    return count_macs(model, _images(model, 1)).total


def difference(found, wanted):
    """Greatest difference of outputs, over the greatest of those that are wanted."""
    import numpy as np

    found, wanted = np.asarray(found), np.asarray(wanted)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def with_random_norms(model):
    """The model with random scales, offsets and statistics in its batch norms."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.5, 1.5, shape))
            layer.beta.assign(rng.normal(0, 0.3, shape))
            layer.moving_mean.assign(rng.normal(0, 0.3, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
    return model


def _images(model, count):
    import numpy as np

    return np.random.default_rng(1).uniform(size=(count, *model.input_shape[1:])).astype("float32")


def beside_torch_pruning():
    """Rows of ResNet-20: coupled channels, then outputs alone of the first convolution in each block."""
    if importlib.util.find_spec("torch_pruning") is None:
        print(" (no rows of Torch-Pruning: torch-pruning not installed)", end="", flush=True)
        return []
    import keras

    import tf_robustcomp as rc

    rows = []
    for share in SHARES:
        keras.utils.set_random_seed(0)
        model = with_random_norms(rc.resnet_v2(20, fused=False))
        rc.prune(model, share, pattern=rc.Channels(coupled=True))
        rows += _both(f"ResNet-20, {share:.0%} of channels", model)
    keras.utils.set_random_seed(0)
    model = with_random_norms(rc.resnet_v2(20, fused=False))
    firsts = {id(layer.kernel) for layer in _first_convolutions(model)}
    rc.prune(model, 0.5, include=lambda path, variable: id(variable) in firsts, pattern=rc.Channels())
    return rows + _both("ResNet-20, half of the outputs inside of blocks, what reads them not", model)


def _both(name, model):
    """Rows of one masked model, shrunk by this package and by Torch-Pruning."""
    import numpy as np
    import torch

    images = _images(model, 16)
    wanted = np.asarray(model(images))
    small, seconds = shrunk(model)
    peer, images_there = in_torch(model), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        same = difference(peer(images_there), wanted)
        if same > 1e-5:
            raise RuntimeError(f"the network in torch gives other outputs: {same}")
        whole = torch_macs(peer, images_there[:1])
        torch_seconds = take_zeros_out(peer, images_there[:1])
        found = peer(images_there)
        left = torch_macs(peer, images_there[:1]) / whole
    return [
        row(f"{name}: shrink", seconds, "s"),
        row(f"{name}: Torch-Pruning", torch_seconds, "s"),
        row(f"{name}: multiply-accumulates left", macs(small) / macs(model)),
        row(f"{name}: multiply-accumulates left, Torch-Pruning", left),
        row(f"{name}: difference of outputs", difference(small(images), wanted), goal="<= 1e-5"),
        row(f"{name}: difference of outputs, Torch-Pruning", difference(found, wanted)),
    ]


def take_zeros_out(network, images):
    """Take the output channels that are zero in convolutions out of a torch network; the seconds that it took."""
    import torch
    import torch_pruning as tp

    began = time.perf_counter()
    with torch.enable_grad():  # which it traces by
        graph = tp.DependencyGraph().build_dependency(network, images)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            empty = (layer.weight.flatten(1) == 0).all(1).nonzero().flatten().tolist()
            if empty:
                graph.get_pruning_group(layer, tp.prune_conv_out_channels, empty).prune()
    return time.perf_counter() - began


def torch_macs(network, images):
    """Multiply-accumulates of convolutions and dense layers for one image."""
    import torch

    counts = []

    def count(layer, inputs, output):
        counts.append(output.numel() // layer.weight.shape[0] * layer.weight.numel())

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [one.register_forward_hook(count) for one in network.modules() if isinstance(one, kinds)]
    network(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def in_torch(model):
    """The peers' ResNet with the weights of this package's of the same depth."""
    import keras
    import numpy as np
    import torch

    from benchmarks import peers

    def made(kind):
        return iter(_as_made(model, kind))

    convolutions, norms = made(keras.layers.Conv2D), made(keras.layers.BatchNormalization)
    network = peers.resnet(6 * _blocks(model) // 3 + 2)
    network[1].project = torch.nn.Conv2d(16, 16, 1, bias=False)  # which this package's first block has

    def copy(layer):
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = torch.tensor(np.asarray(next(convolutions).kernel).transpose(3, 2, 0, 1).copy())
            return
        norm = next(norms)
        values = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        for tensor, value in zip(
            (layer.weight, layer.bias, layer.running_mean, layer.running_var), values, strict=True
        ):
            tensor.data = torch.tensor(np.asarray(value))

    for part in network:
        if isinstance(part, peers.Block):
            order = (part.first, part.project, part.conv2, part.second, part.conv1)  # as resnet_v2 makes them
            for layer in filter(None, order):
                copy(layer)
        elif isinstance(part, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            copy(part)
    (dense,) = made(keras.layers.Dense)
    network[-1].weight.data = torch.tensor(np.asarray(dense.kernel).T.copy())
    network[-1].bias.data = torch.tensor(np.asarray(dense.bias))
    return network.eval()


def _first_convolutions(model):
    """The first 3x3 convolution of each block of a ResNet."""
    import keras

    layers = _as_made(model, keras.layers.Conv2D)
    return [layer for layer in layers if layer.kernel_size == (3, 3)][2::2]


def _blocks(model):
    return len(_first_convolutions(model))


def _as_made(model, kind):
    """Layers of a class in the order in which they were made, which Keras counts in their names."""
    layers = [layer for layer in model.layers if isinstance(layer, kind)]
    return sorted(layers, key=lambda layer: int((re.search(r"_(\d+)$", layer.name) or [0, 0])[1]))


if __name__ == "__main__":
    show(measure(int(sys.argv[1])))
