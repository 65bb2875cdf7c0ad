"""Keep the indexes of the containers that are being read, so that each is indexed once and not once an image."""

import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from xray.archives.members import MAX_MEMBERS, TAR_SUFFIX, ZIP_SUFFIX, Entry, Index, MemberStream, Packing, read_whole
from xray.archives.regular_files import open_regular_file
from xray.archives.tars import index_tar
from xray.archives.zips import content_offset, index_zip
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

MAX_KEPT = 64
"""Containers whose indexes a process keeps, those used last; with no more than `MAX_MEMBERS` members in all."""

Version = tuple[int, int, int, int]


class _Slot:
    """A container's index, or why it has none; whoever comes first makes it, the others wait."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.outcome: Index | ContainerFault | None = None


# An index holds no descriptor: it may be dropped while it is in use, and after a fork nothing is shared. A fork must
# not meet a lock that is held; the processes that fork read no archive.
_slots: OrderedDict[tuple[str, Version], _Slot] = OrderedDict()
_lock = Lock()


def version_of(descriptor: int) -> Version:
    """Return what changes when an open file is replaced or written: device, inode, size, time of the last change."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def index_of(path: str, descriptor: int) -> Index:
    """Return a container's index, kept or read now.

    Parameters
    ----------
    path : str
        The container's real path; its name tells what it is.
    descriptor : int
        The container, open for reading.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, not what its name says, or over a cap.
    OSError
        The storage failed.
    """
    key = (path, version_of(descriptor))
    with _lock:
        slot = _slots.setdefault(key, _Slot())
        _slots.move_to_end(key)
    with slot.lock:
        if slot.outcome is None:
            slot.outcome = _outcome(path, descriptor)
            _drop_oldest()
        outcome = slot.outcome
    if isinstance(outcome, ContainerFault):
        raise ContainerFault(outcome.reason, outcome.detail)
    return outcome


def _outcome(path: str, descriptor: int) -> Index | ContainerFault:
    # A fault is kept too: each of its two thousand images would have the container read again.
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
    with _lock:
        while len(_slots) > 1 and (len(_slots) > MAX_KEPT or sum(map(_members, _slots.values())) > MAX_MEMBERS):
            _slots.popitem(last=False)


def _members(slot: _Slot) -> int:
    return len(slot.outcome.members) if isinstance(slot.outcome, Index) else 0


MAX_RATIO = 200
"""How many times larger than its packed bytes a member over `RATIO_FROM` bytes may be; DEFLATE reaches 1,032.

As 16-bit pixels, 36 large radiographs deflate 11 times at most, and a blank one of 2880 x 2304 with noise of half a
gray level 9 times, of a fifth of one 93 times. A film of which 98 % is exactly 0 reaches 105, one with nothing but a
marker of 200 x 40 pixels 464: what the cap refuses shows nobody (measured, zlib level 9)."""

RATIO_FROM = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a container.

    Parameters
    ----------
    path : str
        Below the container, POSIX, without '..'. In a tar, bytes that are no UTF-8 are surrogates.
    size : int
        Bytes, unpacked, as the directory says.
    stamp_ns : int
        The version of its content, nanoseconds since 1970, within 64 bits: the time of the last change; in a zip the
        CRC-32 is added to it.
    """

    path: str
    size: int
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class PassedMember:
    r"""What is passed over in a container.

    Parameters
    ----------
    path : str
        Its name, for a person: what is no text is written out as ``\xNN``.
    reason : SkipReason
        What to count it under.
    """

    path: str
    reason: SkipReason


def list_members(path: Path) -> Iterator[Member | PassedMember]:
    """Return every file in a container, each path once, and what is passed over; folders go without saying.

    Parameters
    ----------
    path : Path
        A zip or an uncompressed tar, told by its name.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, not what its name says, being written, or over a cap: nothing of it is listed.
    FileFault
        It is no regular file.
    OSError
        The storage failed.
    """
    real_path = os.path.realpath(path, strict=True)
    with open_regular_file(real_path) as descriptor:
        before = version_of(descriptor)
        index = index_of(real_path, descriptor)
        if version_of(descriptor) != before:
            raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "it is being written")
    members = (Member(name, entry.size, entry.stamp_ns) for name, entry in index.members.items())
    return chain(members, (PassedMember(name, reason) for name, reason in index.passed))


def read_member(container: str | Path, member: str, seen: tuple[int, int] | None, max_bytes: int) -> bytes:
    """Read a whole member.

    Parameters
    ----------
    container : str or Path
        The container's real path, free of links.
    member : str
        The member's normalised path.
    seen : tuple of (int, int) or None
        The size (bytes) and the stamp (ns) that it had when it was scanned.
    max_bytes : int
        Cap on its size, packed and unpacked.

    Raises
    ------
    FileFault
        It is gone, not as it was seen, encrypted or packed in another way, over a cap, damaged or cut off; or its
        container cannot be read any more.
    OSError
        The storage failed.
    """
    with open_regular_file(os.fspath(container)) as descriptor:
        before = version_of(descriptor)
        entry = _find(os.fspath(container), descriptor, member)
        if seen is not None and seen != (entry.size, entry.stamp_ns):
            raise FileFault(Reason.CHANGED)
        _check(entry, max_bytes)
        data = read_whole(descriptor, _offset(descriptor, entry), entry)
        if version_of(descriptor) != before:
            raise FileFault(Reason.CHANGED, "its container is being written")
        return data


def member_status(container: str | Path, member: str) -> tuple[int, int]:
    """Return a member's size (bytes) and stamp (ns) as its container's directory says; errors as of `read_member`."""
    with open_regular_file(os.fspath(container)) as descriptor:
        entry = _find(os.fspath(container), descriptor, member)
    return entry.size, entry.stamp_ns


@contextmanager
def open_member(container: str | Path, member: str) -> Iterator[BinaryIO]:
    """Open a member as a seekable binary stream, to read its beginning; parameters and errors as `read_member`.

    No size is held against a cap, as only what is read is inflated.
    """
    with open_regular_file(os.fspath(container)) as descriptor:
        entry = _find(os.fspath(container), descriptor, member)
        _check_packing(entry)
        with io.BufferedReader(MemberStream(descriptor, _offset(descriptor, entry), entry)) as stream:
            yield stream


def _find(container: str, descriptor: int, member: str) -> Entry:
    try:
        entry = index_of(container, descriptor).members.get(member)
    except ContainerFault as fault:
        # It was good when it was scanned, and the next scan judges it.
        raise FileFault(Reason.CHANGED, f"its container cannot be read any more: {fault}") from fault
    if entry is None:
        raise FileFault(Reason.VANISHED)
    return entry


def _check(entry: Entry, max_bytes: int) -> None:
    _check_packing(entry)
    largest = max(entry.size, entry.packed)
    if largest > max_bytes:
        raise FileFault(Reason.TOO_LARGE, f"{largest:,} bytes, the cap is {max_bytes:,}")
    if entry.size > RATIO_FROM and entry.size > MAX_RATIO * entry.packed:
        raise FileFault(Reason.TOO_LARGE, f"it would inflate more than {MAX_RATIO} times")


def _check_packing(entry: Entry) -> None:
    if entry.packing is Packing.ENCRYPTED:
        raise FileFault(Reason.UNSUPPORTED, "encrypted")
    if entry.packing is Packing.OTHER:
        raise FileFault(Reason.UNSUPPORTED, "neither stored nor deflated in its zip")


def _offset(descriptor: int, entry: Entry) -> int:
    return entry.offset if entry.crc is None else content_offset(descriptor, entry)
