"""Store images losslessly, where no code of the model keeps a promised distortion."""

import io
import math
import struct
import zlib

import numpy as np

from tf_robustcomp.coding import container
from tf_robustcomp.coding.container import LOSSLESS, Part
from tf_robustcomp.coding.tables import MAX_INFLATION
from tf_robustcomp.utils.errors import BitstreamError

PIECE = struct.Struct("<I")
PIECE_PIXELS = 2**24


def part(images: np.ndarray, kind: int = LOSSLESS) -> Part:
    """Return the part that stores images (n, h, w, c): as PNG where they have 8 bits, else as deflated floats."""
    from PIL import Image

    count, height, width, channels = images.shape
    scaled = np.round(images * 255)
    if np.array_equal((scaled / 255).astype(np.float32), images):
        flat = scaled.astype(np.uint8).reshape(count * height, width * channels)
        return Part(kind, container.PNG, _png(flat, Image), zlib.crc32(flat.tobytes()))
    planes = np.ascontiguousarray(images.astype("<f4").reshape(-1, 1).view(np.uint8).T).tobytes()
    return Part(kind, container.DEFLATE, zlib.compress(planes, 9), zlib.crc32(planes))


def read(data: bytes, header: container.Header, count: int) -> np.ndarray:
    """Return the images of a stream that `part` stored, float32 (count, h, w, c).

    Raises:
        BitstreamError: they are damaged, or not in [0, 1].
    """
    entry = header.entry(LOSSLESS)
    if entry is None:
        return np.zeros((0, *header.image_shape), np.float32)
    return read_images(data, entry, (count, *header.image_shape))


def read_images(data: bytes, entry: container.Entry, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return the images of a part that `part` made, float32 of ``shape``.

    Raises:
        BitstreamError: they are damaged, or not in [0, 1].
    """
    data, name = container.read_part(data, entry), container.part_name(entry.kind)
    count, height, width, channels = shape
    if math.prod(shape) > MAX_INFLATION * len(data):
        raise BitstreamError(f"{len(data)} bytes cannot hold {count} images")
    if entry.coding == container.PNG:
        flat = _read_png(data, (count * height, width * channels), name)
        container.check_content_crc(entry, flat.tobytes())
        return (flat.reshape(shape) / 255).astype(np.float32)
    planes = np.frombuffer(container.inflate(data, entry), np.uint8)
    if planes.size != 4 * math.prod(shape):
        raise BitstreamError(f"{name} do not have the size of {count} images")
    images = np.ascontiguousarray(planes.reshape(4, -1).T).view("<f4").reshape(shape)
    if images.size and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise BitstreamError(f"{name} do not lie in [0, 1]")
    return images.astype(np.float32)


def _png(flat, image_module):
    """PNGs of a tall grey picture, in pieces of a size that every reader opens, each after its length."""
    pieces = []
    for rows in _pieces(flat.shape):
        file = io.BytesIO()
        image_module.fromarray(flat[rows]).save(file, "png", optimize=True)
        pieces.append(PIECE.pack(file.tell()) + file.getvalue())
    return b"".join(pieces)


def _read_png(data, shape, name):
    from PIL import Image

    found, at = [], 0
    try:
        for rows in _pieces(shape):
            (size,) = PIECE.unpack_from(data, at)
            at += PIECE.size
            with Image.open(io.BytesIO(data[at : at + size]), formats=["png"]) as picture:
                if picture.size[::-1] != (rows.stop - rows.start, shape[1]) or picture.mode != "L":
                    raise BitstreamError(f"{name} do not have the size that the header states")
                found.append(np.asarray(picture))
            at += size
    except BitstreamError:
        raise
    except Exception:  # Pillow has many
        raise BitstreamError(f"{name} cannot be read") from None
    if at != len(data):
        raise BitstreamError(f"{name} have bytes left")
    return np.concatenate(found)


def _pieces(shape):
    """Slices of the rows of a picture, each of at most PIECE_PIXELS."""
    height, width = shape
    rows = max(1, PIECE_PIXELS // width)
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]
