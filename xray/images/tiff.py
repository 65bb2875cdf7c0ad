"""TIFF (Adobe TIFF 6.0, BigTIFF): its directories, checked before Pillow opens the file, and its values."""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import _Tile
from PIL.TiffImagePlugin import TiffImageFile

from xray.errors import FileFault
from xray.images.limits import check_limit
from xray.vocabulary import Reason

MAX_NUMBERS = 1_000_000
"""In all directories of a file. Pillow makes an object of each. An image at the pixel limit in the smallest tiles
(16 x 16) has 780,000 offsets and sizes."""

MAX_FIELDS = 65_536
"""In a directory: there are no more different tags."""

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
# Bytes, text and undefined bytes: Pillow makes no objects of them.
_BLOBS = frozenset({1, 2, 7})


@dataclass(frozen=True)
class Field:
    """A directory's entry: its type, its number of values, and the offset of the values or of their offset."""

    kind: int
    count: int
    place: int


class Directories:
    """A file's directories. As in Pillow, entries that are cut off or of an unknown type are skipped.

    Parameters
    ----------
    data : bytes
        A whole file whose first bytes are a TIFF's.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._byteorder: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        self._width = 8 if data[2] == 43 else 4
        self.first = self._fields(self._integer(self._width, self._width))

    def check(self) -> None:
        """Raise `FileFault` (``corrupt``) for too many fields or numbers."""
        exif = self._below(self.first, _EXIF)
        directories = self.first, exif, self._below(self.first, _GPS), self._below(exif, _INTEROPERABILITY)
        numbers = sum(self._numbers(field) for fields in directories for field in fields.values())
        check_limit(numbers, MAX_NUMBERS, "numbers in the TIFF's directories")

    def number(self, tag: int) -> int | None:
        """Return a field's number in the first directory; None unless it has one, stored in the entry itself."""
        field = self.first.get(tag)
        if field is None or field.count != 1 or _SIZES[field.kind] > self._width:
            return None
        return self._first_value(field)

    def with_number(self, tag: int, number: int) -> io.BytesIO:
        """Return the file with a different number in a field that `number` can read."""
        field, stream = self.first[tag], io.BytesIO(self._data)
        stream.seek(field.place)
        stream.write(number.to_bytes(_SIZES[field.kind], self._byteorder))
        stream.seek(0)
        return stream

    def _fields(self, place: int) -> dict[int, Field]:
        start = place + (8 if self._width == 8 else 2)
        number = self._integer(place, start - place)
        entry = struct.Struct(f"{'<' if self._byteorder == 'little' else '>'}HH{'Q8x' if self._width == 8 else 'I4x'}")
        body = self._data[start : start + number * entry.size]
        whole = body[: len(body) // entry.size * entry.size]
        check_limit(len(whole) // entry.size, MAX_FIELDS, "fields in a directory of the TIFF")
        fields: dict[int, Field] = {}
        for index, (tag, kind, count) in enumerate(entry.iter_unpack(whole), 1):
            if kind in _SIZES:
                # Of a tag that comes twice Pillow takes the first.
                fields.setdefault(tag, Field(kind, count, start + index * entry.size - self._width))
        return fields

    def _below(self, fields: dict[int, Field], tag: int) -> dict[int, Field]:
        field = fields.get(tag)
        return {} if field is None else self._fields(self._first_value(field))

    def _numbers(self, field: Field) -> int:
        # Pillow passes over values that the file is too short for.
        fits = field.count * _SIZES[field.kind] <= len(self._data)
        return field.count if fits and field.kind not in _BLOBS else 0

    def _first_value(self, field: Field) -> int:
        size = _SIZES[field.kind]
        inline = size * field.count <= self._width
        return self._integer(field.place if inline else self._integer(field.place, self._width), size)

    def _integer(self, place: int, size: int) -> int:
        return int.from_bytes(self._data[place : place + size], self._byteorder)


MAX_COVERS = 8
"""How many times a file's strips or tiles may cover the image: each time takes as long as decoding it. Separate planes
cover it once for each channel."""

# Pillow checks the wrong byte, reads such a file as a classic TIFF and finds nothing in it.
_BIG_ENDIAN_BIGTIFF = b"MM\x00\x2b"
_BITS_PER_SAMPLE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 262, 322, 323, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED, _SIGNED = 1, 2
_OFFSETS_AND_BYTE_COUNTS = ((273, 279), (324, 325))


# libtiff gives the values in this machine's byte order, where Pillow expects the file's of these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def with_rawmodes(tiles: list[_Tile], rawmodes: Mapping[str, str]) -> list[_Tile]:
    """Return an image's tiles with Pillow's raw modes, the names of byte layouts, replaced as given."""
    return [tile._replace(args=_with_rawmode(tile.args, rawmodes)) for tile in tiles]


def _with_rawmode(args: tuple[Any, ...] | str | None, rawmodes: Mapping[str, str]) -> tuple[Any, ...] | str | None:
    if isinstance(args, tuple):
        return rawmodes.get(args[0], args[0]), *args[1:]
    return args if args is None else rawmodes.get(args, args)


class TiffImage(TiffImageFile):
    """A TIFF, opened and not yet decoded.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        The file is over a limit, or its form is not supported.

    Attributes
    ----------
    inverted : bool
        White is zero in the decoded values. Up to 8 bits Pillow inverts them itself.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(_BIG_ENDIAN_BIGTIFF):
            raise FileFault(Reason.UNSUPPORTED, "a big-endian BigTIFF")
        directories = Directories(data)
        directories.check()
        deep = (directories.number(_BITS_PER_SAMPLE) or 1) > 8
        self.inverted = deep and directories.number(_PHOTOMETRIC) == _WHITE_IS_ZERO
        # Above 8 bits Pillow inverts none and refuses most, so it is told that black is zero.
        super().__init__(directories.with_number(_PHOTOMETRIC, _BLACK_IS_ZERO) if self.inverted else io.BytesIO(data))
        if self.use_load_libtiff:
            self.tile = with_rawmodes(self.tile, _NATIVE)

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Width and height, in pixels, of the memory that decoding takes: at least a whole tile's."""
        tile = self.tag_v2.get(_TILE_WIDTH, 0), self.tag_v2.get(_TILE_LENGTH, 0)
        return max(self.size, tile, key=lambda size: size[0] * size[1])

    @property
    def has_own_range(self) -> bool:
        """Whether gray is scaled from the image's own values: one channel, signed or deeper than 8 bits."""
        return self.mode[0] in "IF" or (self.mode == "L" and self._sample_format == _SIGNED)

    @property
    def values(self) -> NDArray[np.generic]:
        """The decoded values of such an image, ``(height, width)``, with the sign that its tag gives.

        Pillow always takes 8 bits for unsigned and 32 bits for signed.
        """
        values = np.asarray(self)
        if self.mode == "I" and self._sample_format == _UNSIGNED:
            return values.view(np.uint32)
        return values.view(np.int8) if self.mode == "L" else values

    @property
    def _sample_format(self) -> int:
        return int(self.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])

    def check_strips(self, length: int) -> None:
        """Check strips and tiles: within the file's `length` bytes, and not covering the image over and over.

        Raises
        ------
        FileFault
            ``truncated`` or ``corrupt``.
        """
        # For those beyond the end, libtiff only says "decoder error".
        for offset_tag, count_tag in _OFFSETS_AND_BYTE_COUNTS:
            places = zip(self.tag_v2.get(offset_tag, ()), self.tag_v2.get(count_tag, ()), strict=False)
            if any(offset + count > length for offset, count in places):
                raise FileFault(Reason.TRUNCATED, "strips or tiles are beyond the end of the file")
        boxes = [tile.extents for tile in self.tile if tile.extents]
        covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        check_limit(covered, MAX_COVERS * self.width * self.height, "pixels in the strips or tiles")
