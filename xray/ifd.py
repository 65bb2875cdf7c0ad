"""The directories of a TIFF, read without the objects that Pillow makes of them."""

import io
import struct
from dataclasses import dataclass
from typing import Literal

from xray.bounds import hold

MAX_NUMBERS = 1_000_000
"""In all directories of a file. Pillow makes an object of each; the offsets and sizes of the smallest tiles (16 x 16)
that the pixel cap allows are 780,000."""

MAX_FIELDS = 65_536
"""In a directory: there are no more tags."""

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
# Bytes, text, and bytes of no meaning: Pillow keeps them as they are.
_BLOBS = frozenset({1, 2, 7})


@dataclass(frozen=True)
class Field:
    """A directory's entry: its type, how many values it has, and where it holds them or their place."""

    kind: int
    count: int
    place: int


class Directories:
    """A file's directories: as Pillow does, whatever is cut or of no known type is passed over.

    Parameters
    ----------
    data : bytes
        A whole file, of which the first bytes say that it is a TIFF.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._byteorder: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        self._width = 8 if data[2] == 43 else 4
        self.first = self._fields(self._integer(self._width, self._width))

    def check(self) -> None:
        """Refuse absurdly many fields or numbers, as ``corrupt``."""
        exif = self._below(self.first, _EXIF)
        directories = self.first, exif, self._below(self.first, _GPS), self._below(exif, _INTEROPERABILITY)
        numbers = sum(self._numbers(field) for fields in directories for field in fields.values())
        hold(numbers, MAX_NUMBERS, "numbers in the TIFF's directories")

    def number(self, tag: int) -> int | None:
        """Return the number of a field of the first directory, if it has one and holds that itself."""
        field = self.first.get(tag)
        if field is None or field.count != 1 or _SIZES[field.kind] > self._width:
            return None
        return self._first_value(field)

    def with_number(self, tag: int, number: int) -> io.BytesIO:
        """Return the file with another number in such a field."""
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
        hold(len(whole) // entry.size, MAX_FIELDS, "fields in a directory of the TIFF")
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
