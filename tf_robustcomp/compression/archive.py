"""Pictures of any size to one compressed file, and back.

A file is a stream of tiles of the model's size, whose layout names the pictures and their shapes.  Larger pictures are
cut into tiles; a grey model codes channels one by one.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.coding import container
from tf_robustcomp.compression import bitstream, photograph_stream
from tf_robustcomp.compression.encoders import Encoder
from tf_robustcomp.data import pictures
from tf_robustcomp.data.images import resized
from tf_robustcomp.data.pictures import MAX_CHANNELS, MODES, Pictures
from tf_robustcomp.utils import files
from tf_robustcomp.utils.checks import printable
from tf_robustcomp.utils.errors import BitstreamError, DataError, InvalidArgument

NO_TILES = (
    "a model for images of any size codes one source into a file, in entropy mode: run it for each, with neither "
    "--mode nor --resize"
)
NO_LAYOUT = "made by compress(), not by this command: read it with decompress()"


def encode_files(
    model: Any,
    sources: Sequence[str | Path],
    out: str | Path,
    mode: str = "entropy",
    max_distortion: float | None = None,
    resize: bool = False,
    progress: bool = False,
    encoder: Encoder | None = None,
    quality: float | None = None,
    target_bpp: float | None = None,
    tile: int | None = None,
) -> tuple[list[Pictures], list[Pictures], bitstream.Cost]:
    """Write pictures into one compressed file.

    A model for images of any size takes one source, whose pictures are coded whole; transparency is kept losslessly.

    Args:
        model: compressor.
        sources: files and folders of pictures, .npy or .npz files, or ``mnist`` or ``digits`` (their test images).
        out: path of the file.
        mode: "entropy" or "fixed".
        max_distortion: sum of squared errors of a tile, or of a whole picture, on [0, 1], that is never exceeded, or
            None.
        resize: whether pictures are first resized to the model's size, as in training.
        progress: whether to show a progress bar.
        encoder: that finds the codes, as in `CompressionModel.compress`.
        quality, target_bpp, tile: as in `LatentCodec.compress`; of a model for images of any size.

    Returns:
        ``(pictures, the same as the file decodes, cost)``

    Raises:
        DataError: a source cannot be read, or has a name that no decoder would write.
        InvalidArgument: a file is given twice, or an argument breaks its rule.

    Example:
        >>> model = rc.load_pretrained("mnist-standard")
        >>> pictures, decoded, cost = rc.encode_files(model, ["digits"], "digits.rcbs", resize=True)
    """
    items = [pictures.read(source, name) for name, source in pictures.find(sources).items()]
    if model.image_shape is None and (len(items) > 1 or mode != "entropy" or resize):
        raise InvalidArgument(NO_TILES)
    if resize:
        items = [_resized(item, model.image_shape[:2]) for item in items]
    for item in items:
        try:
            _item(item.name, item.pixels.shape)
        except ValueError:
            raise DataError(f"{printable(item.name)}: a name that cannot be decoded to; rename the file") from None
    if model.image_shape is None:
        data, cost = photograph_stream.from_pixels(
            model, items[0].pixels, _layout(items), quality, target_bpp, max_distortion, encoder, tile
        )
        return items, _written(model, data, out, progress), cost
    if quality is not None or target_bpp is not None or tile is not None:
        raise InvalidArgument(
            "quality, target_bpp and tile are for models of images of any size; this one has one rate"
        )
    tiles = np.concatenate([pictures.to_tiles(item.pixels, model.image_shape) for item in items])
    data, cost = bitstream.compress(
        model,
        (tiles / 255).astype(np.float32),
        mode,
        max_distortion,
        layout=_layout(items),
        eight_bits=True,
        progress=progress,
        encoder=encoder,
    )
    return items, _written(model, data, out, progress), cost


def decode_file(model: Any, path: str | Path, stage: int | None = None, progress: bool = False) -> list[Pictures]:
    """Return the pictures of a compressed file.

    Args:
        model: compressor that wrote it.
        path: of the file.
        stage: int, how much of the code to use; None is all.
        progress: whether to show a progress bar.

    Raises:
        DataError: the file is missing, corrupt, truncated, or written by another model; the message names it.

    Example:
        >>> model = rc.load_pretrained("mnist-standard")
        >>> pictures, decoded, cost = rc.encode_files(model, ["digits"], "digits.rcbs", resize=True)
        >>> len(rc.decode_file(model, "digits.rcbs")) == len(pictures)
        True
    """
    data = read_bytes(path)
    try:
        return _decoded(model, data, stage, progress)
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None


def names_in(path: str | Path) -> list[str]:
    """Return the names of the pictures in a compressed file; it needs no model.

    Raises:
        DataError: as of `decode_file`.
    """
    data = read_bytes(path)
    try:
        layout = bitstream.read_layout(data, container.read_header(data))
        if not layout:
            raise BitstreamError(NO_LAYOUT)
        return [name for name, _ in _items(layout)]
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None


def describe_file(path: str | Path) -> str:
    """Return a text about a compressed file; it needs no model."""
    data = read_bytes(path)
    try:
        header = container.read_header(data)
        layout = bitstream.read_layout(data, header)
        items = _items(layout) if layout else []
    except BitstreamError as error:
        raise BitstreamError(f"{path}: {error}") from None
    lines = [
        f"{path}: version {container.VERSION}, {len(data)} bytes of {header.end}",
        f"model {header.fingerprint.hex()}, shape {header.image_shape}, tiles: {header.count}",
    ]
    for entry in header.entries:
        lines.append(f"{container.part_name(entry.kind)}: {entry.size} bytes, {container.CODINGS[entry.coding]}")
    lines += [f"{printable(name)}: {shape[0]} of {shape[1]} x {shape[2]}, {shape[3]} channels" for name, shape in items]
    return "\n".join(lines)


def read_bytes(path: str | Path) -> bytes:
    """Return a file's bytes; raise DataError where it is missing."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    return Path(path).read_bytes()


def _layout(items):
    return json.dumps([{"name": item.name, "shape": list(item.pixels.shape)} for item in items]).encode()


def _written(model, data, out, progress):
    """Write a stream to a file, and return the pictures that it decodes to."""
    decoded = _decoded(model, data, None, progress)
    with files.replacing(out) as temporary:
        temporary.write_bytes(data)
    return decoded


def _resized(item, size):
    return dataclasses.replace(item, pixels=np.round(resized(item.pixels, size) * 255).astype(np.uint8))


def _decoded(model, data, stage, progress):
    header = container.read_header(data)
    layout = bitstream.read_layout(data, header)
    if not layout:
        raise BitstreamError(NO_LAYOUT)
    items = _items(layout)
    if model.image_shape is None:
        if stage is not None:
            raise InvalidArgument("this model has no stages")
        pixels = photograph_stream.to_pixels(model, data)
        if [shape for _, shape in items] != [pixels.shape]:
            raise BitstreamError("its layout does not fit its pictures")
        return [Pictures(items[0][0], pixels)]
    counts = [pictures.number_of_tiles(shape, header.image_shape) for _, shape in items]
    if sum(counts) != header.count:
        raise BitstreamError("its layout does not fit its tiles")
    tiles = np.round(bitstream.decompress(model, data, stage, progress=progress) * 255).astype(np.uint8)
    parts = np.split(tiles, np.cumsum(counts)[:-1])
    return [Pictures(name, pictures.from_tiles(part, shape)) for (name, shape), part in zip(items, parts, strict=True)]


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
    """One entry of a layout; ValueError if it is none that this package writes.

    A name may hold whatever a file system takes, but nothing that leads out of the folder or hides in it.
    """
    parts = name.split("/")
    plain = "\0" not in name and all(
        part and Path(part).name == part and not part.startswith(".") and len(os.fsencode(part)) <= files.LONGEST_NAME
        for part in parts
    )
    sizes = len(shape) == 4 and all(type(size) is int and size > 0 for size in shape) and shape[3] <= MAX_CHANNELS
    kind = name.endswith(".npy") or (name.endswith(".png") and shape[3] in MODES)
    if not (plain and sizes and kind):
        raise ValueError(name)
    return name, tuple(shape)
