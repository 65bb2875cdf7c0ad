"""List and read the members of zips and tars; each container is indexed once, not once an image."""

import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from xray.archives.archive_file import ArchiveFile, Skipped
from xray.archives.members import (
    MAX_MEMBERS,
    TAR_SUFFIX,
    ZIP_SUFFIX,
    Index,
    Member,
    MemberStream,
    Packing,
    read_content,
)
from xray.archives.regular_files import open_regular_file
from xray.archives.tars import index_tar
from xray.archives.zips import content_offset, index_zip
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

MAX_CACHED = 64
"""Maximum number of containers whose indexes a process keeps; together they have at most `MAX_MEMBERS` members."""

MAX_RATIO = 200
"""Maximum ratio of unpacked to packed size of a member larger than `RATIO_FROM` bytes; DEFLATE reaches 1,032.

As 16-bit pixels, 36 large radiographs deflate at most 11 times, and a blank one of 2880 x 2304 pixels with noise of
half a gray level 9 times, with noise of a fifth of one 93 times. A radiograph of which 98 % is exactly 0 reaches 105;
one that is empty but for a marker of 200 x 40 pixels reaches 464 and is refused, as it shows no patient (measured, zlib
level 9)."""

RATIO_FROM = 1024 * 1024

_Identity = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of an open file: they change when it is replaced or written."""


class _CachedIndex:
    """The index of a container, or why it has none; the first thread reads it while the others wait."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.result: Index | ContainerFault | None = None


# An index holds no descriptor: it may be dropped while it is in use, and after a fork nothing is shared. No lock may be
# held at a fork; the processes that fork do not read archives.
_cache: OrderedDict[tuple[str, _Identity], _CachedIndex] = OrderedDict()
_cache_lock = Lock()


def list_members(path: Path, prefix: str = "") -> Iterator[ArchiveFile | Skipped]:
    """Return every file in a container, each path once, and every member that is skipped; folders are left out.

    Parameters
    ----------
    path : Path
        A zip or an uncompressed tar, as its name says.
    prefix : str
        Put before each member's path.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, not what its name says, being written, or over a cap: nothing of it is listed.
    FileFault
        It is not a regular file.
    OSError
        The storage failed.
    """
    real_path = os.path.realpath(path, strict=True)
    with open_regular_file(real_path) as descriptor:
        before = _identity(descriptor)
        index = _index(real_path, descriptor)
        if _identity(descriptor) != before:
            raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "it is being written")
    return _listed(index, prefix)


def _listed(index: Index, prefix: str) -> Iterator[ArchiveFile | Skipped]:
    for name, member in index.members.items():
        yield ArchiveFile(prefix + name, member.size, member.mtime_ns)
    for skipped in index.skipped:
        yield Skipped(prefix + skipped.path, skipped.reason)


def read_member(container: str | Path, name: str, expected: tuple[int, int] | None, max_bytes: int) -> bytes:
    """Read a whole member.

    Parameters
    ----------
    container : str or Path
        The container's real path, without links.
    name : str
        The member's normalised path.
    expected : tuple of (int, int) or None
        The version (`ArchiveFile.version`) that it had when it was scanned.
    max_bytes : int
        Maximum size, packed and unpacked.

    Raises
    ------
    FileFault
        It is gone, changed since the scan, encrypted or packed in a different way, over a cap, damaged or cut off; or
        its container can no longer be read.
    OSError
        The storage failed.
    """
    with open_regular_file(os.fspath(container)) as descriptor:
        before = _identity(descriptor)
        member = _find(os.fspath(container), descriptor, name)
        if expected is not None and expected != (member.size, member.mtime_ns):
            raise FileFault(Reason.CHANGED)
        _check_size(member, max_bytes)
        data = read_content(descriptor, _offset(descriptor, member), member)
        if _identity(descriptor) != before:
            raise FileFault(Reason.CHANGED, "its container is being written")
        return data


def member_version(container: str | Path, name: str) -> tuple[int, int]:
    """Return a member's version (`ArchiveFile.version`); parameters and errors as for `read_member`."""
    with open_regular_file(os.fspath(container)) as descriptor:
        member = _find(os.fspath(container), descriptor, name)
    return member.size, member.mtime_ns


@contextmanager
def open_member(container: str | Path, name: str) -> Iterator[BinaryIO]:
    """Open a member as a seekable binary stream, to read its beginning; parameters and errors as for `read_member`.

    The size is not limited, as only the bytes that are read are inflated.
    """
    with open_regular_file(os.fspath(container)) as descriptor:
        member = _find(os.fspath(container), descriptor, name)
        _check_packing(member)
        with io.BufferedReader(MemberStream(descriptor, _offset(descriptor, member), member)) as stream:
            yield stream


def _find(container: str, descriptor: int, name: str) -> Member:
    try:
        member = _index(container, descriptor).members.get(name)
    except ContainerFault as fault:
        # The scan could read it; the next scan skips it if it stays so.
        raise FileFault(Reason.CHANGED, f"its container can no longer be read: {fault}") from fault
    if member is None:
        raise FileFault(Reason.VANISHED)
    return member


def _check_size(member: Member, max_bytes: int) -> None:
    _check_packing(member)
    largest = max(member.size, member.packed)
    if largest > max_bytes:
        raise FileFault(Reason.TOO_LARGE, f"{largest:,} bytes, the cap is {max_bytes:,}")
    if member.size > RATIO_FROM and member.size > MAX_RATIO * member.packed:
        raise FileFault(Reason.TOO_LARGE, f"its compression ratio exceeds {MAX_RATIO}:1")


def _check_packing(member: Member) -> None:
    if member.packing is Packing.ENCRYPTED:
        raise FileFault(Reason.UNSUPPORTED, "encrypted")
    if member.packing is Packing.OTHER:
        raise FileFault(Reason.UNSUPPORTED, "neither stored nor deflated in its zip")


def _offset(descriptor: int, member: Member) -> int:
    return member.offset if member.crc is None else content_offset(descriptor, member)


def _identity(descriptor: int) -> _Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _index(path: str, descriptor: int) -> Index:
    """Return the index of a container at its real path, from the cache or by reading it."""
    key = (path, _identity(descriptor))
    with _cache_lock:
        cached = _cache.setdefault(key, _CachedIndex())
        _cache.move_to_end(key)
    with cached.lock:
        if cached.result is None:
            cached.result = _index_or_fault(path, descriptor)
            _drop_oldest()
        result = cached.result
    if isinstance(result, ContainerFault):
        raise ContainerFault(result.reason, result.detail)
    return result


def _index_or_fault(path: str, descriptor: int) -> Index | ContainerFault:
    # A fault is cached too: otherwise each of the container's images would have it read again.
    try:
        return _read_index(path, descriptor)
    except ContainerFault as fault:
        return fault.with_traceback(None)


def _read_index(path: str, descriptor: int) -> Index:
    name = path.lower()
    if name.endswith(ZIP_SUFFIX):
        return index_zip(descriptor)
    if name.endswith(TAR_SUFFIX):
        return index_tar(descriptor)
    raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "a link to a file that is not named .zip or .tar")


def _drop_oldest() -> None:
    with _cache_lock:
        while len(_cache) > 1 and (len(_cache) > MAX_CACHED or sum(map(_size, _cache.values())) > MAX_MEMBERS):
            _cache.popitem(last=False)


def _size(cached: _CachedIndex) -> int:
    return len(cached.result.members) if isinstance(cached.result, Index) else 0
