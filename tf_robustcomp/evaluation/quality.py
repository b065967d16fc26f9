"""Quality of decoded pictures: distortion, PSNR, MS-SSIM; as CSV and side by side."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.data.similarity import scale_weights
from tf_robustcomp.utils import drawing, table

COLUMNS = ("name", "picture", "height", "width", "distortion", "psnr_db", "ms_ssim")
DRAWN = 10
BATCH = 500


@dataclasses.dataclass(frozen=True)
class Quality:
    """Arrays (n,): sum of squared errors on [0, 1], PSNR in dB (inf where equal), MS-SSIM (nan below 11 pixels)."""

    distortion: np.ndarray
    psnr: np.ndarray
    ms_ssim: np.ndarray


def measure(originals: Sequence[Any], decoded: Sequence[Any], similarity: bool = True) -> list[Quality]:
    """Compare `data.pictures.Pictures` of bytes, one with one.

    Args:
        originals: pictures.
        decoded: as many, each of the shape of its original.
        similarity: whether to measure MS-SSIM, which takes most of the time; else it is nan.
    """
    found: list[Any] = [None] * len(originals)
    by_shape: dict[tuple, list[int]] = {}
    for number, item in enumerate(originals):
        by_shape.setdefault(item.pixels.shape[1:], []).append(number)
    for shape, numbers in by_shape.items():  # MS-SSIM is set up once for all pictures of one shape
        one, other = (np.concatenate([items[n].pixels for n in numbers]) for items in (originals, decoded))
        squares = np.array([np.sum((a / 255 - b / 255) ** 2) for a, b in zip(one, other, strict=True)])
        with np.errstate(divide="ignore"):
            psnr = -10 * np.log10(squares / np.prod(shape))
        alike = ms_ssim(one, other) if similarity else np.full(len(one), np.nan)
        ends = np.cumsum([len(originals[n].pixels) for n in numbers])[:-1]
        for n, *values in zip(numbers, *(np.split(array, ends) for array in (squares, psnr, alike)), strict=True):
            found[n] = Quality(*values)
    return found


def ms_ssim(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the multi-scale structural similarity (n,) of bytes (n, h, w, c), nan below 11 pixels."""
    import tensorflow as tf

    weights = scale_weights(one.shape[1:3])
    if not len(weights):
        return np.full(len(one), np.nan)
    parts = [
        tf.image.ssim_multiscale(
            tf.constant(one[first : first + BATCH]),
            tf.constant(other[first : first + BATCH]),
            max_val=255,
            power_factors=weights,
        ).numpy()
        for first in range(0, len(one), BATCH)
    ]
    return np.concatenate(parts)


def write_csv(path: Path, originals: Sequence[Any], measured: Sequence[Quality]) -> None:
    """Write a row for each picture."""
    rows = []
    for item, quality in zip(originals, measured, strict=True):
        for number, values in enumerate(zip(quality.distortion, quality.psnr, quality.ms_ssim, strict=True)):
            cells = [item.name, number, *item.pixels.shape[1:3], *(f"{value:.6g}" for value in values)]
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    table.write_csv(path, rows, COLUMNS)


def draw(path: Path, originals: Sequence[Any], decoded: Sequence[Any]) -> None:
    """Draw the first pictures: originals above, decoded ones below."""
    plt = drawing.pyplot()
    items = zip(originals, decoded, strict=True)
    pairs = [pair for one, other in items for pair in zip(one.pixels, other.pixels, strict=True)][:DRAWN]
    figure, axes = plt.subplots(2, len(pairs), figsize=(1.3 * len(pairs) + 0.6, 3), layout="constrained", squeeze=False)
    for column, pair in enumerate(pairs):
        for axis, pixels in zip(axes[:, column], pair, strict=True):
            axis.imshow(pixels if pixels.shape[-1] in (3, 4) else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        squares = np.sum((pair[0] / 255 - pair[1] / 255) ** 2)
        axes[1, column].set_xlabel(f"{squares:.1f}", fontsize=8)
    axes[0, 0].set_ylabel("original")
    axes[1, 0].set_ylabel("decoded")
    drawing.save(figure, path)
