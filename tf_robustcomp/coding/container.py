"""The container of a compressed stream: a header with a table of parts, each with its checksum, then the parts.

::

    magic "RCBS" | version | fingerprint of the model (16 bytes) | h, w, c | images | number of parts
    for each part: kind | coding | bytes | CRC-32 of the bytes | CRC-32 of what they decode to
    CRC-32 of all the above
    the parts, one after the other

All integers are little-endian.  Parts come in the order in which they are needed, stage 1 before stage 2, so that a
prefix of the file decodes.
"""

import dataclasses
import struct
import zlib
from collections.abc import Sequence

from tf_robustcomp.coding import tables
from tf_robustcomp.utils.errors import BitstreamError

MAGIC = b"RCBS"
VERSION = 1
START = struct.Struct("<4sB16sHHHIB")
ENTRY = struct.Struct("<BBIII")
CHECKSUM = struct.Struct("<I")

# Kinds of parts below the stages' own numbers.
KINDS, LOSSLESS, LAYOUT, ALPHA, PATCHES = 201, 202, 203, 204, 205
NAMES = {
    KINDS: "the images' kinds",
    LOSSLESS: "the images stored losslessly",
    LAYOUT: "the layout",
    ALPHA: "the transparency",
    PATCHES: "the tiles with codes of their own",
}
FIXED, ENTROPY, DEFLATE, PNG = 0, 1, 2, 3
CODINGS = {FIXED: "fixed", ENTROPY: "entropy", DEFLATE: "deflate", PNG: "png"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part: ``kind`` (a stage, or KINDS, LOSSLESS, LAYOUT), ``coding``, its bytes, CRC-32 of their content."""

    kind: int
    coding: int
    data: bytes
    content_crc: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A part's line in the table, and where its bytes begin."""

    kind: int
    coding: int
    size: int
    checksum: int
    content_crc: int
    start: int


@dataclasses.dataclass(frozen=True)
class Header:
    """Parsed stream header."""

    fingerprint: bytes
    image_shape: tuple
    count: int
    entries: tuple
    size: int

    @property
    def end(self) -> int:
        """Length of the whole stream."""
        return self.size + sum(entry.size for entry in self.entries)

    def entry(self, kind: int) -> Entry | None:
        """Return the part of a kind, or None."""
        return next((entry for entry in self.entries if entry.kind == kind), None)

    @property
    def stages(self) -> list[int]:
        """Stage indices present in the stream."""
        return [entry.kind for entry in self.entries if entry.kind < KINDS]


def write(fingerprint: bytes, image_shape: Sequence[int], count: int, parts: Sequence[Part]) -> bytes:
    """Return the bytes of a stream: header, then parts."""
    header = START.pack(MAGIC, VERSION, fingerprint, *image_shape, count, len(parts))
    for part in parts:
        header += ENTRY.pack(part.kind, part.coding, len(part.data), zlib.crc32(part.data), part.content_crc)
    return header + CHECKSUM.pack(zlib.crc32(header)) + b"".join(part.data for part in parts)


def read_header(data: bytes) -> Header:
    """Parse the header of a stream.

    Raises:
        BitstreamError: not a stream, another version, a corrupt or truncated header.
    """
    if not data.startswith(MAGIC):
        raise BitstreamError("not a stream of tf_robustcomp (it does not begin with RCBS)")
    if len(data) < START.size:
        raise BitstreamError(f"truncated: {len(data)} bytes are less than a header")
    _, version, fingerprint, height, width, channels, count, number = START.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(f"version {version}; this package reads version {VERSION}")
    size = START.size + number * ENTRY.size + CHECKSUM.size
    if len(data) < size:
        raise BitstreamError(f"truncated: its header has {size} bytes, {len(data)} are there")
    (checksum,) = CHECKSUM.unpack_from(data, size - CHECKSUM.size)
    if checksum != zlib.crc32(data[: size - CHECKSUM.size]):
        raise BitstreamError("damaged: the checksum of its header is wrong")
    entries, start = [], size
    for index in range(number):
        kind, coding, length, part_checksum, content_crc = ENTRY.unpack_from(data, START.size + index * ENTRY.size)
        entries.append(Entry(kind, coding, length, part_checksum, content_crc, start))
        start += length
    kinds = [entry.kind for entry in entries]
    if len(set(kinds)) < len(kinds) or any(entry.coding not in CODINGS for entry in entries):
        raise BitstreamError("its table of parts is not one that this package writes")
    return Header(fingerprint, (height, width, channels), count, tuple(entries), size)


def read_part(data: bytes, entry: Entry) -> bytes:
    """Return the bytes of a part.

    Raises:
        BitstreamError: it is cut or damaged.
    """
    part = data[entry.start : entry.start + entry.size]
    if len(part) < entry.size:
        raise BitstreamError(f"truncated: {part_name(entry.kind)} has {entry.size} bytes, {len(part)} are there")
    if zlib.crc32(part) != entry.checksum:
        raise BitstreamError(f"damaged: the checksum of {part_name(entry.kind)} is wrong")
    return part


def check_content_crc(entry: Entry, content: bytes) -> None:
    """Refuse a part whose decoded bytes, ``content``, are not those that were encoded."""
    if zlib.crc32(content) != entry.content_crc:
        raise BitstreamError(f"{part_name(entry.kind)} decodes to something else than was encoded")


def inflate(part: bytes, entry: Entry) -> bytes:
    """Return the content of a deflated part.

    Raises:
        BitstreamError: they are no such bytes, or decode to something else than was encoded.
    """
    content = tables.inflate(part, BitstreamError(f"{part_name(entry.kind)} cannot be unpacked"))
    check_content_crc(entry, content)
    return content


def part_name(kind: int) -> str:
    """Return a part's name in messages."""
    return NAMES.get(kind, f"stage {kind}")
