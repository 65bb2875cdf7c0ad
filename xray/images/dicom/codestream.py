"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, looked at before a C library sees it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from xray.errors import FileFault
from xray.images.limits import check_jpeg_segments, check_limit
from xray.vocabulary import Reason

MAX_BLOCKS = 1_000_000
"""Code-blocks and precincts of a JPEG 2000 film, of which OpenJPEG makes objects. A film of 100 million pixels has
25,000 blocks of the usual 64 x 64."""

MAX_PACKETS = 10_000_000
"""Layers times precincts: as often OpenJPEG looks for a packet, however few bytes there are."""

MAX_TILES = 10_000
"""Of a JPEG 2000 film."""

MAX_TILE_PARTS = 100_000
"""Of a JPEG 2000 film."""

_J2K, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0x51, 0x52, 0x53, 0x90, 0x93, 0xD9
_LEAST_TILE_PART = 14
# Frames whose coding is no DICOM transfer syntax': differential, arithmetic.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN = 0xDA
# Huffman and quantization tables, restart interval.
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
JPEG_LS, LOSSLESS = 0xF7, 0xC3


@dataclass(frozen=True, slots=True)
class Frame:
    """What a codestream holds: the kind of its frame (JPEG's marker), bits a sample, and its size."""

    kind: int
    bits: int
    rows: int
    columns: int
    samples: int

    def check(self, rows: int, columns: int, samples: int) -> None:
        """Refuse, as ``corrupt``, a codestream of another size than the header's."""
        if (self.rows, self.columns, self.samples) != (rows, columns, samples):
            raise FileFault(Reason.CORRUPT, "the compressed image has not the size that the header gives")
        if not 2 <= self.bits <= 16:
            raise FileFault(Reason.UNSUPPORTED, f"{self.bits} bits a sample")


def jpeg_frame(data: bytes) -> Frame:
    """Read the frame header of a JPEG (ITU-T T.81 B.2.2) or JPEG-LS (ITU-T T.87 C.2.2) codestream.

    Raises
    ------
    FileFault
        There is not exactly one before the first scan, or absurdly much around it.
    """
    if not data.startswith(b"\xff\xd8"):
        raise FileFault(Reason.CORRUPT, "the compressed image is no JPEG")
    place, frame = 2, None
    while True:
        marker, place = _next_marker(data, place)
        if marker == _START_OF_SCAN:
            break
        size = int.from_bytes(data[place : place + 2])
        if marker in _FRAMES:
            if frame is not None or size < 8:
                raise FileFault(Reason.CORRUPT, "the JPEG has a second frame, or one without a header")
            frame = Frame(marker, *struct.unpack(">BHHB", data[place + 2 : place + 8].ljust(6, b"\0")))
        place += max(2, size)
    if frame is None:
        raise FileFault(Reason.CORRUPT, "the JPEG has no frame header")
    if frame.kind != JPEG_LS:
        check_jpeg_segments(data)
    return frame


def bare_jpeg(data: bytes) -> bytes:
    """Return a JPEG that `jpeg_frame` has read with nothing but tables and frame before its first scan.

    A strange number in an application's segment makes GDCM end the process.
    """
    parts, place = [data[:2]], 2
    while True:
        marker, start = _next_marker(data, place)
        if marker == _START_OF_SCAN:
            return b"".join([*parts, data[start - 2 :]])
        place = start + max(2, int.from_bytes(data[start : start + 2]))
        if marker in _TABLES | _FRAMES:
            parts.append(data[start - 2 : place])


def _next_marker(data: bytes, place: int) -> tuple[int, int]:
    for _ in range(2**10):
        if place + 4 > len(data):
            raise FileFault(Reason.TRUNCATED, "the JPEG ends before its pixels")
        if data[place] != 0xFF:
            break
        if data[place + 1] == 0xFF:
            place += 1
        elif data[place + 1] in _STANDALONE:
            place += 2
        else:
            return data[place + 1], place + 2
    raise FileFault(Reason.CORRUPT, "the JPEG has something else where a marker must be")


def j2k_codestream(data: bytes) -> bytes:
    """Return a JPEG 2000 codestream without the JP2 boxes that some writers leave around it."""
    if data.startswith(_JP2) and (start := data.find(_J2K, 0, 2**16)) > 0:
        return data[start:]
    if not data.startswith(_J2K):
        raise FileFault(Reason.CORRUPT, "the compressed image is no JPEG 2000 codestream")
    return data


def j2k_frame(data: bytes) -> Frame:
    """Read the headers of a JPEG 2000 codestream (ITU-T T.800 A.4, A.5) and hold what OpenJPEG will make of it.

    Raises
    ------
    FileFault
        It is cut, components differ in size or depth, or there are absurdly many tiles, precincts or layers.
    """
    frame, tiles, coded = None, 1, False
    for marker, body in _j2k_segments(data):
        if marker == _SIZ and frame is None:
            frame, tiles = _size(body)
        elif marker in (_COD, _COC) and frame is not None:
            coded |= marker == _COD
            _check_coding(body if marker == _COD else _as_cod(body, frame), frame, tiles)
    if frame is None or not coded:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no whole header")
    return frame


def _j2k_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    # Of the main header, and of each tile-part's, which may say otherwise for its tile (A.4.2).
    place, next_part, parts = 2, 0, 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == _SOD:
            place = next_part
            continue
        if marker == _SOT:
            check_limit(parts := parts + 1, MAX_TILE_PARTS, "tile-parts")
            length = int.from_bytes(data[place + 6 : place + 10])
            next_part = place + length if length >= _LEAST_TILE_PART else len(data)
        yield marker, data[place + 4 : place + 2 + size]
        place += 2 + max(2, size)


def _size(body: bytes) -> tuple[Frame, int]:
    if len(body) < 39:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no whole header")
    _, right, bottom, left, top, tile_w, tile_h, tile_x, tile_y, samples = struct.unpack(">H8IH", body[:36])
    components = {body[place : place + 3] for place in range(36, 36 + 3 * samples, 3)}
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
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no whole header")
    layers, levels, block = int.from_bytes(cod[2:4]), cod[5], (cod[6] & 15) + (cod[7] & 15) + 4
    if levels > 32:
        raise FileFault(Reason.CORRUPT, "a JPEG 2000 image of more than 32 resolutions")
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
    """Say what is wrong with a codestream that does not decode, as far as its tile-parts tell (ITU-T T.800 A.4.2)."""
    place = data.find(b"\xff\x90")
    while place > 0 and data[place : place + 2] == b"\xff\x90" and place + 12 <= len(data):
        size = int.from_bytes(data[place + 6 : place + 10])
        if place + size > len(data):
            return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends within a tile")
        if size < _LEAST_TILE_PART:
            break
        place += size
    end = data[place : place + 2]
    if not end:
        return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends after a tile")
    if end == b"\xff\x90" or end[1] == _EOC:
        return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream is damaged within a tile")
    return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream goes on behind a tile with neither a tile nor its end")
