"""Reconstructions of clean, rotated and worst-case test images by several compressors, side by side.

    python -m tf_robustcomp.plot_reconstructions --models=out-standard,out-robust --data=mnist

The worst cases are those of the first model.  Below each reconstruction stands its distortion (sum of squared errors).
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import evaluating, files, flags, runs
from tf_robustcomp.errors import InvalidArgument

COMMAND = "plot_reconstructions"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this entry point."""

    models: tuple[str, ...] = flags.field((), "run directories of train_compressor, separated by commas")
    data: str = flags.field(
        "",
        "images: mnist, digits, or FILE.npz; the first of its test set are drawn; default: what the models were "
        "trained on",
    )
    count: int = flags.field(5, "images of each kind", minimum=1, maximum=20)
    gamma: float = flags.field(1.0, "price of the attack")
    output: str = flags.field("reconstructions.png", "path of the figure")


def draw(path, models, clean, gamma=1.0):
    """Draw originals and reconstructions.

    Args:
        path: of the PNG.
        models: dict of name -> compressor, all of one image shape; the first one is attacked.
        clean: images (n, h, w, c) in [0, 1].
        gamma: price of the Wasserstein ball's attack.
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from keras import ops
    from matplotlib import pyplot as plt

    from tf_robustcomp.adversaries import WassersteinBall
    from tf_robustcomp.evaluation.distortions import rotated

    count, attacked = len(clean), next(iter(models))
    worst = WassersteinBall(gamma=gamma, steps=60, method="adaptive")(models[attacked], clean)
    images = np.concatenate([clean, rotated(clean), ops.convert_to_numpy(worst)])
    rows = {"original": images} | {name: ops.convert_to_numpy(model(images)) for name, model in models.items()}
    size = (0.8 * 3 * count, 0.95 * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), 3 * count, figsize=size, layout="constrained")
    for axis_row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture, original in zip(axis_row, pictures, images, strict=True):
            axis.imshow(picture.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if name != "original":
                what = "distortion " if axis is axis_row[0] else ""
                axis.set_xlabel(f"{what}{np.sum((picture - original) ** 2):.0f}", fontsize=7, labelpad=1)
        axis_row[0].set_ylabel(name, fontsize=9)
    for first, title in zip(range(0, 3 * count, count), ("clean", "rotated", f"worst case of {attacked}"), strict=True):
        axes[0, first + count // 2].set_title(title, fontsize=10)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def command(settings):
    """Load, draw."""
    if not settings.models:
        raise InvalidArgument("--models must name at least one run directory. Received: none")
    if not 0 < settings.gamma < float("inf"):
        raise InvalidArgument(f"--gamma must be > 0. Received: {settings.gamma}")
    data = evaluating.images_of(settings)  # before the slow import
    flags.import_backend_quietly()
    from tf_robustcomp.datasets.images import load_images, resized

    models = {Path(path).name: runs.Run(path).load_model() for path in settings.models}
    shapes = {name: model.image_shape for name, model in models.items()}
    if len(set(shapes.values())) > 1:
        raise InvalidArgument(f"--models must be of one image shape. Received: {shapes}")
    side = next(iter(shapes.values()))[0]
    draw(
        Path(settings.output),
        models,
        resized(load_images(data).x_test[: settings.count], side),
        settings.gamma,
    )
    print(settings.output)


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())
