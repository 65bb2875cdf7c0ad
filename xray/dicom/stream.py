"""A file's bytes, read forward and no further than asked, deflated or not."""

import zlib
from typing import BinaryIO, Protocol

from xray.errors import FileFault
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
