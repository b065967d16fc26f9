"""Rate and distortion of compressors' files beside common image formats, and the cost of a promise."""

import dataclasses
import io
import math
from typing import Any

import numpy as np

from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.data.shifts import noisy, rotate
from tf_robustcomp.evaluation.results import Results, Row
from tf_robustcomp.utils.drawing import COLOURS, line

QUALITIES = {"JPEG": (1, 5, 10, 20, 40, 70), "WebP": (0, 1, 5, 10, 20, 40, 70)}


@dataclasses.dataclass(frozen=True)
class RateRow(Row):
    """A file: ``variant`` (mode of a compressor, quality of a format), size, and mean distortion of its images."""

    variant: str
    images: int
    bytes: int
    bits_per_image: float
    distortion: float


@dataclasses.dataclass(frozen=True, eq=False)
class Rates(Results):
    """Distortion against the file's bits per image."""

    row_type = RateRow

    def draw(self, axes: Any) -> None:
        """Draw a line for each format and compressor; both axes are logarithmic, so lossless files are left out."""
        for number, (label, rows) in enumerate(self.lines().items()):
            points = sorted((row.bits_per_image, row.distortion) for row in rows if row.distortion > 0)
            if points:
                axes.plot(*zip(*points, strict=True), **line(number, number // len(COLOURS)), ms=4, label=label)
        axes.set(xscale="log", yscale="log", xlabel="bits per image, whole file", ylabel="distortion per image")


@dataclasses.dataclass(frozen=True)
class PromiseRow(Row):
    """Cost of a promised greatest distortion on one kind of images.

    Attributes:
        shift: of the images.
        images: number of images.
        max_distortion: promised.
        without: fraction of the images whose learned code alone breaks the promise.
        worst: greatest distortion reached.
        bits_per_image: of the whole file.
        stored: fraction of images stored losslessly.
    """

    shift: str
    images: int
    max_distortion: float
    without: float
    worst: float
    bits_per_image: float
    stored: float


@dataclasses.dataclass(frozen=True, eq=False)
class Promise(Results):
    """Rows for each model and shift."""

    row_type = PromiseRow


def rates_of_formats(images: np.ndarray) -> Rates:
    """Return sizes and distortions of PNG, WebP and JPEG of all images as one picture.

    Args:
        images: (n, h, w, c) in [0, 1] of 8 bits, c 1 or 3.
    """
    from PIL import Image, features

    pixels = np.round(images * 255).astype(np.uint8)
    picture = _mosaic(pixels)
    whole = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    jobs: list[tuple[str, str, dict]] = [("PNG", "lossless", {"format": "png", "optimize": True})]
    jobs += [("JPEG", f"quality {q}", {"format": "jpeg", "quality": q, "optimize": True}) for q in QUALITIES["JPEG"]]
    if features.check("webp"):
        jobs += [("WebP", "lossless", {"format": "webp", "lossless": True})]
        jobs += [("WebP", f"quality {q}", {"format": "webp", "quality": q, "method": 6}) for q in QUALITIES["WebP"]]
    rows = []
    for label, variant, options in jobs:
        file = io.BytesIO()
        whole.save(file, **options)
        back = np.asarray(Image.open(file).convert(whole.mode)).reshape(picture.shape)
        squares = np.sum(((back / 255.0) - (picture / 255.0)) ** 2)
        rows.append(_rate_row(label, 1, 1, variant, len(images), file.tell(), float(squares / len(images))))
    return Rates(tuple(rows))


def rates_of_model(label: str, model: Any, images: np.ndarray, progress: bool = False, encoder: Any = None) -> Rates:
    """Return sizes and distortions of a compressor's files in both modes, and in entropy mode cut after each stage.

    Args:
        label: name in the rows.
        model: compressor with an entropy model.
        images: (n, h, w, c) in [0, 1].
        progress: whether to show progress bars.
        encoder: that finds the codes, or None.
    """
    from tf_robustcomp.coding import container
    from tf_robustcomp.compression import bitstream

    rows = []
    for mode in bitstream.MODES:
        data, _ = bitstream.compress(model, images, mode, progress=progress, encoder=encoder)
        for stage in range(1, model.stages + 1):
            if mode == "fixed" and stage < model.stages:
                continue
            header = container.read_header(data)
            cut = data[: sum((entry.start + entry.size for entry in header.entries if entry.kind == stage), 0)]
            decoded = bitstream.decompress(model, cut, stage, progress)
            squares = np.mean(squared_error(decoded, images))
            rows.append(_rate_row(label, stage, model.stages, mode, len(images), len(cut), float(squares)))
    return Rates(tuple(rows))


def shifts(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images in and out of the distribution, by name."""
    rotated = rotate(images, np.full(len(images), 45, np.float32))
    shifted = {
        "clean": images,
        "rotated by 45 degrees": np.asarray(rotated),
        "noisy (rho 20.1)": noisy(images, 20.1),
        "inverted": 1 - images,
    }
    return {name: (np.round(part * 255) / 255).astype(np.float32) for name, part in shifted.items()}


def cost_of_promise(
    label: str, model: Any, images: np.ndarray, max_distortion: float, progress: bool = False, encoder: Any = None
) -> Promise:
    """Code shifted images so that none is further away than promised, and return the cost.

    Args:
        label: name in the rows.
        model: compressor with an entropy model.
        images: (n, h, w, c) in [0, 1].
        max_distortion: sum of squared errors of an image.
        progress: whether to show progress bars.
        encoder: that finds the codes, or None.
    """
    from tf_robustcomp.compression import bitstream

    rows = []
    for name, part in shifts(images).items():
        plain = bitstream.decompress(model, bitstream.compress(model, part)[0], 1)
        data, cost = bitstream.compress(
            model, part, max_distortion=max_distortion, eight_bits=True, progress=progress, encoder=encoder
        )
        decoded = np.round(bitstream.decompress(model, data) * 255) / 255
        rows.append(
            PromiseRow(
                model=label,
                stage=1,
                stages=1,
                shift=name,
                images=len(part),
                max_distortion=max_distortion,
                without=float(np.mean(squared_error(part, plain) > max_distortion)),
                worst=float(squared_error(part, decoded).max()),
                bits_per_image=cost.file_bits / len(part),
                stored=cost.stored / len(part),
            )
        )
    return Promise(tuple(rows))


def _rate_row(label, stage, stages, variant, images, size, distortion):
    return RateRow(
        model=label,
        stage=stage,
        stages=stages,
        variant=variant,
        images=images,
        bytes=size,
        bits_per_image=8 * size / images,
        distortion=distortion,
    )


def _mosaic(pixels):
    """All images (n, h, w, c) in one picture, as square as can be, the rest black."""
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    whole = np.zeros((rows * columns, height, width, channels), np.uint8)
    whole[:count] = pixels
    return whole.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, -1, channels)
