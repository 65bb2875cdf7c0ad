"""A DICOM data set, read forward up to its pixel data (PS3.5 section 7), deflated or not.

Only the elements that the caller selects are kept, and lengths and counts are capped, so that reading needs little
memory for files of any size and any damage.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO, Literal, Protocol

from xray.errors import FileFault
from xray.images.dicom.tags import SPECIFIC_CHARACTER_SET
from xray.images.limits import check_limit
from xray.vocabulary import Reason

MAX_INFLATED = 2**26
"""Bytes of a deflated file, before its pixel data, after inflating."""

MAX_ELEMENTS = 100_000
"""Elements before the pixel data, items of sequences included. A radiograph has a few hundred."""

MAX_DEPTH = 64
"""Levels of nested sequences."""

MAX_VALUE_BYTES = 2**18
"""Longer values are skipped. This is twice a lookup table of 65,536 entries of 16 bits."""

MAX_ITEMS = 64
"""Further items of a sequence are skipped."""

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and (integer) Pixel Data."""

_CHUNK = 2**16


class Stream(Protocol):
    """A source of bytes: an open file, or an `InflatedStream`."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        ...

    def seek(self, offset: int, whence: int, /) -> int:
        """Move the position by `offset` bytes."""
        ...


class InflatedStream:
    """The inflated bytes of a deflated file (RFC 1951); inflates as much as is read.

    Parameters
    ----------
    file : BinaryIO
        The file.
    ahead : bytes
        Deflated bytes that were already read from the file.
    """

    def __init__(self, file: BinaryIO, ahead: bytes) -> None:
        self._file, self._inflater, self._ahead = file, zlib.decompressobj(-zlib.MAX_WBITS), ahead
        self._bytes_left = MAX_INFLATED

    def allow(self, size: int) -> None:
        """Allow `size` more bytes than `MAX_INFLATED`, for pixel data of a known size."""
        self._bytes_left += size

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        parts: list[bytes] = []
        missing = size
        while missing and not self._inflater.eof:
            self._ahead = self._ahead or self._file.read(_CHUNK)
            if not self._ahead:
                break
            parts.append(self._inflate(min(missing, _CHUNK)))
            missing -= len(parts[-1])
        return b"".join(parts)

    def seek(self, offset: int, whence: int, /) -> int:
        """Skip `offset` bytes from the current position."""
        while offset > 0 and (skipped := len(self.read(min(offset, _CHUNK)))):
            offset -= skipped
        return 0

    def _inflate(self, size: int) -> bytes:
        try:
            part = self._inflater.decompress(self._ahead, size)
        except zlib.error:
            raise FileFault(Reason.CORRUPT, "the deflated data set cannot be inflated") from None
        self._ahead = self._inflater.unconsumed_tail
        self._bytes_left -= len(part)
        if self._bytes_left < 0:
            raise FileFault(Reason.CORRUPT, f"the header inflates to more than {MAX_INFLATED:,} bytes")
        return part


class ByteReader:
    """Reads a stream forward and counts the bytes; raises ``truncated`` where the stream ends too early.

    Parameters
    ----------
    stream : Stream
        At its start.

    Attributes
    ----------
    position : int
        Bytes read or skipped so far.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.position = 0
        self._peeked = b""

    @property
    def peeked(self) -> bytes:
        """Bytes that were taken from the stream by `peek` and not read yet."""
        return self._peeked

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes without reading past them."""
        self._peeked += self.stream.read(size - len(self._peeked)) if len(self._peeked) < size else b""
        return self._peeked[:size]

    def read(self, size: int) -> bytes:
        """Return `size` bytes.

        Raises
        ------
        FileFault
            ``truncated``: the stream has fewer.
        """
        data, self._peeked = self._peeked[:size], self._peeked[size:]
        if len(data) < size:
            data += self.stream.read(size - len(data))
        if len(data) < size:
            raise FileFault(Reason.TRUNCATED, "the file ends within a data element")
        self.position += size
        return data

    def skip(self, size: int) -> None:
        """Skip `size` bytes."""
        if size <= _CHUNK:
            self.read(size)
            return
        start = self.position
        ahead = len(self._peeked)
        self.read(ahead)
        self.stream.seek(size - ahead - 1, 1)
        # Most streams can seek past their end, so the last byte is read to see that it is there.
        self.read(1)
        self.position = start + size


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are encoded: with or without their value representation (VR), and the byte order."""

    explicit: bool = True
    byteorder: Literal["little", "big"] = "little"


@dataclass(slots=True)
class DataSet:
    """The selected elements of a data set.

    Attributes
    ----------
    encoding : Encoding
        How the values are encoded.
    values : dict of int to bytes
        Values as in the file, by tag.
    items : dict of int to list of DataSet
        Items of sequences, by tag.
    """

    encoding: Encoding
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, list["DataSet"]] = field(default_factory=dict)

    def texts(self, tag: int) -> list[str]:
        """Return the values of a text element, without padding."""
        return [part.strip(" \0") for part in self.values.get(tag, b"").decode("latin-1").split("\\")]

    def text(self, tag: int) -> str:
        """Return the first value of a text element, or ``""``."""
        return self.texts(tag)[0]

    def decoded(self, tag: int) -> str:
        """Return a whole text element, decoded by Specific Character Set (0008,0005), without padding."""
        from pydicom.charset import python_encoding

        # PS3.5 6.1.2.3: a value begins in the first of several character sets.
        charset = python_encoding.get(self.text(SPECIFIC_CHARACTER_SET), "latin-1")
        value = self.values.get(tag, b"")
        try:
            return value.decode(charset).strip(" \0")
        except (UnicodeDecodeError, LookupError):
            return value.decode("latin-1").strip(" \0")

    def decimals(self, tag: int) -> list[float]:
        """Return the values of a decimal string; ``nan`` for text that is not a number."""
        return [_decimal(text) for text in self.texts(tag) if text]

    def integers(self, tag: int, *, signed: bool = False) -> list[int]:
        """Return the values of an element of 16-bit integers."""
        value = self.values.get(tag, b"")
        pairs = [value[start : start + 2] for start in range(0, len(value) - 1, 2)]
        return [int.from_bytes(pair, self.encoding.byteorder, signed=signed) for pair in pairs]

    def integer(self, tag: int) -> int | None:
        """Return the first value of an element of 16-bit integers."""
        return next(iter(self.integers(tag)), None)


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


@dataclass(slots=True)
class PixelElement:
    """The head of the pixel data element: tag, VR, length in bytes or `UNDEFINED_LENGTH`, and where its head begins."""

    tag: int
    vr: bytes
    length: int
    start: int


@dataclass(slots=True)
class _Level:
    """A data set, sequence or fragments that the reader is in; `end` is a position, None for undefined length."""

    kind: Literal["data set", "sequence", "fragments"]
    end: int | None
    encoding: Encoding
    data_set: DataSet | None = None
    items: list[DataSet] | None = None


class DataSetReader:
    """Reads one data set up to its pixel data or its end.

    Parameters
    ----------
    reader : ByteReader
        At the first element.
    encoding : Encoding
        How the elements are encoded.
    selected : mapping of int to frozenset of int
        Tags of the elements to keep; for a sequence, with the tags to keep in its items.

    Attributes
    ----------
    data_set : DataSet
        The selected elements that were read so far.
    """

    def __init__(self, reader: ByteReader, encoding: Encoding, selected: Mapping[int, frozenset[int]]) -> None:
        self.data_set = DataSet(encoding)
        self._reader, self._selected = reader, selected
        self._levels = [_Level("data set", None, encoding, self.data_set)]
        self._selected_in_items = frozenset[int]()
        self._count = 0

    def read(self, group: int | None = None) -> PixelElement | None:
        """Read the elements.

        Parameters
        ----------
        group : int, optional
            Stop before the first element of a different group.

        Returns
        -------
        PixelElement or None
            The pixel data element, with the reader at its value; None if there is none.

        Raises
        ------
        FileFault
            ``truncated`` or ``corrupt``. `data_set` keeps the elements before the damage.
        """
        while True:
            self._close_levels()
            level = self._levels[-1]
            head = self._reader.peek(8)
            # Some writers pad the file with zeros.
            if len(self._levels) == 1 and not head.strip(b"\0"):
                return None
            tag = _tag(head, level.encoding)
            if group is not None and tag >> 16 != group:
                return None
            check_limit(self._count, MAX_ELEMENTS, "elements before the pixels")
            self._count += 1
            start = self._reader.position
            vr, length = self._read_head(level.encoding)
            if tag in PIXEL_DATA_TAGS and len(self._levels) == 1:
                return PixelElement(tag, vr, length, start)
            self._read_element(level, tag, vr, length)

    def _close_levels(self) -> None:
        while (end := self._levels[-1].end) is not None and self._reader.position >= end:
            if self._reader.position > end:
                raise FileFault(Reason.CORRUPT, "an element is longer than the sequence that contains it")
            self._levels.pop()

    def _read_head(self, encoding: Encoding) -> tuple[bytes, int]:
        head = self._reader.read(8)
        vr = head[4:6]
        # Items have no VR, and some writers omit it elsewhere.
        if not encoding.explicit or not (vr.isalpha() and vr.isupper()):
            return b"", int.from_bytes(head[4:8], encoding.byteorder)
        if vr in _long_vrs():
            return vr, int.from_bytes(self._reader.read(4), encoding.byteorder)
        return vr, int.from_bytes(head[6:8], encoding.byteorder)

    def _read_element(self, level: _Level, tag: int, vr: bytes, length: int) -> None:
        if tag == ITEM:
            self._read_item(level, length)
        elif tag in (ITEM_END, SEQUENCE_END):
            if (level.kind == "data set") != (tag == ITEM_END) or len(self._levels) == 1:
                raise FileFault(Reason.CORRUPT, "a sequence or item ends where none began")
            self._levels.pop()
        elif level.kind != "data set":
            raise FileFault(Reason.CORRUPT, "a sequence contains an element that is not an item")
        elif tag in self._selected and len(self._levels) == 1 and self._selected[tag]:
            self._selected_in_items = self._selected[tag]
            items = self.data_set.items.setdefault(tag, [])
            self._push(_Level("sequence", self._end(length), _encoding_within(level, vr, length), items=items))
        elif length == UNDEFINED_LENGTH:
            kind: Literal["sequence", "fragments"] = "fragments" if vr in (b"OB", b"OW") else "sequence"
            self._push(_Level(kind, None, _encoding_within(level, vr, length)))
        else:
            self._read_value(level, tag, length)

    def _read_item(self, level: _Level, length: int) -> None:
        if level.kind == "data set":
            raise FileFault(Reason.CORRUPT, "an item outside a sequence")
        if level.kind == "fragments" or (length != UNDEFINED_LENGTH and level.items is None):
            self._reader.skip(length)
            return
        item = None
        if level.items is not None and len(level.items) < MAX_ITEMS:
            item = DataSet(level.encoding)
            level.items.append(item)
        self._push(_Level("data set", self._end(length), level.encoding, item))

    def _read_value(self, level: _Level, tag: int, length: int) -> None:
        is_selected = tag in (self._selected if len(self._levels) == 1 else self._selected_in_items)
        if level.data_set is not None and is_selected and length <= MAX_VALUE_BYTES:
            level.data_set.values.setdefault(tag, self._reader.read(length))
        else:
            self._reader.skip(length)

    def _push(self, level: _Level) -> None:
        check_limit(len(self._levels), MAX_DEPTH, "nested sequences")
        self._levels.append(level)

    def _end(self, length: int) -> int | None:
        return None if length == UNDEFINED_LENGTH else self._reader.position + length


@cache
def _long_vrs() -> frozenset[bytes]:
    """Return the VRs whose length has 32 bits (PS3.5 table 7.1-1)."""
    # Importing pydicom takes a fifth of a command's start, and most archives hold no DICOM.
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

    return frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)


def _tag(head: bytes, encoding: Encoding) -> int:
    return int.from_bytes(head[:2], encoding.byteorder) << 16 | int.from_bytes(head[2:4], encoding.byteorder)


def _encoding_within(level: _Level, vr: bytes, length: int) -> Encoding:
    # PS3.5 6.2.2: a sequence of VR UN and undefined length is encoded in implicit VR, little endian.
    return Encoding(False, "little") if vr == b"UN" and length == UNDEFINED_LENGTH else level.encoding
