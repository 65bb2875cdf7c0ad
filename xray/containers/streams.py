"""Read a member's content where it lies, whole or as a stream: no more is inflated than is asked for."""

import io
import os
import zlib
from typing import TYPE_CHECKING

from xray.containers.members import Entry, Packing
from xray.errors import FileFault
from xray.regular import read_at
from xray.vocabulary import Reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_INFLATED = 256 * 1024 * 1024
"""Bytes that a stream inflates in its life, however often its reader goes back."""

_RAW_DEFLATE = -zlib.MAX_WBITS
_CHUNK = 64 * 1024


def read_whole(descriptor: int, offset: int, entry: Entry) -> bytes:
    """Return a member's content, `entry.size` bytes.

    Parameters
    ----------
    descriptor : int
        The container.
    offset : int
        Where the content begins.
    entry : Entry
        Stored or deflated, and within the caps: its packed bytes are read in one go, and no more than one byte is
        inflated beyond its size.

    Raises
    ------
    FileFault
        The content ends early, is longer than its directory says, or not as its CRC says.
    OSError
        The storage failed.
    """
    data = read_at(descriptor, offset, entry.packed)
    cut_off = len(data) < entry.packed
    if entry.packing is Packing.DEFLATED:
        inflater = zlib.decompressobj(_RAW_DEFLATE)
        try:
            data = inflater.decompress(data, entry.size + 1)
        except zlib.error as error:
            raise FileFault(Reason.CORRUPT, "it does not inflate") from error
        cut_off = cut_off and not inflater.eof
    if cut_off:
        raise FileFault(Reason.TRUNCATED, "its container ends before it")
    if len(data) != entry.size:
        raise FileFault(Reason.CORRUPT, "its size is not what its container says")
    if entry.crc is not None and zlib.crc32(data) != entry.crc:
        raise FileFault(Reason.CORRUPT, "its checksum is wrong")
    return data


class MemberStream(io.RawIOBase):
    """A member's content as a seekable binary stream; its checksum is not looked at.

    Seeking costs nothing before the next read. A deflated member is inflated from its start again when that lies back.

    Parameters
    ----------
    descriptor : int
        The container; stays open for the life of the stream, and is not closed by it.
    offset : int
        Where the content begins.
    entry : Entry
        Stored or deflated.
    """

    def __init__(self, descriptor: int, offset: int, entry: Entry) -> None:
        # What a file opened by its descriptor has for a name; pydicom asks every `io.BufferedReader` for one.
        self.name = descriptor
        self._descriptor = descriptor
        self._offset = offset
        self._entry = entry
        self._position = 0
        self._inflated = 0
        self._rewind()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move as a file does, also beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._entry.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read into a buffer, up to its length.

        Raises
        ------
        FileFault
            The content is damaged or ends early, or `MAX_INFLATED` is reached.
        OSError
            The storage failed.
        """
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._entry.size - self._position)
        if length <= 0:
            return 0
        if self._entry.packing is Packing.STORED:
            data = read_at(self._descriptor, self._offset + self._position, length)
        else:
            data = self._inflate_to_position(length)
        if not data:
            raise FileFault(Reason.TRUNCATED, "its container ends before it")
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _rewind(self) -> None:
        self._inflater = zlib.decompressobj(_RAW_DEFLATE)
        self._consumed = 0
        self._reached = 0

    def _inflate_to_position(self, length: int) -> bytes:
        if self._position < self._reached:
            self._rewind()
        while self._reached < self._position:
            if not self._inflate(min(self._position - self._reached, _CHUNK)):
                return b""
        return self._inflate(length)

    def _inflate(self, length: int) -> bytes:
        data = b""
        while not data and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._next_packed()
            try:
                data = self._inflater.decompress(packed, length)
            except zlib.error as error:
                raise FileFault(Reason.CORRUPT, "it does not inflate") from error
            if not packed and not data:
                break
        self._reached += len(data)
        self._inflated += len(data)
        if self._inflated > MAX_INFLATED:
            raise FileFault(Reason.TOO_LARGE, f"its header lies behind {MAX_INFLATED:,} bytes that would be inflated")
        return data

    def _next_packed(self) -> bytes:
        length = min(_CHUNK, self._entry.packed - self._consumed)
        data = read_at(self._descriptor, self._offset + self._consumed, length) if length > 0 else b""
        self._consumed += len(data)
        return data
