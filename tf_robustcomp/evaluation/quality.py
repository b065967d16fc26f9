"""How near decoded pictures are to their originals: distortion, PSNR, MS-SSIM; as CSV and side by side."""

import csv
import dataclasses

import numpy as np

from tf_robustcomp import files

COLUMNS = ("name", "picture", "height", "width", "distortion", "psnr_db", "ms_ssim")
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales (Wang, Simoncelli, Bovik 2003)
WINDOW = 11
DRAWN = 10
BATCH = 500


@dataclasses.dataclass(frozen=True)
class Quality:
    """Arrays (n,): sum of squared errors on [0, 1], PSNR in dB (inf where equal), MS-SSIM (nan below 11 pixels)."""

    distortion: np.ndarray
    psnr: np.ndarray
    ms_ssim: np.ndarray


def measure(original, decoded):
    """Compare `datasets.pictures.Pictures` of bytes."""
    one, other = original.pixels, decoded.pixels
    squares = np.array([np.sum((a / 255 - b / 255) ** 2) for a, b in zip(one, other, strict=True)])
    with np.errstate(divide="ignore"):
        psnr = -10 * np.log10(squares / np.prod(one.shape[1:]))
    return Quality(squares, psnr, ms_ssim(one, other))


def ms_ssim(one, other):
    """Multi-scale structural similarity of bytes (n, h, w, c) each: (n,).

    Small pictures have fewer than five scales: as many as leave the window of 11 pixels whole, their weights scaled to
    sum 1.
    """
    import tensorflow as tf

    scales = int(np.log2(max(min(one.shape[1:3]) / WINDOW, 0.5))) + 1
    if scales < 1 or min(one.shape[1:3]) < WINDOW:
        return np.full(len(one), np.nan)
    weights = np.array(WEIGHTS[: min(scales, len(WEIGHTS))])
    parts = [
        tf.image.ssim_multiscale(
            tf.constant(one[first : first + BATCH]),
            tf.constant(other[first : first + BATCH]),
            max_val=255,
            power_factors=weights / weights.sum(),
        ).numpy()
        for first in range(0, len(one), BATCH)
    ]
    return np.concatenate(parts)


def write_csv(path, originals, measured):
    """A row for each picture."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for item, quality in zip(originals, measured, strict=True):
            rows = zip(quality.distortion, quality.psnr, quality.ms_ssim, strict=True)
            for number, values in enumerate(rows):
                writer.writerow([item.name, number, *item.pixels.shape[1:3], *(f"{value:.6g}" for value in values)])


def draw(path, originals, decoded):
    """Original above, decoded below, of the first pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

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
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
