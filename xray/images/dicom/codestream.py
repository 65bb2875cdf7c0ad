"""Headers of JPEG, JPEG-LS and JPEG 2000 codestreams, checked before a C library reads them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from xray.errors import FileFault
from xray.images.limits import check_jpeg_segments, check_limit
from xray.vocabulary import Reason

MAX_BLOCKS = 1_000_000
"""Code-blocks, or precincts, of a JPEG 2000 image; OpenJPEG makes an object of each. An image of 100 million pixels has
25,000 code-blocks of the usual 64 x 64."""

MAX_PACKETS = 10_000_000
"""Layers times precincts of a JPEG 2000 image: OpenJPEG looks for that many packets, however few bytes there are."""

MAX_TILES = 10_000
"""Tiles of a JPEG 2000 image."""

MAX_TILE_PARTS = 100_000
"""Tile-parts of a JPEG 2000 image."""

_J2K, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0x51, 0x52, 0x53, 0x90, 0x93, 0xD9
_LEAST_TILE_PART = 14
# All start-of-frame markers (ITU-T T.81 table B.1), also those of codings that DICOM does not use.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN = 0xDA
# Huffman and quantization tables, restart interval.
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
JPEG_LS, LOSSLESS = 0xF7, 0xC3


@dataclass(frozen=True, slots=True)
class Frame:
    """A codestream's frame header.

    Attributes
    ----------
    kind : int
        JPEG's start-of-frame marker; 0 for JPEG 2000.
    bits : int
        Bits of a sample.
    rows, columns, samples : int
        Size of the image.
    """

    kind: int
    bits: int
    rows: int
    columns: int
    samples: int

    def check(self, rows: int, columns: int, samples: int) -> None:
        """Compare the size with the DICOM header's.

        Raises
        ------
        FileFault
            ``corrupt``: the sizes differ. ``unsupported``: fewer than 2 or more than 16 bits a sample.
        """
        if (self.rows, self.columns, self.samples) != (rows, columns, samples):
            raise FileFault(Reason.CORRUPT, "the compressed image and the header differ in size")
        if not 2 <= self.bits <= 16:
            raise FileFault(Reason.UNSUPPORTED, f"{self.bits} bits a sample")


def jpeg_frame(data: bytes) -> Frame:
    """Read the frame header of a JPEG (ITU-T T.81 B.2.2) or JPEG-LS (ITU-T T.87 C.2.2) codestream.

    Raises
    ------
    FileFault
        ``truncated``; ``corrupt``: there is not exactly one frame header before the first scan, or there are too many
        segments.
    """
    if not data.startswith(b"\xff\xd8"):
        raise FileFault(Reason.CORRUPT, "the compressed image is not a JPEG")
    position, frame = 2, None
    while True:
        marker, position = _next_marker(data, position)
        if marker == _START_OF_SCAN:
            break
        size = int.from_bytes(data[position : position + 2])
        if marker in _FRAMES:
            if frame is not None or size < 8:
                raise FileFault(Reason.CORRUPT, "the JPEG has a second frame, or one without a header")
            frame = Frame(marker, *struct.unpack(">BHHB", data[position + 2 : position + 8].ljust(6, b"\0")))
        position += max(2, size)
    if frame is None:
        raise FileFault(Reason.CORRUPT, "the JPEG has no frame header")
    if frame.kind != JPEG_LS:
        check_jpeg_segments(data)
    return frame


def strip_application_segments(data: bytes) -> bytes:
    """Return a JPEG, already checked by `jpeg_frame`, with only tables and frame header before its first scan.

    GDCM ends the process for some values in application segments.
    """
    parts, position = [data[:2]], 2
    while True:
        marker, start = _next_marker(data, position)
        if marker == _START_OF_SCAN:
            return b"".join([*parts, data[start - 2 :]])
        position = start + max(2, int.from_bytes(data[start : start + 2]))
        if marker in _TABLES | _FRAMES:
            parts.append(data[start - 2 : position])


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    for _ in range(2**10):
        if position + 4 > len(data):
            raise FileFault(Reason.TRUNCATED, "the JPEG ends before its pixels")
        if data[position] != 0xFF:
            break
        if data[position + 1] == 0xFF:
            position += 1
        elif data[position + 1] in _STANDALONE:
            position += 2
        else:
            return data[position + 1], position + 2
    raise FileFault(Reason.CORRUPT, "the JPEG has no marker where one must be")


def j2k_codestream(data: bytes) -> bytes:
    """Return a JPEG 2000 codestream without the JP2 boxes that some writers put around it.

    Raises
    ------
    FileFault
        ``corrupt``: there is no JPEG 2000 codestream.
    """
    if data.startswith(_JP2) and (start := data.find(_J2K, 0, 2**16)) > 0:
        return data[start:]
    if not data.startswith(_J2K):
        raise FileFault(Reason.CORRUPT, "the compressed image is not a JPEG 2000 codestream")
    return data


def j2k_frame(data: bytes) -> Frame:
    """Read the headers of a JPEG 2000 codestream (ITU-T T.800 A.4, A.5) and check OpenJPEG's work against the caps.

    Raises
    ------
    FileFault
        ``truncated``; ``unsupported``: components differ in size or depth; ``corrupt``: too many tiles, precincts or
        layers.
    """
    frame, tiles, coded = None, 1, False
    for marker, body in _j2k_segments(data):
        if marker == _SIZ and frame is None:
            frame, tiles = _size(body)
        elif marker in (_COD, _COC) and frame is not None:
            coded |= marker == _COD
            _check_coding(body if marker == _COD else _as_cod(body, frame), frame, tiles)
    if frame is None or not coded:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no complete header")
    return frame


def _j2k_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    # The main header's segments, and each tile-part header's, which may override them for its tile (A.4.2).
    position, next_part, parts = 2, 0, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker == _SOD:
            position = next_part
            continue
        if marker == _SOT:
            check_limit(parts := parts + 1, MAX_TILE_PARTS, "tile-parts")
            length = int.from_bytes(data[position + 6 : position + 10])
            next_part = position + length if length >= _LEAST_TILE_PART else len(data)
        yield marker, data[position + 4 : position + 2 + size]
        position += 2 + max(2, size)


def _size(body: bytes) -> tuple[Frame, int]:
    if len(body) < 39:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no complete header")
    _, right, bottom, left, top, tile_w, tile_h, tile_x, tile_y, samples = struct.unpack(">H8IH", body[:36])
    components = {body[position : position + 3] for position in range(36, 36 + 3 * samples, 3)}
    if len(components) != 1 or body[37:39] != b"\x01\x01":
        raise FileFault(Reason.UNSUPPORTED, "JPEG 2000 components of different size or depth")
    if not (tile_w and tile_h and left < right and top < bottom):
        raise FileFault(Reason.CORRUPT, "a JPEG 2000 image or tile without pixels")
    tiles = -(-(right - tile_x) // tile_w) * -(-(bottom - tile_y) // tile_h)
    check_limit(tiles, MAX_TILES, "tiles")
    return Frame(0, (body[36] & 0x7F) + 1, bottom - top, right - left, samples), tiles


def _as_cod(body: bytes, frame: Frame) -> bytes:
    skipped = 1 if frame.samples < 257 else 2
    return body[skipped : skipped + 1] + b"\0\0\1\0" + body[skipped + 1 :]


def _check_coding(cod: bytes, frame: Frame, tiles: int) -> None:
    if len(cod) < 10:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no complete header")
    layers, levels, block = int.from_bytes(cod[2:4]), cod[5], (cod[6] & 15) + (cod[7] & 15) + 4
    if levels > 32:
        raise FileFault(Reason.CORRUPT, "a JPEG 2000 image with more than 32 decomposition levels")
    pixels = frame.rows * frame.columns * frame.samples
    check_limit(pixels >> block, MAX_BLOCKS, "code-blocks")
    precincts = 0
    for level in range(levels + 1):
        side = cod[10 + level] if cod[0] & 1 and len(cod) > 10 + level else 0xFF
        shrink = levels - level
        across = 1 + (frame.columns >> shrink >> (side & 15))
        precincts += (1 + (frame.rows >> shrink >> (side >> 4))) * across * frame.samples
    check_limit(
        precincts * tiles if tiles == 1 else precincts + (levels + 1) * frame.samples * tiles, MAX_BLOCKS, "precincts"
    )
    check_limit((precincts + (levels + 1) * frame.samples * tiles) * max(1, layers), MAX_PACKETS, "packets")


def j2k_damage(data: bytes) -> FileFault:
    """Return the fault of a codestream that could not be decoded, from its tile-parts (ITU-T T.800 A.4.2)."""
    position = data.find(b"\xff\x90")
    while position > 0 and data[position : position + 2] == b"\xff\x90" and position + 12 <= len(data):
        size = int.from_bytes(data[position + 6 : position + 10])
        if position + size > len(data):
            return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends within a tile")
        if size < _LEAST_TILE_PART:
            break
        position += size
    end = data[position : position + 2]
    if not end:
        return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends after a tile")
    if end == b"\xff\x90" or end[1] == _EOC:
        return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream is damaged within a tile")
    return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream has neither a tile nor its end after a tile")
