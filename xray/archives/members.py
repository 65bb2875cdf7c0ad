"""Members of a zip or tar: which names are accepted, where their content is, and how it is read."""

import io
import os
import posixpath
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from xray.archives.archive_file import MAX_PATH_BYTES, Skipped
from xray.archives.layouts import is_hidden_path
from xray.archives.names import stored_name
from xray.archives.regular_files import ByteRange
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

MAX_LINKS = 40
"""Maximum number of links that lead from one to the next, as on disk."""

ZIP_SUFFIX = ".zip"
TAR_SUFFIX = ".tar"
_COMPRESSED_TAR = re.compile(r"\.(tar\.[a-z0-9]{1,5}|tgz|taz|tbz|tbz2|tb2|tz2|txz|tlz|tzst)\Z", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")
_RAW_DEFLATE = -zlib.MAX_WBITS
_CHUNK = 64 * 1024


class Packing(Enum):
    """How a member's content is stored in its container, or why there is none to read."""

    STORED = "stored"
    DEFLATED = "deflated"
    ENCRYPTED = "encrypted"
    OTHER = "other"
    SPECIAL = "special"
    BROKEN_LINK = "broken link"
    REPLACED = "replaced"


UNKNOWN_PACKINGS = frozenset({Packing.ENCRYPTED, Packing.OTHER})

LOST = {
    Packing.SPECIAL: SkipReason.SPECIAL_FILE,
    Packing.BROKEN_LINK: SkipReason.BROKEN_LINK,
    Packing.REPLACED: SkipReason.DUPLICATE_NAME,
}
"""Members without content of their own: images that fail, where they are in a study."""

_FAULTS = {
    Packing.ENCRYPTED: (Reason.UNSUPPORTED, "encrypted"),
    Packing.OTHER: (Reason.UNSUPPORTED, "neither stored nor deflated in its zip"),
    Packing.SPECIAL: (Reason.UNREADABLE, "not a regular file"),
    Packing.BROKEN_LINK: (Reason.BROKEN_LINK, "its container does not hold what it links to"),
    Packing.REPLACED: (Reason.UNREADABLE, "its container holds another file of the same name, which replaces it"),
}


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
    within : Member or None
        The deflated container in the container that holds this member: the offset is one into its content.
    """

    offset: int
    packed: int
    size: int
    mtime_ns: int
    packing: Packing
    crc: int | None
    within: "Member | None" = None


@dataclass(frozen=True, slots=True)
class Link:
    """A link in a container: the path that it leads to in it, None for one outside, and the link's own time."""

    target: str | None
    mtime_ns: int


@dataclass(slots=True)
class Index:
    """The directory of a container; not changed after it has been read.

    Parameters
    ----------
    same : callable
        Tells whether a member that replaces an earlier one of the same name leaves nothing of it unread.
    members : dict of str to Member
        By path: normalised, and as `stored_name` writes it.
    nested : dict of str to Member
        The zips and tars among the members, by path; they are not in `members`.
    packed_deeper : int
        How many compressed tars there are, and containers that are nested more deeply; they are not read.
    skipped : list of Skipped
        The other members, folders excepted.
    inflated : int
        How many bytes were inflated to list the nested ones.
    """

    same: Callable[[Member, Member], bool]
    members: dict[str, Member] = field(default_factory=dict)
    nested: dict[str, Member] = field(default_factory=dict)
    packed_deeper: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    inflated: int = 0
    _links: dict[str, Link] = field(default_factory=dict)
    _decomposed: dict[str, str] = field(default_factory=dict)
    _count: int = 0
    _name_bytes: int = 0

    def add(self, name: str, entry: Member | Link) -> None:
        """Add a member that is not a folder.

        If a name repeats, the last member counts, as it would after unpacking. If that leaves content unread, the
        earlier one is kept too, as a member that cannot be read.

        Raises
        ------
        ContainerFault
            The container is over a cap.
        """
        self._check_caps(name)
        path = normalised_path(name)
        if isinstance(path, SkipReason):
            self.skipped.append(Skipped(name, path))
            return
        if not path.isascii():
            path = self._stored(path)
        if path in self.members or path in self.nested or path in self._links:
            earlier = self._pop(path)
            if earlier is not None and not self._replaces(entry, earlier):
                self._keep_replaced(path, earlier.mtime_ns)
        self._put(path, entry)

    def skip(self, skipped: Skipped) -> None:
        """Add a member that is skipped; errors as for `add`."""
        self._check_caps(skipped.path)
        self.skipped.append(skipped)

    def follow_links(self) -> None:
        """Give each link the content of the member that it leads to, once all members are added.

        A link to a folder in the container is left out, as its files are members themselves.
        """
        ends = {path: self._end_of(path) for path in self._links}
        found = {path: end and (self.members.get(end) or self.nested.get(end)) for path, end in ends.items()}
        folders = {parent for path in (*self.members, *self.nested) for parent in _parents(path)} if ends else set()
        links, self._links = self._links, {}
        for path, member in found.items():
            if member:
                self._put(path, member)
            elif ends[path] not in folders:
                self._put(path, Member(0, 0, 0, links[path].mtime_ns, Packing.BROKEN_LINK, None))

    def _check_caps(self, name: str) -> None:
        self._name_bytes += len(name)
        if self._name_bytes > MAX_DIRECTORY_BYTES:
            raise ContainerFault(
                SkipReason.CONTAINER_TOO_LARGE, f"its names take more than {MAX_DIRECTORY_BYTES:,} bytes"
            )
        if self._count == MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has more than {MAX_MEMBERS:,} members")
        self._count += 1

    def _stored(self, path: str) -> str:
        """Return the path under which a member is kept; two names in different Unicode forms stay two members."""
        stored = stored_name(path)
        if stored == path:
            first = self._decomposed.pop(path, None)
            if first is not None and (entry := self._pop(path)) is not None:
                self._put(first, entry)
        elif self._decomposed.get(stored, path) == path and (stored in self._decomposed or not self._has(stored)):
            self._decomposed[stored] = path
            return stored
        return path

    def _has(self, path: str) -> bool:
        return path in self.members or path in self.nested or path in self._links

    def _pop(self, path: str) -> Member | Link | None:
        for entries in (self.members, self.nested, self._links):
            if path in entries:
                return entries.pop(path)
        return None

    def _put(self, path: str, entry: Member | Link) -> None:
        if isinstance(entry, Link):
            self._links[path] = entry
        elif not (is_container(path) or is_compressed_tar(path)) or is_hidden_path(path):
            self.members[path] = entry
        elif is_container(path):
            self.nested[path] = entry
        else:
            self.packed_deeper += 1

    def _replaces(self, entry: Member | Link, earlier: Member | Link) -> bool:
        if isinstance(entry, Member) and isinstance(earlier, Member):
            return self.same(entry, earlier)
        return entry == earlier

    def _keep_replaced(self, path: str, mtime_ns: int) -> None:
        stem, dot, suffix = path.rpartition(".")
        number = 1
        while self._has(name := f"{stem} (replaced {number}){dot}{suffix}"):
            number += 1
        self.members[name] = Member(0, 0, 0, mtime_ns, Packing.REPLACED, None)

    def _end_of(self, path: str) -> str | None:
        """Return the path that a link leads to in the end, or None if it leads out of the container or in a circle."""
        for _ in range(MAX_LINKS):
            # The first link on the path: a folder above, or the path itself.
            link = next((part for part in (*_parents(path), path) if part in self._links), None)
            if link is None:
                return path
            target = self._links[link].target
            if target is None:
                return None
            path = target + path[len(link) :]
        return None


def _parents(path: str) -> list[str]:
    return [path[:end] for end, char in enumerate(path) if char == "/"]


def link_target(path: str, text: str) -> str | None:
    """Return the path in a container that a symbolic link in it leads to, or None if it leads out of it."""
    unified = text.replace("\\", "/")
    if unified.startswith("/") or _DRIVE.match(unified):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unified))
    return None if target.startswith("..") else stored_name(target)


def hard_link_target(name: str) -> str | None:
    """Return the path of the member that a hard link names, or None if no member can have it."""
    path = normalised_path(name)
    return None if isinstance(path, SkipReason) else stored_name(path)


def unreadable_fault(member: Member) -> FileFault | None:
    """Return why a member has no content that can be read, or None if it has."""
    return FileFault(*_FAULTS[member.packing]) if member.packing in _FAULTS else None


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
    return SkipReason.PATH_TOO_LONG if len(path.encode(errors="surrogateescape")) > MAX_PATH_BYTES else path


def read_content(source: ByteRange, offset: int, member: Member) -> bytes:
    """Read the whole content of a member, `member.size` bytes.

    Parameters
    ----------
    source : ByteRange
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
    data = source.read(offset, member.packed)
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
    source : ByteRange
        The container; the caller keeps it open as long as the stream is used.
    offset : int
        Where the content begins.
    member : Member
        Stored or deflated.
    """

    def __init__(self, source: ByteRange, offset: int, member: Member) -> None:
        # pydicom reads the name of every `io.BufferedReader`.
        self.name = "member"
        self._source = source
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
            data = self._source.read(self._offset + self._position, length)
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
        data = self._source.read(self._offset + self._consumed, length) if length > 0 else b""
        self._consumed += len(data)
        return data
