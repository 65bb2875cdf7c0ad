"""Open a regular file without ever waiting for it, and read it by offset, so that threads share no position."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from xray.errors import FileFault
from xray.vocabulary import Reason

_INT64_MAX = 2**63 - 1


@contextmanager
def open_regular_file(path: str) -> Iterator[int]:
    """Open a regular file for reading; gives its descriptor, and closes it.

    Parameters
    ----------
    path : str
        Free of links, as `os.path.realpath` returns it.

    Raises
    ------
    FileFault
        It is no regular file.
    OSError
        It cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOFOLLOW: the path is resolved, and must have stayed so.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileFault(Reason.UNREADABLE, "not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset` on; fewer where the file ends before."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    # One call gives no more than 2 GiB, and some mounts less than was asked.
    parts = [data]
    missing = length - len(data)
    while missing and (data := os.pread(descriptor, missing, offset + length - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def clamp_to_int64(nanoseconds: int) -> int:
    """Return a time within 64 bits: some file systems and headers reach beyond the year 2262, databases do not."""
    return min(max(nanoseconds, -_INT64_MAX), _INT64_MAX)
