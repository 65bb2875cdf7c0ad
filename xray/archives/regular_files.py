"""Open a regular file, following no link and never blocking; read it by offset, so that threads share no position."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from xray.errors import FileFault
from xray.vocabulary import Reason

_INT64_MAX = 2**63 - 1

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DEVICE = (errno.ENXIO, errno.ENODEV)


@contextmanager
def open_regular_file(path: str) -> Iterator[int]:
    """Open a regular file for reading, as a descriptor that is closed at the end.

    Parameters
    ----------
    path : str
        Without links, as `os.path.realpath` returns it. If a link has meanwhile replaced a folder on it, that is not
        followed, as it may lead out of the archive.

    Raises
    ------
    FileFault
        It is not a regular file.
    OSError
        It cannot be opened.
    """
    descriptor = _open_without_links(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileFault(Reason.UNREADABLE, "not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_without_links(path: str) -> int:
    *folders, name = filter(None, path.split(os.sep))
    # The kernel follows links in a path whatever O_NOFOLLOW says, but for the last part. So each part is a last one.
    folder = os.open(os.sep, _FOLDER)
    try:
        for part in folders:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        try:
            return os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            # A socket's error is also that of a file whose device is gone.
            status = os.stat(name, dir_fd=folder, follow_symlinks=False) if error.errno in _NO_DEVICE else None
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise FileFault(Reason.UNREADABLE, "not a regular file") from error
            raise
    finally:
        os.close(folder)


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset` on; fewer if the file ends before."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    # One call returns at most 2 GiB, and some mounts return less than was asked for.
    parts = [data]
    missing = length - len(data)
    while missing and (data := os.pread(descriptor, missing, offset + length - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


class ByteRange:
    """Bytes of an open file, or in memory, read by offset like a file of their own.

    Parameters
    ----------
    source : int or bytes
        A descriptor, which the caller keeps open, or the bytes.
    start : int
        Where the range begins.
    size : int or None
        Its length; None means up to the end.
    """

    def __init__(self, source: int | bytes, start: int = 0, size: int | None = None) -> None:
        end = len(source) if isinstance(source, bytes) else os.fstat(source).st_size
        self.size = max(end - start, 0) if size is None else max(min(size, end - start), 0)
        self._source = source
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on; fewer if the range ends before."""
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        if isinstance(self._source, bytes):
            return self._source[self._start + offset : self._start + offset + length]
        return read_at(self._source, self._start + offset, length)


def clamp_to_int64(nanoseconds: int) -> int:
    """Limit a time to 64 bits: file systems and headers can hold dates after the year 2262, databases cannot."""
    return min(max(nanoseconds, -_INT64_MAX), _INT64_MAX)
