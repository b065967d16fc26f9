"""The committed bounds follow from the committed files and the figures beside them."""

import math
from pathlib import Path

import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.experiments import bounds
from tf_robustcomp.utils import table

FOLDER = Path(__file__).parents[2] / "results/bounds"
ROWS = [(path.stem, row) for path in sorted(FOLDER.glob("*.csv")) for row in table.read_csv(path)]
FILES = sorted(FOLDER.glob("networks/*.rcnb"))
COMPARED = 32  # networks, of which one was chosen
SIZES = {"cifar10": (9, 3, 2), "mnist": (6, 2, 1), "mnist-views": (6, 2, 2)}  # repeats, stages, views


def row_of(path):
    """The row of a file: named after its table, and where that has several rows after the row or its seed."""
    (row,) = [
        row
        for study, row in ROWS
        if path.stem in (study, f"{study}-{row['network']}", f"{study}-{row['network'].split('-')[-1]}")
    ]
    return row


def test_there_are_results():
    assert {name for name, _ in ROWS} >= {
        "cifar10",
        "mnist",
        "mnist-curve",
        "mnist-prior",
        "mnist-views",
        "random",
        "subspace",
    }
    assert (FOLDER / "mnist-curve.png").is_file()


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value if isinstance(value, str) else value["network"])
def test_the_bound_follows_from_the_bits_and_the_training_error(name, row):
    arguments = float(row["training_error"]), float(row["bits"]), int(row["examples"])
    assert rc.generalization_bound(*arguments) == pytest.approx(float(row["bound"]), abs=1e-6)  # bits have two decimals
    assert (row["verdict"] == "vacuous") == (float(row["bound"]) >= float(row["chance"]))
    assert float(row["test_error"]) < float(row["bound"])
    if name == "random":
        assert row["verdict"] == "vacuous" and float(row["bits"]) >= rc.least_bits(arguments[0], 0.9, arguments[2])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_and_the_choice_of_the_network_are_paid_for(path):
    assert rc.code_bits(path) == 8 * path.stat().st_size - 32
    assert rc.code_bits(path) + math.log2(COMPARED) <= float(row_of(path)["bits"]) + 0.01
    assert rc.load_code(path).output_shape == (None, 10)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.split("-s")[0] in SIZES], ids=lambda p: p.stem)
def test_the_networks_compute_what_their_description_says(path):
    """So the committed errors stay those of the files, however the layers are written."""
    model = rc.load_code(path)
    images = np.random.default_rng(0).random((3, *model.input_shape[1:])).astype("float32")
    repeats, stages, views = SIZES[path.stem.split("-s")[0]]
    shifts = [(i, j) for i in range(views) for j in range(views)]
    expected = np.mean([logits(model.get_weights(), shifted(images, *s), repeats, stages) for s in shifts], axis=0)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=0, atol=1e-3)


def logits(weights, images, repeats, stages):
    """The compact network by NumPy, in float64."""
    depthwise, pointwise, bias, dense, dense_bias = (w.astype(float) for w in weights)
    channels, frequencies = images.shape[-1], [(i, j) for i in range(5) for j in range(5)]
    filters = np.zeros((channels, 5, 5, len(bias)))
    for number in range(len(bias)):
        order, channel = divmod(number, channels)
        i, j = sorted(frequencies, key=lambda f: (sum(f), max(f), f))[order]
        filters[channel, :, :, number] = np.outer(cosine(i), cosine(j))
    x = np.einsum("nhwcab,cabf->nhwf", windows(scaled(images.astype(float)), 5, (1, 2))[:, ::2, ::2], filters)
    for block in range(repeats):
        if block and block % math.ceil(repeats / stages) == 0:
            n, height, width, _ = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))
        y = np.einsum("nhwcab,abc->nhwc", windows(x, 3, (1, 1)), depthwise[..., 0])
        x = x + np.maximum(scaled(y), 0) @ pointwise[0, 0] + bias
    return scaled(np.maximum(scaled(x), 0).mean(axis=(1, 2)), 4) @ dense + dense_bias


def shifted(images, down, right):
    found = np.zeros_like(images)
    found[:, down:, right:] = images[:, : images.shape[1] - down, : images.shape[2] - right]
    return found


def scaled(x, power=1):
    return x * np.sqrt(power / (np.square(x).mean(axis=tuple(range(1, x.ndim)), keepdims=True) + 1e-6))


def windows(x, size, around):
    return np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), around, around, (0, 0))), (size, size), axis=(1, 2)
    )


def cosine(frequency):
    return np.sqrt((2 if frequency else 1) / 5) * np.cos(np.pi * frequency * (np.arange(5) + 0.5) / 5)


def test_the_figure_has_every_network_and_the_means_over_seeds(monkeypatch):
    row = {"test_error": "", "training_error": 0.03, "chance": 0.9}
    rows = [
        row | {"network": f"w{weight}-s{seed}", "bits": bits, "bound": bound}
        for weight, seed, bits, bound in ((1, 0, 30, 0.4), (1, 1, 50, 0.2), (9, 0, 20, 0.1), (9, 1, 10, 0.3))
    ]
    figures = []
    monkeypatch.setattr(bounds.drawing, "save", lambda figure, path: figures.append(figure))
    bounds.draw(Path("unused.png"), rows)
    (axis,) = figures[0].axes
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[15, 0.2], [40, 0.3]])
    assert len(axis.lines[1].get_xydata()) == 0  # no test images
    np.testing.assert_allclose(axis.collections[0].get_offsets(), [[30, 0.4], [50, 0.2], [20, 0.1], [10, 0.3]])
