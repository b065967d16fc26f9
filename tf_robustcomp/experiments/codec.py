"""Encode and decode files with the compressor of a run, and report the quality."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.compression import archive
from tf_robustcomp.compression.encoders import ListEncoder
from tf_robustcomp.compression.encoders.code_list import CODES, list_path
from tf_robustcomp.compression.pretrained import load_pretrained
from tf_robustcomp.data import pictures
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.evaluation import quality
from tf_robustcomp.experiments.compressor import ENTROPY_IMAGES
from tf_robustcomp.experiments.encoders import chosen
from tf_robustcomp.runs.directory import LOCK
from tf_robustcomp.runs.models import SHIPPED, load_trained, model_files, model_path
from tf_robustcomp.utils import files
from tf_robustcomp.utils.checks import printable
from tf_robustcomp.utils.drawing import MARK
from tf_robustcomp.utils.errors import InvalidArgument


def fit(settings: Any) -> None:
    """Fit the entropy model of a trained run, and save it with the model."""
    path = _own_path(settings.model)
    with files.locked(path.parent / LOCK, f"{path.parent}: another process trains here; wait for it to end"):
        model = _of_one_size(settings.model)
        images = images_of(settings.data, "train", model.image_shape[:2], ENTROPY_IMAGES)
        model.fit_entropy_model(images)
        with files.replacing(path) as temporary:
            model.save(temporary)
    print(f"{path}: fitted to {len(images)} images of {settings.data}")


def fit_list(settings: Any) -> None:
    """Write the list of codes of a trained run's training images, beside the model."""
    model = _of_one_size(settings.model)
    path = list_path(_own_path(settings.model))
    files.check_outputs([(path, CODES)], model_files(settings.model), settings.force)
    images = images_of(settings.data, "train", model.image_shape[:2])
    encoder = ListEncoder.fit(model, images, chosen(settings, model, model_path(settings.model)), progress=True)
    encoder.save(path)
    print(f"{path}: {len(encoder.codes)} different codes of {len(images)} images of {settings.data}")


def encode(settings: Any, sources: Sequence[str]) -> None:
    """Encode pictures into one file, and print its size and quality."""
    model = loaded(settings.model)
    if model.image_shape is None:
        if "list" in settings.encoder:
            raise InvalidArgument("--encoder=list is for models of images of one size; photographs take search")
        encoder = chosen(settings, model, Path())
    elif settings.mode == "entropy" and model.entropy_model is None:
        raise InvalidArgument(
            f"--model {settings.model}: has no probabilities yet; fit them once with `codec fit "
            f"--model={settings.model}`, or give --mode=fixed"
        )
    else:
        encoder = chosen(settings, model, model_path(settings.model))
    items, decoded, cost = archive.encode_files(
        model,
        sources,
        settings.out,
        settings.mode,
        settings.max_distortion,
        settings.resize,
        progress=True,
        encoder=encoder,
        quality=settings.quality,
        target_bpp=settings.target_bpp,
        tile=settings.tile or None,
    )
    _warn(items, model.image_shape, settings.resize)
    measured = quality.measure(items, decoded, settings.similarity)
    _print_cost(settings.out, items, cost, measured, model.image_shape)
    if settings.quality_report:
        (table, _), (drawing, _) = settings.report_paths()
        quality.write_csv(table, items, measured)
        quality.draw(drawing, items, decoded)
        print(f"{table}\n{drawing}")


def decode(settings: Any, path: str) -> None:
    """Decode a file into a folder, and print the paths written."""
    folder = Path(settings.out)
    targets = [pictures.target(folder, name) for name in archive.names_in(path)]
    marks = [(target, MARK if target.suffix == ".png" else None) for target in targets]
    files.check_outputs(marks, [path, *(model_files(settings.model) if settings.model else [])], settings.force)
    decoded = archive.decode_file(loaded(settings.model), path, settings.stage or None, progress=True)
    folder.mkdir(parents=True, exist_ok=True)
    for item in decoded:
        print(printable(str(pictures.write(folder, item))))


def info(path: str) -> None:
    """Print what a file holds."""
    print(archive.describe_file(path))


def loaded(path: str) -> Any:
    """Return the compressor of a run directory, of a folder with model.keras, or of a .keras file; "" is `photo`.

    Raises:
        InvalidArgument: its model is not a compressor.
        RunError: there is none, or it cannot be read.
    """
    model = load_trained(path) if path else load_pretrained("photo")
    if not hasattr(model, "decompress"):
        raise InvalidArgument(f"--model {path}: its model is not a compressor")
    return model


def _of_one_size(path):
    model = loaded(path)
    if model.image_shape is None:
        raise InvalidArgument(f"--model {path}: fits itself in training; fit and fit-list are for images of one size")
    return model


def _own_path(model):
    path = model_path(model)
    if path.parent == SHIPPED:
        _of_one_size(model)
        raise InvalidArgument(f"--model {model}: comes with the package and stays as it is; train or copy one first")
    return path


def _warn(items, image_shape, resize):
    """Say what is not kept, and that pictures are smaller than a tile: a line for each, however many they are."""
    found: dict[str, list[str]] = {}
    for item in items:
        for lost in item.lost:
            found.setdefault(f"does not keep {lost}", []).append(printable(item.name))
        height, width = item.pixels.shape[1:3]
        if image_shape and not resize and (height < image_shape[0] or width < image_shape[1]):
            smaller = f"{height} x {width} is smaller than the model's {image_shape[0]} x {image_shape[1]} and "
            reason = f"{smaller}is filled up by reflection; --resize enlarges it, as in training"
            found.setdefault(reason, []).append(printable(item.name))
    for reason, names in found.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"{names[0]}{others}: {reason}", file=sys.stderr)


def _print_cost(out, items, cost, measured, image_shape):
    pixels = sum(int(np.prod(item.pixels.shape[:3])) for item in items)
    number = sum(len(item.pixels) for item in items)
    psnr = np.concatenate([one.psnr for one in measured])
    finite = psnr[np.isfinite(psnr)]
    alike = np.concatenate([one.ms_ssim for one in measured])
    similarity = f", MS-SSIM {np.nanmean(alike):.4f}" if np.isfinite(alike).any() else ""
    what = "tiles" if image_shape else "pictures"
    stages = ", ".join(f"stage {stage}: {count}" for stage, count in enumerate(cost.stages, 1))
    counted = f"{number} picture" if number == 1 else f"{number} pictures"
    print(
        f"{out}: {cost.file_bits // 8} bytes for {counted}, {cost.file_bits / pixels:.4f} bits per pixel\n"
        f"bits per picture: ideal {cost.ideal_bits / number:.3f}, payload {cost.payload_bits / number:.3f}, "
        f"file {cost.file_bits / number:.3f}\n"
        f"distortion {np.mean(np.concatenate([one.distortion for one in measured])):.3f}, "
        f"PSNR {np.mean(finite) if len(finite) else float('inf'):.2f} dB{similarity}\n"
        f"{what}: {cost.images}, of which coded up to {stages}; stored losslessly: {cost.stored}",
        flush=True,
    )
