"""Photographs to bytes and back, for codecs of images of any size: one stack of symbols in the container.

::

    header | [kinds: 1 byte an image] | [images stored losslessly] | codes | [patches]
    codes: the quality of each coded image, 2 bytes each, then all symbols as one stack
    patches: a stream of the tiles that replace those of the images, then a bit for each tile, whether it is replaced
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.coding import container, integer_symbols, lossless, tables
from tf_robustcomp.coding.container import ALPHA, ENTROPY, KINDS, LAYOUT, PATCHES, Part
from tf_robustcomp.compression import patches
from tf_robustcomp.compression.bitstream import Cost, own_header
from tf_robustcomp.compression.fingerprint import fingerprint
from tf_robustcomp.compression.guarantee import ROUNDING
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.utils.checks import check_images, check_positive
from tf_robustcomp.utils.errors import BitstreamError, InvalidArgument

CODES = 1  # the part's kind
STEP = np.dtype("<u2")
LONGEST_SIDE = 2**16 - 1
STORED, CODED = 0, 1  # kinds of images
LEAST_TILE = 16  # pixels of a side: what one latent covers
SIXTEENTH = 4  # in 64ths of the quality
CLOSE = 0.99  # fraction of a target rate at which the search for a quality ends


def compress(
    model: Any,
    images: np.ndarray,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_distortion: float | None = None,
    layout: bytes = b"",
    extra: Sequence[Part] = (),
    encoder: Any = None,
    tile: int | None = None,
) -> bytes:
    """Return the stream of images; see `LatentCodec.compress`.

    Args:
        model: codec.
        images: (n, h, w, c) in [0, 1].
        quality, target_bpp, max_distortion: at most one of them.
        layout: bytes that the stream carries along.
        extra: parts that the stream carries along.
        encoder: that finds the codes; None is the network.
        tile: side of the tiles that ``max_distortion`` holds for; None is the whole image.

    Raises:
        InvalidArgument: an argument breaks its rule, or no quality meets the target.
    """
    images = check_images(images)
    given = [name for name, value in _named(quality, target_bpp, max_distortion).items() if value is not None]
    if len(given) > 1:
        raise InvalidArgument(f"give one of quality, target_bpp and max_distortion. Received: {' and '.join(given)}")
    if images.shape[3] not in (1, model.channels) or max(images.shape[1:3]) > LONGEST_SIDE:
        raise InvalidArgument(
            f"images must have {model.channels} channels or 1, and sides of at most {LONGEST_SIDE}. Received: shape "
            f"{images.shape}"
        )
    if tile is not None and (max_distortion is None or not LEAST_TILE <= tile <= LONGEST_SIDE):
        raise InvalidArgument(f"tile must be {LEAST_TILE} or more, with max_distortion. Received: tile={tile}")
    layouts = [Part(LAYOUT, container.DEFLATE, zlib.compress(layout, 9), zlib.crc32(layout))] if layout else []
    carried = [*layouts, *extra]

    def stream(codes, stored=()):
        return _stream(model, images.shape[1:], codes if isinstance(codes, list) else [codes], stored, carried)

    if max_distortion is not None and tile:
        return _tiled(model, images, check_positive("max_distortion", max_distortion), tile, encoder, carried)
    if max_distortion is not None:
        return stream(*_within(model, images, check_positive("max_distortion", max_distortion), encoder))
    if target_bpp is None:
        return stream(model.encode(_coloured(model, images), 0.5 if quality is None else quality, encoder))
    return _of_size(model, images, check_positive("target_bpp", target_bpp), stream, encoder)


def decompress(model: Any, data: bytes) -> np.ndarray:
    """Return the float32 images (n, h, w, c) of a stream; see `LatentCodec.decompress`.

    Raises:
        BitstreamError: the stream is corrupt, truncated, or written by another model.
    """
    data, header = own_header(model, data)
    if len(data) != header.end:
        what = "truncated" if len(data) < header.end else "trailing bytes"
        raise BitstreamError(f"{what}: the stream has {header.end} bytes, {len(data)} are there")
    if header.image_shape[2] not in (1, model.channels) or not min(header.image_shape):
        raise BitstreamError(f"its images are {header.image_shape}, which this model does not code")
    kinds = _read_kinds(data, header)
    code = _read_code(model, data, header, int(np.sum(kinds == CODED)))
    exact = lossless.read(data, header, int(np.sum(kinds == STORED)))
    decoded = exact[:0] if code is None else _uncoloured(model.decode(code), header.image_shape[2])
    images = decoded
    if len(exact):
        images = np.empty((header.count, *header.image_shape), np.float32)
        images[kinds == CODED], images[kinds == STORED] = decoded, exact
    entry = header.entry(PATCHES)
    if entry is not None:
        patches.paste(images, *_read_patches(model, data, header, entry))
    return images


def from_pixels(
    model: Any,
    pixels: np.ndarray,
    layout: bytes,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_distortion: float | None = None,
    encoder: Any = None,
    tile: int | None = None,
) -> tuple[bytes, Cost]:
    """Return the stream of pictures of bytes (n, h, w, c), and its cost; c = 2 or 4 have transparency, kept losslessly.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """
    images = np.divide(pixels, 255, dtype=np.float32)
    opaque, extra = images, []
    if pixels.shape[3] in (2, 4):
        opaque, extra = images[..., :-1], [lossless.part(images[..., -1:], ALPHA)]
    data = compress(
        model, np.ascontiguousarray(opaque), quality, target_bpp, max_distortion, layout, extra, encoder, tile
    )
    header = container.read_header(data)
    kinds = _read_kinds(data, header)
    code = _read_code(model, data, header, int(np.sum(kinds == CODED)))
    ideal = estimated_bits(model, code) if code else 0.0
    ideal += sum(8.0 * entry.size for entry in header.entries if entry.kind == PATCHES)
    payload = sum(8 * entry.size for entry in header.entries if entry.kind != LAYOUT)
    stored, coded = (int(np.sum(kinds == kind)) for kind in (STORED, CODED))
    return data, Cost(len(images), ideal, payload, 8 * len(data), stored, (coded,))


def to_pixels(model: Any, data: bytes) -> np.ndarray:
    """Return the pictures (n, h, w, c), uint8, of a stream of `from_pixels`.

    Raises:
        BitstreamError: the stream is corrupt, truncated, or written by another model.
    """
    images, header = decompress(model, data), container.read_header(data)
    alpha = header.entry(ALPHA)
    if alpha is not None:
        transparency = lossless.read_images(data, alpha, (*images.shape[:3], 1))
        images = np.concatenate([images, transparency], axis=3)
    images *= 255
    return np.round(images, out=images).astype(np.uint8)


def estimated_bits(model: Any, code: Any) -> float:
    """Return the ideal bits of a code under the model's tables; a stream is a word and its header longer."""
    total = 0.0

    class Sum(integer_symbols.Stack):
        def add(self, values, index, rows):
            nonlocal total
            total += integer_symbols.ideal_bits(values, index, rows)

    model.push(Sum(), code)
    return total


def _named(quality, target_bpp, max_distortion):
    return {"quality": quality, "target_bpp": target_bpp, "max_distortion": max_distortion}


def _coloured(model, images):
    return np.repeat(images, model.channels, axis=3) if images.shape[3] < model.channels else images


def _uncoloured(images, channels):
    """Grey from equal colours: the mean, whose squared error is at most theirs."""
    return images.mean(axis=3, keepdims=True, dtype=np.float32) if channels < images.shape[3] else images


def _of_size(model, images, target, stream, encoder):
    """The stream of the highest quality with at most ``target`` bits per pixel."""
    most, coloured = target * np.prod(images.shape[:3]) / 8, _coloured(model, images)
    sizes = []

    def attempt(step):
        data = stream(model.encode(coloured, step / LONGEST_SIDE, encoder))
        sizes.append(len(data))
        return data if len(data) <= most else None

    found = _last(attempt, LONGEST_SIDE + 1, enough=lambda data: len(data) > CLOSE * most)
    if found is None:
        rate = target * sizes[0] / most
        raise InvalidArgument(f"target_bpp={target:g} cannot be met: quality 0 takes {rate:.4f} bits per pixel")
    return found


def _within(model, images, bound, encoder):
    """``(codes, images to be stored)``: of each image the lowest quality, in 64ths, that keeps the bound."""
    codes, stored = [], []
    for image in images:

        def attempt(step, image=image[None]):
            code = model.encode(_coloured(model, image), 1 - step / 64, encoder)
            decoded = np.round(_uncoloured(model.decode(code), image.shape[3]) * 255) / 255
            return code if squared_error(image, decoded)[0] <= bound * (1 - ROUNDING) else None

        found = _last(attempt, 65)
        codes.append(found)
        stored += [] if found else [image]
    return codes, stored


def _tiled(model, images, bound, side, encoder, carried):
    """The stream in which every tile keeps the bound: of each image the quality at which it is shortest."""
    codes, chosen = [], []
    for image in images:
        code, found = _image_in_tiles(model, image[None], bound, side, encoder)
        codes.append(code)
        chosen.append(found)
    return _stream(model, images.shape[1:], codes, carried=carried, last=_patches(model, images.shape[3], side, chosen))


def _image_in_tiles(model, image, bound, side, encoder):
    """``(code, patches)`` of an image, the shortest on the way down from the quality that needs no patches."""
    coloured, tiles, own = _coloured(model, image), patches.cut(image, side), {}

    def coded(step):
        code = model.encode(coloured, 1 - step / 64, encoder)
        decoded = np.round(_uncoloured(model.decode(code), image.shape[3]) * 255) / 255
        return code, np.flatnonzero(patches.errors(image, decoded, side).ravel() > bound * (1 - ROUNDING)).tolist()

    def needs_none(step):
        return None if coded(step)[1] else step

    def with_patches(code, failing):
        for place in set(failing) - set(own):
            own[place] = _within(model, tiles[[place]], bound, encoder)
        found = [own[place] if place in failing else None for place in range(len(tiles))]
        patched = _patches(model, image.shape[3], side, [found])
        return found, len(_stream(model, image.shape[1:], [code], last=patched))

    best, shortest = None, np.inf
    for step in range(_last(needs_none, 65) or 0, 65, SIXTEENTH):
        code, failing = coded(step)
        found, size = with_patches(code, failing)
        if size >= shortest:
            break
        best, shortest = (code, found), size
    return best


def _patches(model, channels, side, chosen):
    """The part of patches, if there are any: for each image and tile None, or what `_within` returned for it."""
    kept = [patch is not None for image in chosen for patch in image]
    if not any(kept):
        return []
    found = [patch for image in chosen for patch in image if patch is not None]
    codes, stored = [code for codes, _ in found for code in codes], [image for _, images in found for image in images]
    places = np.packbits(kept).tobytes()
    data = _stream(model, (side, side, channels), codes, stored) + places
    return [Part(PATCHES, ENTROPY, data, zlib.crc32(places))]


def _last(attempt, count, enough=lambda found: False):
    """Return the last result that is not None of ``attempt(step)``, whose results turn into None at some step."""
    low, high, step, best = -1, count, 0, None
    while high - low > 1:
        found = attempt(step)
        if found is None:
            high = step
        else:
            low, best = step, found
            if enough(found):
                break
        step = (low + high) // 2
    return best


# The parts of a stream.


def _stream(model, image_shape, codes, images=(), carried=(), last=()):
    """Bytes of codes, of which each that is None stands for one of the images that are stored."""
    parts, count = list(carried), sum(1 if code is None else len(code) for code in codes)
    coded = [code for code in codes if code is not None]
    if len(images):
        kinds = np.array([CODED if code else STORED for code in codes], np.uint8).tobytes()
        parts.append(Part(KINDS, container.DEFLATE, zlib.compress(kinds, 9), zlib.crc32(kinds)))
        parts.append(lossless.part(np.stack(images)))
    if coded:
        code = coded[0] if len(coded) == 1 else _joined(coded)
        stack = integer_symbols.Stack()
        model.push(stack, code)
        data = code.steps.astype(STEP).tobytes() + stack.to_bytes(model.least_bits((len(code), *model.grid(code.size))))
        parts.append(Part(CODES, ENTROPY, data, _checksum(code.symbols, code.steps, code.size)))
    return container.write(fingerprint(model), image_shape, count, [*parts, *last])


def _joined(codes):
    symbols = tuple(np.concatenate(parts) for parts in zip(*(code.symbols for code in codes), strict=True))
    return dataclasses.replace(codes[0], symbols=symbols, steps=np.concatenate([code.steps for code in codes]))


def _checksum(symbols, steps, size):
    crc = 0
    for part in (size, steps, *symbols):
        crc = zlib.crc32(np.ascontiguousarray(part, "<i4").tobytes(), crc)
    return crc


def _read_kinds(data, header):
    entry = header.entry(KINDS)
    if entry is None:
        least = STEP.itemsize * header.count
        if header.count < 1 or len(data) < least:
            raise BitstreamError(f"{len(data)} bytes cannot hold {header.count} images")
        return np.full(header.count, CODED, np.uint8)
    kinds = np.frombuffer(container.inflate(container.read_part(data, entry), entry), np.uint8)
    if len(kinds) != header.count or not len(kinds) or kinds.max() > CODED:
        raise BitstreamError(f"{container.part_name(KINDS)} do not fit {header.count} images")
    return kinds


def _read_patches(model, data, header, entry):
    """``(tiles (k, side, side, c), whether each tile of the images is replaced)``."""
    part = container.read_part(data, entry)
    inner = container.read_header(part)
    side, other, channels = inner.image_shape
    name = container.part_name(PATCHES)
    if entry.coding != ENTROPY or other != side or channels != header.image_shape[2] or side < LEAST_TILE:
        raise BitstreamError(f"{name} do not fit its images")
    if inner.entry(PATCHES) is not None:
        raise BitstreamError(f"{name} have tiles of their own")
    container.check_content_crc(entry, part[inner.end :])
    count = header.count * math.prod(patches.grid(header.image_shape, side))
    kept = np.unpackbits(np.frombuffer(part[inner.end :], np.uint8)).astype(bool)
    if len(part) != inner.end + -(-count // 8) or kept.sum() != inner.count or kept[count:].any():
        raise BitstreamError(f"{name} do not fit its images")
    return decompress(model, part[: inner.end]), kept[:count]


def _read_code(model, data, header, count):
    entry = header.entry(CODES)
    if (entry is None) != (count == 0) or (entry and entry.coding != ENTROPY):
        raise BitstreamError("its table of parts does not fit its images")
    if entry is None:
        return None
    part, size = container.read_part(data, entry), header.image_shape[:2]
    grid = (count, *model.grid(size))
    if len(part) < count * STEP.itemsize:
        raise BitstreamError(f"{len(part)} bytes cannot hold {count} images")
    steps = np.frombuffer(part[: count * STEP.itemsize], STEP).astype(np.int64)
    stack = part[count * STEP.itemsize :]
    tables.check_count(stack, 1, model.least_bits(grid), BitstreamError)
    with tables.decoder(stack, BitstreamError) as coder:
        symbols = model.pull(coder, grid, steps)
    if _checksum(symbols, steps, size) != entry.content_crc:
        raise BitstreamError(f"{container.part_name(CODES)} decodes to something else than was encoded")
    return model.code(symbols, size, steps)
