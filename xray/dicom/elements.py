"""The data elements of a DICOM file, up to its pixels, with bounds on all that a file may ask for (PS3.5 section 7).

pydicom makes objects of every element, and follows sequences as deep as they go. Here the few elements that are asked
for are kept, and every other is passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from xray.bounds import hold
from xray.dicom.stream import Source
from xray.errors import FileFault
from xray.vocabulary import Reason

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


@cache
def _long_vrs() -> frozenset[bytes]:
    # pydicom takes a fifth of a command's start, and most archives hold no DICOM.
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

    return frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)


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
            hold(self._count, MAX_ELEMENTS, "elements before the pixels")
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
        if vr in _long_vrs():
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
        hold(len(self._levels), MAX_DEPTH, "sequences in one another")
        self._levels.append(level)

    def _end(self, length: int) -> int | None:
        return None if length == UNDEFINED else self._source.place + length


def _tag(head: bytes, encoding: Encoding) -> int:
    return int.from_bytes(head[:2], encoding.byteorder) << 16 | int.from_bytes(head[2:4], encoding.byteorder)


def _within(level: _Level, vr: bytes, length: int) -> Encoding:
    # PS3.5 6.2.2: a sequence that is written as UN of undefined length is in implicit VR, little endian.
    return Encoding(False, "little") if vr == b"UN" and length == UNDEFINED else level.encoding
