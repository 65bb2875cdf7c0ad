"""Headers of JPEG, JPEG-LS, JPEG 2000 and JPEG XL codestreams, checked before a C library reads them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
# The wavelet transformation 9-7, of real numbers (ITU-T T.800 table A.20).
_IRREVERSIBLE = 0
# All start-of-frame markers (ITU-T T.81 table B.1), also those of codings that DICOM does not use.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN = 0xDA
# Huffman and quantization tables, restart interval.
_TABLES = frozenset({0xC4, 0xDB, 0xDD})
BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
"""Start-of-frame markers: the kinds of JPEG that DICOM uses."""

JPEG_2000, JPEG_XL = 0x4F, 0x0A
"""The second byte of the codestream, which names the other kinds (ISO/IEC 15444-1 and 18181-1)."""

_JXL, _JXL_BOX = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"


@dataclass(frozen=True, slots=True)
class Frame:
    """A codestream's frame header.

    Attributes
    ----------
    kind : int
        JPEG's start-of-frame marker, `JPEG_2000` or `JPEG_XL`.
    bits : int
        Bits of a sample.
    rows, columns, samples : int
        Size of the image.
    lossy : bool
        Decoded samples may differ from those that were encoded, and exceed the greatest of them.
    """

    kind: int
    bits: int
    rows: int
    columns: int
    samples: int
    lossy: bool

    def check(self, rows: int, columns: int) -> None:
        """Compare the size with the DICOM header's.

        Raises
        ------
        FileFault
            ``corrupt``: the sizes differ. ``unsupported``: fewer than 2 or more than 16 bits a sample, or neither one
            nor three samples a pixel.
        """
        if (self.rows, self.columns) != (rows, columns):
            raise FileFault(Reason.CORRUPT, "the compressed image and the header differ in size")
        if self.samples not in (1, 3):
            raise FileFault(Reason.UNSUPPORTED, f"{self.samples} samples a pixel")
        if not 2 <= self.bits <= 16:
            raise FileFault(Reason.UNSUPPORTED, f"{self.bits} bits a sample")


def is_codestream(data: bytes) -> bool:
    """Tell from the first bytes whether compressed pixels are a JPEG, JPEG-LS, JPEG 2000 or JPEG XL codestream."""
    return data.startswith((b"\xff\xd8\xff", _J2K, _JP2, _JXL, _JXL_BOX))


def read_frame(data: bytes) -> Frame:
    """Read the frame header of a codestream, whatever its kind.

    Raises
    ------
    FileFault
        As `jpeg_frame`, `j2k_frame` and `jxl_frame`.
    """
    if data.startswith((_J2K, _JP2)):
        return j2k_frame(j2k_codestream(data))
    return jxl_frame(data) if data.startswith((_JXL, _JXL_BOX)) else jpeg_frame(data)


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
            bits, rows, columns, samples = struct.unpack(">BHHB", data[position + 2 : position + 8].ljust(6, b"\0"))
            frame = Frame(marker, bits, rows, columns, samples, lossy=marker not in (LOSSLESS, JPEG_LS))
        position += max(2, size)
    if frame is None:
        raise FileFault(Reason.CORRUPT, "the JPEG has no frame header")
    if frame.kind != JPEG_LS:
        check_jpeg_segments(data)
        return frame
    # ITU-T T.87 C.2.3: NEAR follows the components of the scan.
    near = position + 3 + 2 * data[position + 2]
    return replace(frame, lossy=data[near : near + 1] != b"\0")


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
    frame, tiles, coded, lossy = None, 1, False, False
    for marker, body in _j2k_segments(data):
        if marker == _SIZ and frame is None:
            frame, tiles = _size(body)
        elif marker in (_COD, _COC) and frame is not None:
            coded |= marker == _COD
            cod = body if marker == _COD else _as_cod(body, frame)
            _check_coding(cod, frame, tiles)
            lossy |= cod[9] == _IRREVERSIBLE
    if frame is None or not coded:
        raise FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream has no complete header")
    return replace(frame, lossy=lossy)


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
    return Frame(JPEG_2000, (body[36] & 0x7F) + 1, bottom - top, right - left, samples, lossy=False), tiles


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
        # A length of 0 stands for all bytes up to the end of the codestream.
        if position + size > len(data) or (size == 0 and b"\xff\xd9" not in data[-16:]):
            return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends within a tile")
        if size < _LEAST_TILE_PART:
            break
        position += size
    end = data[position : position + 2]
    if not end or position + 12 > len(data) > position + 2:
        return FileFault(Reason.TRUNCATED, "the JPEG 2000 codestream ends after a tile")
    if end == b"\xff\x90" or end[1] == _EOC:
        return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream is damaged within a tile")
    return FileFault(Reason.CORRUPT, "the JPEG 2000 codestream has neither a tile nor its end after a tile")


def jxl_frame(data: bytes) -> Frame:
    """Read the image header of a JPEG XL codestream (ISO/IEC 18181-1 annex D), in boxes (18181-2) or not.

    Raises
    ------
    FileFault
        ``truncated``; ``corrupt``: there is no codestream; ``unsupported``: floating-point samples, an animation, a
        preview, or more channels than gray or colour.
    """
    bits = _Bits(data[_jxl_start(data) :][:64])
    if bits.read(16) != int.from_bytes(_JXL, "little"):
        raise FileFault(Reason.CORRUPT, "there is no JPEG XL codestream in its boxes")
    rows, columns = _jxl_size(bits)
    depth, samples, is_plain = 8, 3, True
    if not bits.read(1):
        if bits.read(1):
            bits.read(3)
            if bits.read(1):
                _jxl_size(bits)
            is_plain = bits.read(2) == 0
        is_plain &= not bits.read(1)
        depth = bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
        bits.read(1)
        is_plain &= bits.choose((0, 0), (1, 0), (2, 4), (1, 12)) == 0
        bits.read(1)
        if not bits.read(1):
            bits.read(1)
            samples = 1 if bits.choose((0, 0), (1, 0), (2, 4), (18, 6)) == 1 else 3
    if not is_plain:
        raise FileFault(Reason.UNSUPPORTED, "JPEG XL with more than the channels of one image of whole numbers")
    # The header does not say whether the coding is lossless.
    return Frame(JPEG_XL, depth, rows, columns, samples, lossy=True)


def _jxl_start(data: bytes) -> int:
    if data.startswith(_JXL):
        return 0
    position = len(_JXL_BOX)
    for _ in range(2**10):
        size, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[position + 8 : position + 16]), 16
        if kind in (b"jxlc", b"jxlp"):
            # A part of a codestream has a number before it.
            return position + head + (4 if kind == b"jxlp" else 0)
        if size < head:
            break
        position += size
    raise FileFault(Reason.CORRUPT, "there is no JPEG XL codestream in its boxes")


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jxl_size(bits: "_Bits") -> tuple[int, int]:
    small = bits.read(1)

    def side() -> int:
        return (bits.read(5) + 1) * 8 if small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    rows = side()
    ratio = bits.read(3)
    if not ratio:
        return rows, side()
    wide, high = _JXL_RATIOS[ratio - 1]
    return rows, rows * wide // high


class _Bits:
    """Reads numbers of some bits, least significant first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), len(data) * 8

    def read(self, count: int) -> int:
        """Return a number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise FileFault(Reason.TRUNCATED, "the JPEG XL codestream has no complete header")
        number = self._value & ((1 << count) - 1)
        self._value >>= count
        return number

    def choose(self, *ways: tuple[int, int]) -> int:
        """Return a number that is coded in one of four ways: a sum of a constant and a number of some bits."""
        constant, count = ways[self.read(2)]
        return constant + self.read(count)
