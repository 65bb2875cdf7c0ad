"""What a zip's or a tar's directory says of its members, and which of their names may be used."""

import io
import os
import re
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from xray.archives.layouts import MAX_PATH_BYTES, is_hidden
from xray.archives.regular_files import read_at
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 200_000
"""Members a container may have. One takes 336 bytes of an index that is kept, and 870 while a zip's is made (measured
with MURA's names): 67 and 173 MB at the cap."""

MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
"""Bytes that a container's names may take, and a zip's whole directory."""

ZIP_SUFFIX = ".zip"
TAR_SUFFIX = ".tar"
_COMPRESSED_TAR = re.compile(r"\.(tar\.[a-z0-9]{1,5}|tgz|taz|tbz|tbz2|tb2|tz2|txz|tlz|tzst)\Z", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


class Packing(Enum):
    """How a member's bytes lie in its container."""

    STORED = "stored"
    DEFLATED = "deflated"
    ENCRYPTED = "encrypted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a member lies, and what it should be.

    Parameters
    ----------
    offset : int
        Bytes into the container: of the local header in a zip, of the content in a tar.
    packed, size : int
        Bytes in the container, and unpacked.
    stamp_ns : int
        The member's version, nanoseconds since 1970, within 64 bits.
    packing : Packing
        How to read it.
    crc : int or None
        CRC-32 of the content; None in a tar, which has none.
    """

    offset: int
    packed: int
    size: int
    stamp_ns: int
    packing: Packing
    crc: int | None


@dataclass(slots=True)
class Index:
    """A container's directory; changed by nobody once it is read.

    Parameters
    ----------
    members : dict of str to Entry
        By normalised path.
    passed : list of (str, SkipReason)
        What is passed over: names for a person to read, and why.
    """

    members: dict[str, Entry] = field(default_factory=dict)
    passed: list[tuple[str, SkipReason]] = field(default_factory=list)
    _name_bytes: int = 0

    def add(self, name: str, entry: Entry | SkipReason) -> None:
        """Take in a member that is no folder, or the reason why its kind is passed over.

        Of a name that comes twice the last one counts, as it would once unpacked.

        Raises
        ------
        ContainerFault
            The container is over a cap.
        """
        self._name_bytes += len(name)
        if self._name_bytes > MAX_DIRECTORY_BYTES:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"its names take over {MAX_DIRECTORY_BYTES:,} bytes")
        if len(self.members) + len(self.passed) == MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has over {MAX_MEMBERS:,} members")
        path = normalised(name)
        if isinstance(path, SkipReason):
            self.passed.append((name_as_text(name), path))
        elif isinstance(entry, SkipReason):
            self.passed.append((name_as_text(path), entry))
        else:
            if path in self.members:
                self.passed.append((name_as_text(path), SkipReason.DUPLICATE_NAME))
            self.members[path] = entry


def is_container(name: str) -> bool:
    """Tell by its name whether a file is read like a folder: a zip or an uncompressed tar."""
    return name.lower().endswith((ZIP_SUFFIX, TAR_SUFFIX))


def is_compressed_tar(name: str) -> bool:
    """Tell by its name whether a file is a compressed tar, which could only be read from its start."""
    return _COMPRESSED_TAR.search(name) is not None


def normalised(name: str) -> str | SkipReason:
    r"""Return a member's path below its container, or why there is none.

    ``\`` separates folders as ``/`` does, empty and ``.`` components fall away.
    """
    unified = name.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in ("", ".")]
    if not parts or unified.startswith("/") or ".." in parts or _DRIVE.match(parts[0]):
        return SkipReason.OUTSIDE_ARCHIVE
    if "\0" in name:
        return SkipReason.IMPOSSIBLE_NAME
    path = "/".join(parts)
    if len(path.encode(errors="surrogateescape")) > MAX_PATH_BYTES:
        return SkipReason.PATH_TOO_LONG
    if (is_container(path) or is_compressed_tar(path)) and not any(map(is_hidden, parts)):
        return SkipReason.NESTED_CONTAINER
    return path


def name_as_text(name: str) -> str:
    r"""Return a name for a person, cut where no path is as long: what is no text is written out as ``\xNN``."""
    text = name[:MAX_PATH_BYTES].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
