"""Reconstructions of clean, rotated and worst-case images by several compressors, side by side."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.evaluation.summaries import rotated
from tf_robustcomp.utils import drawing

LABEL_WIDTH, LABEL_LINES = 16, 5  # characters; lines in the height of a row


def draw(
    path: Path, models: Mapping[str, Any], clean: np.ndarray, gamma: float = 1.0, title: str | None = None
) -> None:
    """Draw originals and reconstructions.

    Args:
        path: of the PNG.
        models: label -> compressor, all of one image shape; the first one is attacked.
        clean: images (n, h, w, c) in [0, 1].
        gamma: price of the Wasserstein ball's attack.
        title: of the figure.
    """
    plt = drawing.pyplot()
    count, attacked = len(clean), next(iter(models))
    worst = WassersteinBall(gamma=gamma, steps=60, method="adaptive")(models[attacked], clean)
    images = np.concatenate([clean, rotated(clean), ops.convert_to_numpy(worst)])
    size = (0.8 * 3 * count + 1.3, 0.95 * (1 + len(models)) + 0.3)
    figure, axes = plt.subplots(1 + len(models), 3 * count, figsize=size, layout="constrained")
    _draw_row(axes[0], "original", images)
    for axis_row, (label, model) in zip(axes[1:], models.items(), strict=True):
        _draw_row(axis_row, label, ops.convert_to_numpy(model(images)), images)
    kinds = ("clean", "rotated", f"worst case of {attacked}")
    for first, kind in zip(range(0, 3 * count, count), kinds, strict=True):
        axes[0, first + count // 2].set_title(kind, fontsize=10)
    figure.suptitle(title, fontsize=10)
    drawing.save(figure, path)


def _draw_row(axes, label, pictures, originals=None):
    for number, (axis, picture) in enumerate(zip(axes, pictures, strict=True)):
        coloured = picture.shape[-1] == 3
        axis.imshow(np.clip(picture, 0, 1) if coloured else picture.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        if originals is not None:
            distortion = squared_error(picture[None], originals[number][None])[0]
            name = "" if number else "distortion "
            axis.set_xlabel(f"{name}{distortion:.0f}", fontsize=7, labelpad=1)
    # Upright, in lines that fit beside the row: labels of neighbouring rows never meet.
    shown = "\n".join(textwrap.wrap(label, LABEL_WIDTH)[:LABEL_LINES])
    axes[0].set_ylabel(shown, fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
