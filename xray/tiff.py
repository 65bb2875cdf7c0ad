"""A TIFF as Pillow reads it, and what Pillow does not look after in one."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import _Tile
from PIL.TiffImagePlugin import TiffImageFile

from xray.bounds import hold
from xray.errors import FileFault
from xray.ifd import Directories
from xray.vocabulary import Reason

MAX_COVERS = 8
"""How often a file's strips or tiles may cover the image, each time for as long as decoding takes: bands that lie apart
do it once for each."""

# Pillow looks at the wrong byte, takes such a file for a classic TIFF and finds nothing in it.
_BIG_ENDIAN_BIGTIFF = b"MM\x00\x2b"
_BITS_PER_SAMPLE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 258, 262, 322, 323, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED, _SIGNED = 1, 2
_OFFSETS_AND_BYTE_COUNTS = ((273, 279), (324, 325))


# libtiff gives the values in this machine's byte order, where Pillow expects the file's of these.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def with_rawmodes(tiles: list[_Tile], rawmodes: Mapping[str, str]) -> list[_Tile]:
    """Return an image's tiles, with Pillow's names for the form of their bytes replaced as given."""
    return [tile._replace(args=_with_rawmode(tile.args, rawmodes)) for tile in tiles]


def _with_rawmode(args: tuple[Any, ...] | str | None, rawmodes: Mapping[str, str]) -> tuple[Any, ...] | str | None:
    if isinstance(args, tuple):
        return rawmodes.get(args[0], args[0]), *args[1:]
    return args if args is None else rawmodes.get(args, args)


class TiffFilm(TiffImageFile):
    """A TIFF, opened, not decoded.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        Opening the file would take gigabytes, or its form is not read.

    Attributes
    ----------
    inverted : bool
        White is zero in the decoded values; up to 8 bits Pillow inverts them itself.
    """

    def __init__(self, data: bytes) -> None:
        if data.startswith(_BIG_ENDIAN_BIGTIFF):
            raise FileFault(Reason.UNSUPPORTED, "a big-endian BigTIFF")
        directories = Directories(data)
        directories.check()
        deep = (directories.number(_BITS_PER_SAMPLE) or 1) > 8
        self.inverted = deep and directories.number(_PHOTOMETRIC) == _WHITE_IS_ZERO
        # Pillow inverts none of these itself, and refuses most: so it never learns that white is zero.
        super().__init__(directories.with_number(_PHOTOMETRIC, _BLACK_IS_ZERO) if self.inverted else io.BytesIO(data))
        if self.use_load_libtiff:
            self.tile = with_rawmodes(self.tile, _NATIVE)

    @property
    def room(self) -> tuple[int, int]:
        """Width and height that decoding makes room for: a whole tile's, however small the image."""
        tile = self.tag_v2.get(_TILE_WIDTH, 0), self.tag_v2.get(_TILE_LENGTH, 0)
        return max(self.size, tile, key=lambda size: size[0] * size[1])

    @property
    def has_own_range(self) -> bool:
        """Whether only its values tell what is black and white: one channel, signed or deeper than 8 bits."""
        return self.mode[0] in "IF" or (self.mode == "L" and self._sample_format == _SIGNED)

    @property
    def values(self) -> NDArray[np.generic]:
        """The decoded values of such a film; Pillow takes 8 bits for unsigned and 32 bits for signed, always."""
        values = np.asarray(self)
        if self.mode == "I" and self._sample_format == _UNSIGNED:
            return values.view(np.uint32)
        return values.view(np.int8) if self.mode == "L" else values

    @property
    def _sample_format(self) -> int:
        return int(self.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])

    def check_strips(self, length: int) -> None:
        """Refuse strips and tiles behind the end of a file of `length` bytes, or over the image again and again."""
        # libtiff only says "decoder error" of those behind the end.
        for offset_tag, count_tag in _OFFSETS_AND_BYTE_COUNTS:
            places = zip(self.tag_v2.get(offset_tag, ()), self.tag_v2.get(count_tag, ()), strict=False)
            if any(offset + count > length for offset, count in places):
                raise FileFault(Reason.TRUNCATED, "strips or tiles lie behind the end of the file")
        boxes = [tile.extents for tile in self.tile if tile.extents]
        covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        hold(covered, MAX_COVERS * self.width * self.height, "pixels in the strips or tiles")
