"""A file's bytes, read forward and no further than asked, deflated or not."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from xray.errors import FileFault
from xray.images.limits import check_limit
from xray.vocabulary import Reason

MAX_INFLATED = 2**26
"""Bytes to which what comes before the pixels of a deflated file may inflate."""

_CHUNK = 2**16


class Stream(Protocol):
    """What bytes are read from: an open file, or what is inflated from one."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        ...

    def seek(self, offset: int, whence: int, /) -> int:
        """Pass over `offset` bytes."""
        ...


class Inflated:
    """The bytes of a deflated file (RFC 1951), inflated as they are read.

    Parameters
    ----------
    file : BinaryIO
        The file.
    ahead : bytes
        What was already read of it.
    """

    def __init__(self, file: BinaryIO, ahead: bytes) -> None:
        self._file, self._inflater, self._ahead = file, zlib.decompressobj(-zlib.MAX_WBITS), ahead
        self.room = MAX_INFLATED

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
        """Pass over `offset` bytes, from here."""
        while offset > 0 and (passed := len(self.read(min(offset, _CHUNK)))):
            offset -= passed
        return 0

    def _inflate(self, size: int) -> bytes:
        try:
            part = self._inflater.decompress(self._ahead, size)
        except zlib.error:
            raise FileFault(Reason.CORRUPT, "the deflated data set does not inflate") from None
        self._ahead = self._inflater.unconsumed_tail
        self.room -= len(part)
        if self.room < 0:
            raise FileFault(Reason.CORRUPT, f"the header inflates to more than {MAX_INFLATED:,} bytes")
        return part


class Source:
    """Bytes read forward, counted; what is missing makes the file ``truncated``."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.place = 0
        self._peeked = b""

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes, and leave them to be read."""
        self._peeked += self.stream.read(size - len(self._peeked)) if len(self._peeked) < size else b""
        return self._peeked[:size]

    def read(self, size: int) -> bytes:
        """Return `size` bytes."""
        data, self._peeked = self._peeked[:size], self._peeked[size:]
        if len(data) < size:
            data += self.stream.read(size - len(data))
        if len(data) < size:
            raise FileFault(Reason.TRUNCATED, "the file ends within a data element")
        self.place += size
        return data

    def rest(self) -> bytes:
        """Return what was looked at and not read; the stream stands behind it."""
        return self._peeked

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        if size <= _CHUNK:
            self.read(size)
            return
        start = self.place
        ahead = len(self._peeked)
        self.read(ahead)
        self.stream.seek(size - ahead - 1, 1)
        # Most streams can be moved behind their end: only a byte read there tells.
        self.read(1)
        self.place = start + size


MAX_ELEMENTS = 100_000
"""Before the pixels, items of sequences counted. A radiograph has a few hundred."""

MAX_DEPTH = 64
"""Of sequences in sequences."""

MAX_VALUE = 2**18
"""Bytes that are kept of a value: twice a lookup table of 65,536 entries of 16 bits."""

MAX_ITEMS = 64
"""That are kept of a sequence."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written: with or without their value representation (VR), and in which byte order."""

    explicit: bool = True
    byteorder: Literal["little", "big"] = "little"


@dataclass(slots=True)
class DataSet:
    """The elements that were asked for: values as the file has them, and the items of sequences."""

    encoding: Encoding
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, list["DataSet"]] = field(default_factory=dict)

    def texts(self, tag: int) -> list[str]:
        """Return the values of a text, without padding."""
        return [part.strip(" \0") for part in self.values.get(tag, b"").decode("latin-1").split("\\")]

    def text(self, tag: int) -> str:
        """Return the first value of a text, ``""`` if there is none."""
        return self.texts(tag)[0]

    def decimals(self, tag: int) -> list[float]:
        """Return the numbers of a decimal string; ``nan`` for what is no number."""
        return [_decimal(text) for text in self.texts(tag) if text]

    def integers(self, tag: int, *, signed: bool = False) -> list[int]:
        """Return binary integers of 16 bits."""
        value = self.values.get(tag, b"")
        pairs = [value[start : start + 2] for start in range(0, len(value) - 1, 2)]
        return [int.from_bytes(pair, self.encoding.byteorder, signed=signed) for pair in pairs]

    def integer(self, tag: int) -> int | None:
        """Return the first binary integer of 16 bits."""
        return next(iter(self.integers(tag)), None)


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


@dataclass(slots=True)
class PixelElement:
    """Where the pixels begin: the element's tag and VR, and how long it says it is."""

    tag: int
    vr: bytes
    length: int


@dataclass(slots=True)
class _Level:
    kind: Literal["data set", "sequence", "fragments"]
    end: int | None
    encoding: Encoding
    kept: DataSet | None = None
    items: list[DataSet] | None = None


class Walk:
    """One walk over a data set, up to its pixels or its end.

    Parameters
    ----------
    source : Source
        Stands at the first element.
    encoding : Encoding
        How the elements are written.
    wanted : mapping of int to frozenset of int
        Tags whose values are kept; of sequences, the tags kept of their items.
    """

    def __init__(self, source: Source, encoding: Encoding, wanted: Mapping[int, frozenset[int]]) -> None:
        self.found = DataSet(encoding)
        self._source, self._wanted = source, wanted
        self._levels = [_Level("data set", None, encoding, self.found)]
        self._keep = frozenset[int]()
        self._count = 0

    def run(self, group: int | None = None) -> PixelElement | None:
        """Walk, and return the pixels' element, of which the source then stands at the value.

        Parameters
        ----------
        group : int, optional
            Stop at the first element of another group.

        Raises
        ------
        FileFault
            ``truncated`` or ``corrupt``; what was found before is kept.
        """
        while True:
            self._close_levels()
            level = self._levels[-1]
            head = self._source.peek(8)
            # Some writers fill a file up with zeros.
            if len(self._levels) == 1 and not head.strip(b"\0"):
                return None
            tag = _tag(head, level.encoding)
            if group is not None and tag >> 16 != group:
                return None
            check_limit(self._count, MAX_ELEMENTS, "elements before the pixels")
            self._count += 1
            vr, length = self._head(level.encoding)
            if tag in PIXELS and len(self._levels) == 1:
                return PixelElement(tag, vr, length)
            self._element(level, tag, vr, length)

    def _close_levels(self) -> None:
        while (end := self._levels[-1].end) is not None and self._source.place >= end:
            if self._source.place > end:
                raise FileFault(Reason.CORRUPT, "an element is longer than the sequence it lies in")
            self._levels.pop()

    def _head(self, encoding: Encoding) -> tuple[bytes, int]:
        head = self._source.read(8)
        vr = head[4:6]
        # Items have no VR, and some writers leave it out in places.
        if not encoding.explicit or not (vr.isalpha() and vr.isupper()):
            return b"", int.from_bytes(head[4:8], encoding.byteorder)
        if vr in _LONG_VRS:
            return vr, int.from_bytes(self._source.read(4), encoding.byteorder)
        return vr, int.from_bytes(head[6:8], encoding.byteorder)

    def _element(self, level: _Level, tag: int, vr: bytes, length: int) -> None:
        if tag == ITEM:
            self._item(level, length)
        elif tag in (ITEM_END, SEQUENCE_END):
            if (level.kind == "data set") != (tag == ITEM_END) or len(self._levels) == 1:
                raise FileFault(Reason.CORRUPT, "a sequence ends that has not begun")
            self._levels.pop()
        elif level.kind != "data set":
            raise FileFault(Reason.CORRUPT, "a sequence holds something else than items")
        elif tag in self._wanted and len(self._levels) == 1 and self._wanted[tag]:
            self._keep = self._wanted[tag]
            items = self.found.items.setdefault(tag, [])
            self._push(_Level("sequence", self._end(length), _within(level, vr, length), items=items))
        elif length == UNDEFINED:
            kind: Literal["sequence", "fragments"] = "fragments" if vr in (b"OB", b"OW") else "sequence"
            self._push(_Level(kind, None, _within(level, vr, length)))
        else:
            self._value(level, tag, length)

    def _item(self, level: _Level, length: int) -> None:
        if level.kind == "data set":
            raise FileFault(Reason.CORRUPT, "an item outside a sequence")
        if level.kind == "fragments" or (length != UNDEFINED and level.items is None):
            self._source.skip(length)
            return
        kept = None
        if level.items is not None and len(level.items) < MAX_ITEMS:
            kept = DataSet(level.encoding)
            level.items.append(kept)
        self._push(_Level("data set", self._end(length), level.encoding, kept))

    def _value(self, level: _Level, tag: int, length: int) -> None:
        wanted = tag in self._wanted if len(self._levels) == 1 else tag in self._keep
        if level.kept is not None and wanted and length <= MAX_VALUE:
            level.kept.values.setdefault(tag, self._source.read(length))
        else:
            self._source.skip(length)

    def _push(self, level: _Level) -> None:
        check_limit(len(self._levels), MAX_DEPTH, "sequences in one another")
        self._levels.append(level)

    def _end(self, length: int) -> int | None:
        return None if length == UNDEFINED else self._source.place + length


def _tag(head: bytes, encoding: Encoding) -> int:
    return int.from_bytes(head[:2], encoding.byteorder) << 16 | int.from_bytes(head[2:4], encoding.byteorder)


def _within(level: _Level, vr: bytes, length: int) -> Encoding:
    # PS3.5 6.2.2: a sequence that is written as UN of undefined length is in implicit VR, little endian.
    return Encoding(False, "little") if vr == b"UN" and length == UNDEFINED else level.encoding
