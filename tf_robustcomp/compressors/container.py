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

from tf_robustcomp.errors import BitstreamError

MAGIC = b"RCBS"
VERSION = 1
START = struct.Struct("<4sB16sHHHIB")
ENTRY = struct.Struct("<BBIII")
CHECKSUM = struct.Struct("<I")

# Kinds of parts below the stages' own numbers.
KINDS, LOSSLESS, LAYOUT = 201, 202, 203
NAMES = {KINDS: "the images' kinds", LOSSLESS: "the images stored losslessly", LAYOUT: "the layout"}
FIXED, ENTROPY, DEFLATE, PNG = 0, 1, 2, 3
INFLATION = 1100  # no deflated data unpacks to more than this many times its size
CODINGS = {FIXED: "fixed", ENTROPY: "entropy", DEFLATE: "deflate", PNG: "png"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part: ``kind`` (a stage, or KINDS, LOSSLESS, LAYOUT), ``coding``, its bytes, CRC-32 of their meaning."""

    kind: int
    coding: int
    data: bytes
    meaning: int

    @property
    def name(self):
        """What messages call it."""
        return part_name(self.kind)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A part's line in the table, and where its bytes begin."""

    kind: int
    coding: int
    size: int
    checksum: int
    meaning: int
    start: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a stream says of itself."""

    fingerprint: bytes
    image_shape: tuple
    count: int
    entries: tuple
    size: int

    @property
    def end(self):
        """Length of the whole stream."""
        return self.size + sum(entry.size for entry in self.entries)

    def entry(self, kind):
        """The part of a kind, or None."""
        return next((entry for entry in self.entries if entry.kind == kind), None)

    @property
    def stages(self):
        """Numbers of the stages that are there."""
        return [entry.kind for entry in self.entries if entry.kind < KINDS]


def write(fingerprint, image_shape, count, parts):
    """Bytes of a stream: header, then `Part`s."""
    header = START.pack(MAGIC, VERSION, fingerprint, *image_shape, count, len(parts))
    for part in parts:
        header += ENTRY.pack(part.kind, part.coding, len(part.data), zlib.crc32(part.data), part.meaning)
    return header + CHECKSUM.pack(zlib.crc32(header)) + b"".join(part.data for part in parts)


def read_header(data):
    """Header of a stream.

    Raises:
        BitstreamError: no stream, another version, a damaged or cut header.
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
        kind, coding, length, part_checksum, meaning = ENTRY.unpack_from(data, START.size + index * ENTRY.size)
        entries.append(Entry(kind, coding, length, part_checksum, meaning, start))
        start += length
    kinds = [entry.kind for entry in entries]
    if len(set(kinds)) < len(kinds) or any(entry.coding not in CODINGS for entry in entries):
        raise BitstreamError("its table of parts is not one that this package writes")
    return Header(fingerprint, (height, width, channels), count, tuple(entries), size)


def read_part(data, entry):
    """Bytes of a part.

    Raises:
        BitstreamError: it is cut or damaged.
    """
    part = data[entry.start : entry.start + entry.size]
    if len(part) < entry.size:
        raise BitstreamError(f"truncated: {part_name(entry.kind)} has {entry.size} bytes, {len(part)} are there")
    if zlib.crc32(part) != entry.checksum:
        raise BitstreamError(f"damaged: the checksum of {part_name(entry.kind)} is wrong")
    return part


def check_meaning(entry, meaning):
    """Refuse a part that decodes to something else than was encoded.

    Args:
        entry: `Entry`.
        meaning: bytes of what it decoded to.
    """
    if zlib.crc32(meaning) != entry.meaning:
        raise BitstreamError(f"{part_name(entry.kind)} decodes to something else than was encoded")


def inflate(part, entry):
    """What the bytes of a deflated part decode to.

    Raises:
        BitstreamError: they are no such bytes, or decode to something else than was encoded.
    """
    try:
        unpacker = zlib.decompressobj()
        meaning = unpacker.decompress(part, INFLATION * max(len(part), 1))
    except zlib.error:
        raise BitstreamError(f"{part_name(entry.kind)} cannot be unpacked") from None
    if not unpacker.eof or unpacker.unused_data:
        raise BitstreamError(f"{part_name(entry.kind)} cannot be unpacked")
    check_meaning(entry, meaning)
    return meaning


def part_name(kind):
    """What messages call a part."""
    return NAMES.get(kind, f"stage {kind}")
