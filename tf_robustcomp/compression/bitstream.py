"""Images to bytes and back, for every compressor: symbols, entropy model, container."""

import dataclasses
import math
import warnings
import zlib
from typing import Any

import numpy as np

from tf_robustcomp.coding import container, lossless, tables
from tf_robustcomp.coding.container import ENTROPY, FIXED, KINDS, LAYOUT, LOSSLESS, Part
from tf_robustcomp.compression.encoders import Encoder, NetworkEncoder
from tf_robustcomp.compression.fingerprint import digest_of_weights, fingerprint
from tf_robustcomp.compression.guarantee import choose
from tf_robustcomp.compression.symbols import batches, decode_all
from tf_robustcomp.utils.checks import check_choice, check_images
from tf_robustcomp.utils.errors import BitstreamError, InvalidArgument

MODES = ("entropy", "fixed")
STORED = 0  # the kind of an image that is stored losslessly; other kinds are stages


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bits that coding images took, for all of them.

    Attributes:
        images: number of images.
        ideal_bits: cross entropy under the entropy model; for fixed mode n d log2 L.
        payload_bits: of the parts that hold symbols or images.
        file_bits: of the whole stream.
        stored: images stored losslessly.
        stages: number of images coded up to each stage.
    """

    images: int
    ideal_bits: float
    payload_bits: int
    file_bits: int
    stored: int
    stages: tuple

    def per_image(self) -> dict[str, float]:
        """Return the three figures in bits per image, as a dict."""
        names = ("ideal_bits", "payload_bits", "file_bits")
        return {name: getattr(self, name) / max(self.images, 1) for name in names}


def compress(
    model: Any,
    images: np.ndarray,
    mode: str = "entropy",
    max_distortion: float | None = None,
    layout: bytes = b"",
    eight_bits: bool = False,
    progress: bool = False,
    encoder: Encoder | None = None,
) -> tuple[bytes, Cost]:
    """Return the stream of images, and its cost; see `CompressionModel.compress`.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        mode: "entropy" or "fixed".
        max_distortion: float > 0 or None.
        layout: bytes that the stream carries along, for `read_layout`.
        eight_bits: whether ``max_distortion`` is kept by decoded images when these are rounded to 8 bits.
        progress: whether to show a progress bar.
        encoder: that finds the codes, or None.

    Returns:
        ``(bytes, Cost)``

    Raises:
        InvalidArgument: the images or another argument break their rule, or there is no entropy model.
    """
    check_choice("mode", mode, MODES)
    if mode == "entropy" and model.entropy_model is None:
        raise InvalidArgument("mode 'entropy' needs model.fit_entropy_model(images) first; or use mode 'fixed'")
    if mode == "entropy" and model.entropy_weights not in (None, digest_of_weights(model)):
        warnings.warn(
            "the weights have changed since fit_entropy_model: streams are longer than need be; call it again",
            stacklevel=3,
        )
    images = check_images(images, model.image_shape)
    if max_distortion is None:
        symbols = (encoder or NetworkEncoder()).encode_stages(model, images, progress)
        kinds = np.full(len(images), model.stages, np.uint8)
    else:
        symbols, kinds = _chosen(model, images, max_distortion, encoder, eight_bits, progress)
    stage_parts, ideal = _stage_parts(model, symbols, kinds, mode)
    parts = _kind_parts(model, images, kinds) + stage_parts
    payload = sum(8 * len(part.data) for part in parts)
    if layout:
        parts.insert(0, Part(LAYOUT, container.DEFLATE, zlib.compress(layout, 9), zlib.crc32(layout)))
    data = container.write(fingerprint(model), model.image_shape, len(images), parts)
    coded = tuple(int(np.sum(kinds >= stage)) for stage in range(1, model.stages + 1))
    return data, Cost(len(images), ideal, payload, 8 * len(data), int(np.sum(kinds == STORED)), coded)


def own_header(model: Any, data: Any) -> tuple[bytes, container.Header]:
    """Return the bytes of a stream, and its header.

    Raises:
        BitstreamError: the stream is corrupt, or written by another model.
        InvalidArgument: it is not bytes.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidArgument(f"data must be bytes. Received: {type(data).__name__}")
    data = bytes(data)
    header = container.read_header(data)
    if header.fingerprint != fingerprint(model):
        raise BitstreamError(
            f"made by another model: the stream's fingerprint is {header.fingerprint.hex()}, this model's "
            f"{fingerprint(model).hex()}"
        )
    return data, header


def decompress(model: Any, data: bytes, stage: int | None = None, progress: bool = False) -> np.ndarray:
    """Return the images of a stream; see `CompressionModel.decompress`.

    Raises:
        BitstreamError: the stream is corrupt, truncated, or written by another model.
        InvalidArgument: no such stage.
    """
    data, header = own_header(model, data)
    if header.image_shape != model.image_shape:
        raise BitstreamError(f"its images are {header.image_shape}, the model's {model.image_shape}")
    last = model.stages if stage is None else model.check_stage(stage)
    if len(data) > header.end or (stage is None and len(data) < header.end):
        what = "truncated" if len(data) < header.end else "trailing bytes"
        stages = [entry for entry in header.entries if entry.kind < KINDS and entry.start + entry.size <= len(data)]
        hint = f"; stage={stages[-1].kind} can be decoded from what is there" if stages else ""
        raise BitstreamError(f"{what}: the stream has {header.end} bytes, {len(data)} are there{hint}")
    kinds = _read_kinds(data, header, model.stages)
    _check_parts(header, kinds, model.stages)
    stored = lossless.read(data, header, int(np.sum(kinds == STORED)))
    symbols = _read_symbols(model, data, header, kinds, last)
    images = np.zeros((len(kinds), *model.image_shape), np.float32)
    for number in range(1, model.stages + 1):
        rows = np.flatnonzero(np.minimum(kinds, last) == number)
        if len(rows):
            images[rows] = decode_all(model, symbols[rows, : model.stage_width(number)], number, progress)
    images[kinds == STORED] = stored
    return images


def read_layout(data: bytes, header: container.Header) -> bytes:
    """Return the ``layout`` that `compress` was given; empty without any."""
    entry = header.entry(LAYOUT)
    return b"" if entry is None else container.inflate(container.read_part(data, entry), entry)


# The part that says which image is of which kind.


def _kind_parts(model, images, kinds):
    parts = []
    if not np.all(kinds == model.stages):
        data = kinds.tobytes()
        parts.append(Part(KINDS, container.DEFLATE, zlib.compress(data, 9), zlib.crc32(data)))
    exact = images[kinds == STORED]
    if len(exact):
        parts.append(lossless.part(exact))
    return parts


def _read_kinds(data, header, stages):
    entry = header.entry(KINDS)
    if entry is None:
        if header.count > 8 * tables.MAX_INFLATION * max(len(data), 1):
            raise BitstreamError(f"{len(data)} bytes cannot hold {header.count} images")
        return np.full(header.count, stages, np.uint8)
    kinds = np.frombuffer(container.inflate(container.read_part(data, entry), entry), np.uint8)
    if len(kinds) != header.count or (len(kinds) and kinds.max() > stages):
        raise BitstreamError(f"{container.part_name(KINDS)} do not fit {header.count} images of {stages} stages")
    return kinds


def _check_parts(header, kinds, stages):
    """The parts that these kinds need are in the table, in this order, and no others."""
    needed = [KINDS] if header.entry(KINDS) is not None else []
    needed += [LOSSLESS] if np.any(kinds == STORED) else []
    needed += [stage for stage in range(1, stages + 1) if np.any(kinds >= stage)]
    if [entry.kind for entry in header.entries if entry.kind != LAYOUT] != needed:
        raise BitstreamError("its table of parts does not fit its images")


# The parts that hold symbols: one for each stage, of the images that are coded up to it.


def _stage_parts(model, symbols, kinds, mode):
    parts, ideal, first = [], 0.0, 0
    for stage in range(1, model.stages + 1):
        width = model.stage_width(stage)
        coded = symbols[kinds >= stage][:, :width]
        if len(coded):
            own = np.ascontiguousarray(coded[:, first:])
            coding, data = FIXED, tables.encode_uniform(own.ravel(), model.levels)
            ideal_fixed = own.size * math.log2(model.levels)
            if mode == "entropy":
                shorter = model.entropy_model.encode(coded, first)
                if len(shorter) < len(data):
                    coding, data = ENTROPY, shorter
            ideal += model.entropy_model.ideal_bits(coded, first) if coding == ENTROPY else ideal_fixed
            parts.append(Part(stage, coding, data, zlib.crc32(own.astype("<i4").tobytes())))
        first = width
    return parts, ideal


def _read_symbols(model, data, header, kinds, last):
    """Symbols (n, d); zeros where an image has none."""
    parts = [(entry, container.read_part(data, entry)) for entry in header.entries if entry.kind <= last]
    symbols, first = None, 0
    for entry, part in parts:
        width = model.stage_width(entry.kind)
        rows = np.flatnonzero(kinds >= entry.kind)
        known = np.zeros((len(rows), 0), np.int32) if symbols is None else symbols[rows, :first]
        if entry.coding == ENTROPY:
            if model.entropy_model is None:
                raise BitstreamError("it needs the entropy model that it was made with")
            found = model.entropy_model.decode(part, known, width)
        elif entry.coding == FIXED:
            count = len(rows) * (width - first)
            own = tables.decode_uniform(part, count, model.levels, BitstreamError).reshape(len(rows), width - first)
            found = np.concatenate([known, own], axis=1)
        else:
            raise BitstreamError(f"{container.part_name(entry.kind)} has a coding that stages do not have")
        container.check_content_crc(entry, np.ascontiguousarray(found[:, first:]).astype("<i4").tobytes())
        if symbols is None:
            symbols = np.zeros((len(kinds), model.latent_dim), np.int32)
        symbols[rows, :width] = found
        first = width
    return np.zeros((len(kinds), model.latent_dim), np.int32) if symbols is None else symbols


def _chosen(model, images, max_distortion, encoder, eight_bits, progress):
    """Symbols and kinds that keep the promise, a batch of images at a time."""

    def decode(model, symbols, stage):
        decoded = decode_all(model, symbols, stage)
        return np.round(decoded * 255) / 255 if eight_bits else decoded

    parts = [choose(model, part, max_distortion, encoder, decode) for part in batches(images, progress, "encoding")]
    symbols, kinds = zip(*parts, strict=True)
    return np.concatenate(symbols), np.concatenate(kinds)
