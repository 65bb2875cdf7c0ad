"""List and read the members of zips and tars; each container is indexed once, not once an image."""

import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from xray.archives.archive_file import ArchiveFile, Skipped
from xray.archives.layouts import may_be_image
from xray.archives.members import (
    LOST,
    MAX_MEMBERS,
    TAR_SUFFIX,
    UNKNOWN_PACKINGS,
    ZIP_SUFFIX,
    Index,
    Member,
    MemberStream,
    Packing,
    read_content,
    unreadable_fault,
)
from xray.archives.names import needs_lookup, other_forms
from xray.archives.regular_files import ByteRange, open_regular_file
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

MAX_NESTED = 20_000
"""Maximum number of containers in a container; to list one takes a tenth of a millisecond."""

MAX_NESTED_BYTES = 256 * 1024 * 1024
"""Maximum size of a deflated container in a container, which is inflated in memory; a process keeps as much of them."""

MAX_INDEXED_BYTES = 1024 * 1024 * 1024
"""Maximum number of bytes that are inflated to list the containers in one container, in some seconds."""

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
_inflated_contents: OrderedDict[tuple[str, _Identity, int], bytes] = OrderedDict()
_inflated_lock = Lock()


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
        It is damaged or cut off, not what its name says, being written, over a cap, or everything in it is encrypted
        or packed in an unknown way: nothing of it is listed.
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
    return _listed(index, prefix, prefix[:-1] or path.name)


def _listed(index: Index, prefix: str, container: str) -> Iterator[ArchiveFile | Skipped]:
    unreadable = False
    for name, member in index.members.items():
        # Most members; to hash an enumeration takes time.
        if member.packing is Packing.DEFLATED or member.packing is Packing.STORED:
            yield ArchiveFile(prefix + name, member.size, member.mtime_ns)
            continue
        unreadable = unreadable or (member.packing in UNKNOWN_PACKINGS and may_be_image(name))
        yield ArchiveFile(prefix + name, member.size, member.mtime_ns, lost=LOST.get(member.packing))
    for skipped in index.skipped:
        yield Skipped(prefix + skipped.path, skipped.reason)
    # One line for all of them, as there may be thousands.
    if unreadable:
        yield Skipped(container, SkipReason.UNREADABLE_MEMBERS)
    if index.packed_deeper:
        yield Skipped(container, SkipReason.NESTED_CONTAINER)


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
        source = _source(os.fspath(container), descriptor, member)
        data = read_content(source, _offset(source, member), member)
        if _identity(descriptor) != before:
            raise FileFault(Reason.CHANGED, "its container is being written")
        return data


def member_version(container: str | Path, name: str) -> tuple[int, int]:
    """Return a member's version (`ArchiveFile.version`); parameters and errors as for `read_member`."""
    with open_regular_file(os.fspath(container)) as descriptor:
        member = _find(os.fspath(container), descriptor, name)
    return member.size, member.mtime_ns


def is_same_member(container: str | Path, name: str, other: str) -> bool:
    """Tell whether two names lead to one member; errors as for `read_member`."""
    with open_regular_file(os.fspath(container)) as descriptor:
        return _find(os.fspath(container), descriptor, name) is _find(os.fspath(container), descriptor, other)


@contextmanager
def open_member(container: str | Path, name: str) -> Iterator[BinaryIO]:
    """Open a member as a seekable binary stream, to read its beginning; parameters and errors as for `read_member`.

    The size is not limited, as only the bytes that are read are inflated.
    """
    with open_regular_file(os.fspath(container)) as descriptor:
        member = _find(os.fspath(container), descriptor, name)
        _check_packing(member)
        source = _source(os.fspath(container), descriptor, member)
        with io.BufferedReader(MemberStream(source, _offset(source, member), member)) as stream:
            yield stream


def _find(container: str, descriptor: int, name: str) -> Member:
    try:
        members = _index(container, descriptor).members
    except ContainerFault as fault:
        # The scan could read it; the next scan skips it if it stays so.
        raise FileFault(Reason.CHANGED, f"its container can no longer be read: {fault}") from fault
    member = members.get(name)
    if member is None and needs_lookup(name):
        member = next((members[form] for form in other_forms(name) if form in members), None)
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
    fault = unreadable_fault(member)
    if fault is not None:
        raise fault


def _offset(source: ByteRange, member: Member) -> int:
    return member.offset if member.crc is None else content_offset(source, member)


def _source(path: str, descriptor: int, member: Member) -> ByteRange:
    """Return the bytes that hold a member: its container's, or those of the deflated container in it, inflated."""
    if member.within is None:
        return ByteRange(descriptor)
    return ByteRange(_inflated(path, descriptor, member.within))


def _inflated(path: str, descriptor: int, nested: Member) -> bytes:
    """Return the content of a nested container, from the cache or by inflating it; one thread at a time does."""
    key = (path, _identity(descriptor), nested.offset)
    with _inflated_lock:
        content = _inflated_contents.get(key)
        if content is None:
            source = ByteRange(descriptor)
            content = read_content(source, _offset(source, nested), nested)
            _inflated_contents[key] = content
            while sum(map(len, _inflated_contents.values())) > MAX_NESTED_BYTES:
                _inflated_contents.popitem(last=False)
        else:
            _inflated_contents.move_to_end(key)
    return content


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
    source = ByteRange(descriptor)
    index = _index_of(path, source)
    if len(index.nested) > MAX_NESTED:
        text = f"it has more than {MAX_NESTED:,} zips and tars in it"
        raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, text)
    faults = [_add_nested(index, path, descriptor, source, name, nested) for name, nested in index.nested.items()]
    index.nested.clear()
    _require_readable(index, faults)
    return index


def _index_of(name: str, source: ByteRange) -> Index:
    if name.lower().endswith(ZIP_SUFFIX):
        return index_zip(source)
    if name.lower().endswith(TAR_SUFFIX):
        return index_tar(source)
    raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "a link to a file that is not named .zip or .tar")


def _add_nested(
    index: Index, path: str, descriptor: int, source: ByteRange, name: str, nested: Member
) -> SkipReason | None:
    """Add the members of a zip or tar that is a member itself; return why it is skipped instead, or None."""
    try:
        content, start, within = _open_nested(index, path, descriptor, source, nested)
        inner = _index_of(name, content)
        inner.packed_deeper += len(inner.nested)
        _require_readable(inner, [])
    except ContainerFault as fault:
        index.skip(Skipped(name, fault.reason))
        return fault.reason
    for inner_name, member in inner.members.items():
        index.add(f"{name}/{inner_name}", replace(member, offset=member.offset + start, within=within))
    for skipped in inner.skipped:
        index.skip(Skipped(f"{name}/{skipped.path}", skipped.reason))
    index.packed_deeper += inner.packed_deeper
    return None


def _open_nested(
    index: Index, path: str, descriptor: int, source: ByteRange, nested: Member
) -> tuple[ByteRange, int, Member | None]:
    """Return the bytes of a nested container, where they begin in its container, and itself if it is deflated."""
    if nested.packing in LOST:
        raise ContainerFault(LOST[nested.packing], "it has no content")
    if nested.packing in UNKNOWN_PACKINGS:
        raise _unknown_packing([nested])
    try:
        if nested.packing is Packing.STORED:
            start = _offset(source, nested)
            if nested.packed != nested.size or start + nested.size > source.size:
                raise FileFault(Reason.TRUNCATED, "its container ends before it")
            return ByteRange(descriptor, start, nested.size), start, None
        index.inflated += nested.size
        if index.inflated > MAX_INDEXED_BYTES:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, "too much would be inflated to list it")
        _check_size(nested, MAX_NESTED_BYTES)
        return ByteRange(_inflated(path, descriptor, nested)), 0, nested
    except FileFault as fault:
        too_large = fault.reason is Reason.TOO_LARGE
        reason = SkipReason.CONTAINER_TOO_LARGE if too_large else SkipReason.DAMAGED_CONTAINER
        raise ContainerFault(reason, fault.detail) from fault


def _require_readable(index: Index, nested_faults: Sequence[SkipReason | None]) -> None:
    """Raise `ContainerFault` if everything in a container that may be an image is encrypted or oddly packed."""
    images = []
    for name, member in index.members.items():
        if may_be_image(name):
            if member.packing not in UNKNOWN_PACKINGS:
                return
            images.append(member)
    if images:
        raise _unknown_packing(images)
    if nested_faults and set(nested_faults) <= {SkipReason.ENCRYPTED_CONTAINER}:
        raise ContainerFault(SkipReason.ENCRYPTED_CONTAINER, "the zips in it are encrypted")


def _unknown_packing(members: Sequence[Member]) -> ContainerFault:
    if any(member.packing is Packing.ENCRYPTED for member in members):
        return ContainerFault(SkipReason.ENCRYPTED_CONTAINER, "it is encrypted")
    return ContainerFault(
        SkipReason.UNKNOWN_PACKING, "its files are packed in a way that is not read, such as Deflate64"
    )


def _drop_oldest() -> None:
    with _cache_lock:
        while len(_cache) > 1 and (len(_cache) > MAX_CACHED or sum(map(_size, _cache.values())) > MAX_MEMBERS):
            _cache.popitem(last=False)


def _size(cached: _CachedIndex) -> int:
    return len(cached.result.members) if isinstance(cached.result, Index) else 0
