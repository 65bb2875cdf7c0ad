"""A DICOM film's compressed bytes, put together from their fragments (PS3.5 annex A.4)."""

from xray.bounds import hold
from xray.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED
from xray.dicom.stream import Source
from xray.errors import FileFault
from xray.vocabulary import Reason

MAX_FRAGMENTS = 100_000
"""Of one film. Usual ones have 64 kilobytes, or hold the whole film."""


def read_fragments(source: Source) -> bytes:
    """Return the bytes of all fragments of a single frame; the source stands at the pixels' value.

    Raises
    ------
    FileFault
        ``truncated``: a fragment is cut, or there is none.
    """
    parts: list[bytes] = []
    while (head := source.peek(8)) and len(head) == 8:
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        length = int.from_bytes(head[4:], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED:
            raise FileFault(Reason.CORRUPT, "the compressed pixels hold something else than fragments")
        hold(len(parts), MAX_FRAGMENTS, "fragments")
        source.read(8)
        parts.append(source.read(length))
    # The first item is the offset table, which a single frame does not need (PS3.5 A.4).
    if not any(parts[1:]):
        raise FileFault(Reason.TRUNCATED, "the file ends before its compressed pixels")
    return b"".join(parts[1:])
