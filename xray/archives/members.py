"""Members of a zip or tar: which names are accepted, where their content is, and how it is read."""

import io
import os
import re
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from xray.archives.archive_file import MAX_PATH_BYTES, Skipped
from xray.archives.layouts import is_hidden
from xray.archives.regular_files import read_at
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 200_000
"""Maximum number of members of a container. One takes 336 bytes in an index, and 870 bytes while the index of a zip is
read (measured with MURA's names): 67 and 173 MB at the cap."""

MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
"""Maximum size of all names of a container, and of the whole directory of a zip."""

MAX_INFLATED = 256 * 1024 * 1024
"""Maximum number of bytes that one stream inflates, however often its reader seeks back."""

ZIP_SUFFIX = ".zip"
TAR_SUFFIX = ".tar"
_COMPRESSED_TAR = re.compile(r"\.(tar\.[a-z0-9]{1,5}|tgz|taz|tbz|tbz2|tb2|tz2|txz|tlz|tzst)\Z", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_RAW_DEFLATE = -zlib.MAX_WBITS
_CHUNK = 64 * 1024


class Packing(Enum):
    """How a member's content is stored in its container."""

    STORED = "stored"
    DEFLATED = "deflated"
    ENCRYPTED = "encrypted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a container: where its content is, and what it must be.

    Parameters
    ----------
    offset : int
        Bytes into the container: of the local header in a zip, of the content in a tar.
    packed, size : int
        Bytes in the container, and unpacked.
    mtime_ns : int
        Time of the last change as in `ArchiveFile`: nanoseconds since 1970, in a zip plus the CRC-32.
    packing : Packing
        How the content is stored.
    crc : int or None
        CRC-32 of the content; None in a tar, which has none.
    """

    offset: int
    packed: int
    size: int
    mtime_ns: int
    packing: Packing
    crc: int | None


@dataclass(slots=True)
class Index:
    """The directory of a container; not changed after it has been read.

    Parameters
    ----------
    members : dict of str to Member
        By normalised path.
    skipped : list of Skipped
        The other members, folders excepted.
    """

    members: dict[str, Member] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    _name_bytes: int = 0

    def add(self, name: str, member: Member | SkipReason) -> None:
        """Add a member that is not a folder, or the reason why members of its kind are skipped.

        If a name repeats, the last member counts, as it would after unpacking.

        Raises
        ------
        ContainerFault
            The container is over a cap.
        """
        self._name_bytes += len(name)
        if self._name_bytes > MAX_DIRECTORY_BYTES:
            raise ContainerFault(
                SkipReason.CONTAINER_TOO_LARGE, f"its names take more than {MAX_DIRECTORY_BYTES:,} bytes"
            )
        if len(self.members) + len(self.skipped) == MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has more than {MAX_MEMBERS:,} members")
        path = normalised_path(name)
        if isinstance(path, SkipReason):
            self.skipped.append(Skipped(name, path))
        elif isinstance(member, SkipReason):
            self.skipped.append(Skipped(path, member))
        else:
            if path in self.members:
                self.skipped.append(Skipped(path, SkipReason.DUPLICATE_NAME))
            self.members[path] = member


def is_container(name: str) -> bool:
    """Tell by its name whether a file is read like a folder: a zip or an uncompressed tar."""
    return name.lower().endswith((ZIP_SUFFIX, TAR_SUFFIX))


def is_compressed_tar(name: str) -> bool:
    """Tell by its name whether a file is a compressed tar, which could only be read from start to end."""
    return _COMPRESSED_TAR.search(name) is not None


def normalised_path(name: str) -> str | SkipReason:
    r"""Return a member's path below its container, or why its name is not accepted.

    ``\`` separates folders like ``/``; empty and ``.`` components are left out.
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


def read_content(descriptor: int, offset: int, member: Member) -> bytes:
    """Read the whole content of a member, `member.size` bytes.

    Parameters
    ----------
    descriptor : int
        The container.
    offset : int
        Where the content begins.
    member : Member
        Stored or deflated, and within the caps: its packed bytes are read at once, and at most one byte beyond its
        size is inflated.

    Raises
    ------
    FileFault
        The content ends early, is longer than the directory says, or does not match its CRC.
    OSError
        The storage failed.
    """
    data = read_at(descriptor, offset, member.packed)
    cut_off = len(data) < member.packed
    if member.packing is Packing.DEFLATED:
        inflater = zlib.decompressobj(_RAW_DEFLATE)
        try:
            data = inflater.decompress(data, member.size + 1)
        except zlib.error as error:
            raise FileFault(Reason.CORRUPT, "it does not inflate") from error
        cut_off = cut_off and not inflater.eof
    if cut_off:
        raise FileFault(Reason.TRUNCATED, "its container ends before it")
    if len(data) != member.size:
        raise FileFault(Reason.CORRUPT, "its size is not what its container says")
    if member.crc is not None and zlib.crc32(data) != member.crc:
        raise FileFault(Reason.CORRUPT, "its checksum is wrong")
    return data


class MemberStream(io.RawIOBase):
    """The content of a member as a seekable binary stream; its checksum is not verified.

    Seeking costs nothing before the next read. After seeking back, a deflated member is inflated from its start again.

    Parameters
    ----------
    descriptor : int
        The container; the caller keeps it open as long as the stream is used, and closes it.
    offset : int
        Where the content begins.
    member : Member
        Stored or deflated.
    """

    def __init__(self, descriptor: int, offset: int, member: Member) -> None:
        # As for a file opened by descriptor; pydicom reads the name of every `io.BufferedReader`.
        self.name = descriptor
        self._descriptor = descriptor
        self._offset = offset
        self._member = member
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
        """Move to a position, which may be beyond the end, like that of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._member.size}[whence]
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
        length = min(len(view), self._member.size - self._position)
        if length <= 0:
            return 0
        if self._member.packing is Packing.STORED:
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
            raise FileFault(Reason.TOO_LARGE, f"more than {MAX_INFLATED:,} bytes would be inflated to read its header")
        return data

    def _next_packed(self) -> bytes:
        length = min(_CHUNK, self._member.packed - self._consumed)
        data = read_at(self._descriptor, self._offset + self._consumed, length) if length > 0 else b""
        self._consumed += len(data)
        return data
