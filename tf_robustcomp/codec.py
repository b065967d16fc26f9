"""Images to a compressed file and back, with a trained compressor.

    python -m tf_robustcomp.codec fit --model=RUN --data=mnist        once: the probabilities of its symbols
    python -m tf_robustcomp.codec encode --model=RUN --out=FILE INPUT...
    python -m tf_robustcomp.codec decode --model=RUN --out=FOLDER FILE
    python -m tf_robustcomp.codec info FILE

An INPUT is a .png, .npy or .npz file, or mnist or digits (their test images).  Larger pictures are cut into tiles of
the model's size; a grey model codes channels one by one.  A training fits the probabilities itself when it ends.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tf_robustcomp import files, flags, runs
from tf_robustcomp.errors import BitstreamError, DataError, InvalidArgument
from tf_robustcomp.train_compressor import ENTROPY_IMAGES

COMMAND = "codec"
ACTIONS = ("fit", "encode", "decode", "info")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this entry point."""

    model: str = flags.field("", "run directory of a trained compressor")
    out: str = flags.field("", "encode: the file; decode: a folder")
    mode: str = flags.field("entropy", "coding of the symbols", choices=("entropy", "fixed"))
    max_distortion: float | None = flags.field(
        None, "sum of squared errors of a tile, on [0, 1], that is never exceeded, at the price of bits"
    )
    resize: bool = flags.field(False, "encode: first bring pictures to the model's size, as in training")
    stage: int = flags.field(0, "decode: how much of the code to use; 0: all", minimum=0)
    quality_report: str = flags.field("", "encode: also write this .csv, and a .png of pictures before and after")
    data: str = flags.field("mnist", "fit: training images: mnist, digits, or FILE.npz")


def fit(settings):
    """Fit the entropy model of a trained run, and save it with the model."""
    run = runs.Run(_named(settings, "model"))
    if not run.finished:
        raise InvalidArgument(f"--model {run.path}: holds no trained model; train there first")
    flags.import_backend_quietly()
    from tf_robustcomp.datasets.images import load_images, resized

    model = _loaded(run)
    images = resized(load_images(settings.data).x_train[:ENTROPY_IMAGES], model.image_shape[0])
    model.fit_entropy_model(images)
    run.replace_model(model)
    print(f"{run.model_path}: fitted to {len(images)} images of {settings.data}")


def encode(settings, inputs):
    """Encode pictures into one file."""
    out = Path(_named(settings, "out"))
    bound = settings.max_distortion
    if bound is not None and not 0 < bound < float("inf"):
        raise InvalidArgument(f"--max-distortion must be > 0. Received: {bound}")
    if not inputs:
        raise InvalidArgument("encode takes at least one INPUT. Received: none (see --help)")
    run = runs.Run(_named(settings, "model"))
    _ = run.config
    for path in (out, Path(settings.quality_report or out)):  # before the work, not after it
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.name:
            raise InvalidArgument(f"--out and --quality-report must be names of files. Received: {path}")
    flags.import_backend_quietly()
    import numpy as np

    from tf_robustcomp.compressors import bitstream
    from tf_robustcomp.datasets import pictures
    from tf_robustcomp.evaluation import quality

    read = [pictures.read(source) for source in inputs]  # before the model, which takes longer
    model = _loaded(run)
    if settings.mode == "entropy" and model.entropy_model is None:
        raise InvalidArgument(
            f"--model {run.path}: has no probabilities yet; fit them once with `codec fit --model={run.path}`, or give "
            "--mode=fixed"
        )
    items = [_sized(item, model, settings.resize) for item in read]
    names = [item.name for item in items]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"INPUTs must have different names. Received: {', '.join(names)}")
    tiles = np.concatenate([pictures.to_tiles(item.pixels, model.image_shape) for item in items])
    layout = json.dumps([{"name": item.name, "shape": list(item.pixels.shape)} for item in items])
    data, cost = bitstream.compress(
        model,
        (tiles / 255).astype(np.float32),
        settings.mode,
        bound,
        layout=layout.encode(),
        eight_bits=True,
        progress=True,
    )
    decoded = _restored(data, model, None)
    with files.replacing(out) as temporary:
        temporary.write_bytes(data)
    measured = [quality.measure(one, other) for one, other in zip(items, decoded, strict=True)]
    _print_cost(out, items, cost, measured)
    if settings.quality_report:
        report = Path(settings.quality_report).with_suffix("")
        quality.write_csv(report.with_suffix(".csv"), items, measured)
        quality.draw(report.with_suffix(".png"), items, decoded)
        print(f"{report.with_suffix('.csv')}\n{report.with_suffix('.png')}")


def decode(settings, inputs):
    """Decode a file into a folder."""
    folder = Path(_named(settings, "out"))
    path = _single(inputs, "decode")
    run = runs.Run(_named(settings, "model"))
    _ = run.config
    data = _read(path)
    flags.import_backend_quietly()
    from tf_robustcomp.datasets import pictures

    model = _loaded(run)
    try:
        decoded = _restored(data, model, settings.stage or None)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    for item in decoded:
        print(pictures.write(folder, item))


def info(settings, inputs):
    """Say what a file holds; needs no model."""
    path = _single(inputs, "info")
    data = _read(path)
    flags.import_backend_quietly()
    from tf_robustcomp.compressors import bitstream, container

    try:
        header = container.read_header(data)
        layout = bitstream.read_layout(data, header)
        items = _items(layout) if layout else []
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None
    print(f"{path}: version {container.VERSION}, {len(data)} bytes of {header.end}")
    print(f"model {header.fingerprint.hex()}, images {header.image_shape}, {header.count} tiles")
    for entry in header.entries:
        print(f"{container.part_name(entry.kind)}: {entry.size} bytes, {container.CODINGS[entry.coding]}")
    for name, shape in items:
        print(f"{name}: {shape[0]} of {shape[1]} x {shape[2]}, {shape[3]} channels")


def _restored(data, model, stage):
    """Pictures of a stream."""
    import numpy as np

    from tf_robustcomp.compressors import bitstream, container
    from tf_robustcomp.datasets import pictures

    header = container.read_header(data)
    layout = bitstream.read_layout(data, header)
    if not layout:
        raise BitstreamError("made by compress(), not by this command: read it with decompress()")
    items = _items(layout)
    fits = all(header.image_shape[2] in (1, shape[3]) for _, shape in items)
    if not fits or sum(pictures.number_of_tiles(shape, header.image_shape) for _, shape in items) != header.count:
        raise BitstreamError("its layout does not fit its tiles")
    tiles = np.round(bitstream.decompress(model, data, stage, progress=True) * 255).astype(np.uint8)
    found, first = [], 0
    for name, shape in items:
        last = first + pictures.number_of_tiles(shape, header.image_shape)
        found.append(pictures.Pictures(name, pictures.from_tiles(tiles[first:last], shape)))
        first = last
    return found


def _items(layout):
    """Names and shapes in a layout, which comes from outside: checked."""
    try:
        items = [_item(**item) for item in json.loads(layout)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BitstreamError("its layout is none that this command writes") from None
    if len({name for name, _ in items}) < len(items):
        raise BitstreamError("its layout names a file twice")
    return items


def _item(name, shape):
    """One entry of a layout; ValueError if it is none that this command writes."""
    from tf_robustcomp.datasets.pictures import MAX_CHANNELS, MODES

    plain = name.isprintable() and Path(name).name == name and not name.startswith(".") and len(name.encode()) <= 255
    sizes = len(shape) == 4 and all(type(size) is int and size > 0 for size in shape) and shape[3] <= MAX_CHANNELS
    kind = name.endswith(".npy") or (name.endswith(".png") and shape[3] in MODES)
    if not (plain and sizes and kind):
        raise ValueError(name)
    return name, tuple(shape)


def _sized(item, model, resize):
    height, width = item.pixels.shape[1:3]
    if not resize:
        if height < model.image_shape[0] or width < model.image_shape[1]:
            print(
                f"{item.name}: {height} x {width} is smaller than the model's {model.image_shape[0]} x "
                f"{model.image_shape[1]} and is filled up by reflection; --resize enlarges it, as in training",
                file=sys.stderr,
            )
        return item
    import numpy as np

    from tf_robustcomp.datasets.images import resized

    pixels = np.round(resized(item.pixels, model.image_shape[0]) * 255).astype(np.uint8)
    return dataclasses.replace(item, pixels=pixels)


def _print_cost(out, items, cost, measured):
    import numpy as np

    pixels = sum(int(np.prod(item.pixels.shape[:3])) for item in items)
    number = sum(len(item.pixels) for item in items)
    psnr = np.concatenate([one.psnr for one in measured])
    similarity = np.concatenate([one.ms_ssim for one in measured])
    print(
        f"{out}: {cost.file_bits // 8} bytes for {number} pictures, {cost.file_bits / pixels:.4f} bits per pixel\n"
        f"bits per picture: ideal {cost.ideal_bits / number:.3f}, payload {cost.payload_bits / number:.3f}, "
        f"file {cost.file_bits / number:.3f}\n"
        f"distortion {np.mean(np.concatenate([one.distortion for one in measured])):.3f}, "
        f"PSNR {np.mean(psnr[np.isfinite(psnr)]) if np.isfinite(psnr).any() else float('inf'):.2f} dB, "
        f"MS-SSIM {np.mean(similarity):.4f}\n"
        f"tiles: {cost.images}, of which coded up to "
        + ", ".join(f"stage {stage}: {n}" for stage, n in enumerate(cost.stages, 1))
        + f"; stored losslessly: {cost.stored}",
        flush=True,
    )


def _loaded(run):
    model = run.load_model()
    if not hasattr(model, "decompress"):
        raise InvalidArgument(f"--model {run.path}: its model is not a compressor")
    return model


def _read(path):
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path.read_bytes()


def _named(settings, name):
    value = getattr(settings, name)
    if not value:
        raise InvalidArgument(f"{flags.spelled(name)} must be given. Received: none (see --help)")
    return value


def _single(inputs, action):
    if len(inputs) != 1:
        raise InvalidArgument(f"{action} takes one FILE. Received: {' '.join(inputs) or 'none'} (see --help)")
    return inputs[0]


def command(settings, action="", *inputs):
    """`fit`, `encode`, `decode` or `info`."""
    if action not in ACTIONS:
        raise InvalidArgument(
            f"the first word must be one of {', '.join(ACTIONS)}. Received: {action or 'none'} (see --help)"
        )
    if action == "fit":
        if inputs:
            raise InvalidArgument(f"fit takes no further words. Received: {' '.join(inputs)} (see --help)")
        return fit(settings)
    return {"encode": encode, "decode": decode, "info": info}[action](settings, inputs)


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=None)


if __name__ == "__main__":
    sys.exit(main())
