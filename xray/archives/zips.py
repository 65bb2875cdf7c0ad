"""Read the directory of a zip (APPNOTE.TXT 6.3.10, PKWARE), and find the content of a member.

The standard library's `zipfile` parses the directory, from a file object that enforces the caps.
"""

import calendar
import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO, cast

from xray.archives.members import (
    MAX_DIRECTORY_BYTES,
    MAX_MEMBERS,
    UNKNOWN_PACKINGS,
    Index,
    Link,
    Member,
    Packing,
    link_target,
    read_content,
    unreadable_fault,
)
from xray.archives.regular_files import ByteRange
from xray.archives.zip_names import decode_names
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

_UNIX = 3
_ENCRYPTED, _PATCHED, _STRONGLY_ENCRYPTED, _UTF8, _MASKED = 0x1, 0x20, 0x40, 0x800, 0x2000
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_END_RECORD = 22
_MAX_COMMENT = 2**16 - 1
_EXTRA_FIELD = struct.Struct("<HH")
_UNICODE_PATH = 0x7075
_MAX_LINK = 4096
_PARSE_ERRORS = (zipfile.BadZipFile, struct.error, ValueError, ArithmeticError, LookupError, RuntimeError)


def index_zip(source: ByteRange) -> Index:
    """Read the directory of a zip; a symbolic link to a member is that member's content.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, or over a cap.
    OSError
        The storage failed.
    """
    file = _CappedFile(source)
    try:
        with zipfile.ZipFile(cast(IO[bytes], file)) as directory:
            infos = directory.infolist()
    except _PARSE_ERRORS as error:
        if file.error is not None:
            raise file.error from error
        if _hides_directory(source):
            raise ContainerFault(SkipReason.ENCRYPTED_CONTAINER, "it is encrypted, with its directory") from error
        # Without the error's text, which may contain a name.
        text = "it is not a zip, or its directory is damaged or cut off"
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, text) from error
    if not _count_matches(source, len(infos)):
        text = "its directory does not have as many members as its end record says"
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, text)
    index = Index(_is_same)
    for info, name in zip(infos, _names(infos), strict=True):
        if not name.replace("\\", "/").endswith("/"):
            index.add(name, _entry(source, info, name))
    index.follow_links()
    return index


def content_offset(source: ByteRange, member: Member) -> int:
    """Return where the content of a member begins, after its local header (APPNOTE 4.3.7).

    Raises
    ------
    FileFault
        There is no such header.
    OSError
        The storage failed.
    """
    header = source.read(member.offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise FileFault(Reason.TRUNCATED, "the zip is truncated before this file")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise FileFault(Reason.CORRUPT, "its zip has no header for it")
    return member.offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


class _CappedFile:
    """The file that `zipfile` reads from: the caps are checked before bytes are read and before objects are made."""

    def __init__(self, source: ByteRange) -> None:
        self._source = source
        self._position = 0
        self.size = source.size
        self.error: OSError | None = None
        """The storage's error, which `zipfile` would report as a damaged zip."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + (self.size if whence == os.SEEK_END else 0)
        if position < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, length: int = -1) -> bytes:
        remaining = max(self.size - self._position, 0)
        length = remaining if length < 0 else min(length, remaining)
        if length > MAX_DIRECTORY_BYTES:
            text = f"its directory claims {length:,} bytes, the cap is {MAX_DIRECTORY_BYTES:,}"
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, text)
        try:
            data = self._source.read(self._position, length)
        except OSError as error:
            self.error = error
            raise
        if data.count(b"PK\1\2") > MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has more than {MAX_MEMBERS:,} members")
        self._position += len(data)
        return data


def _count_matches(source: ByteRange, members: int) -> bool:
    # `zipfile` uses only the directory's length: if that is wrong, images would be missing without an error.
    start = max(source.size - _END_RECORD - _MAX_COMMENT, 0)
    tail = source.read(start, source.size - start)
    record = tail[tail.rfind(b"PK\5\6") :]
    count = int.from_bytes(record[10:12], "little")
    # All ones: the count is in the zip64 record. Some writers without zip64 let the count overflow.
    return count in (members % 2**16, 2**16 - 1)


def _hides_directory(source: ByteRange) -> bool:
    """Tell whether a zip's first local header says that the directory is encrypted (APPNOTE 4.4.4)."""
    header = source.read(0, 8)
    flags = int.from_bytes(header[6:], "little")
    return header[:4] == b"PK\3\4" and bool(flags & _ENCRYPTED and flags & _STRONGLY_ENCRYPTED and flags & _MASKED)


def _names(infos: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Return the members' names; those without the flag for UTF-8 are decoded together, as one tool wrote them."""
    # Not `filename`, which ends at a NUL, and which later versions of Python read from an extra field.
    names = [
        name if (name := info.orig_filename).isascii() or info.flag_bits & _UTF8 else _unicode_path(info)
        for info in infos
    ]
    # `zipfile` decodes them by code page 437, which has a character for each byte.
    raw = [info.orig_filename.encode("cp437") for info, name in zip(infos, names, strict=True) if name is None]
    decoded = iter(decode_names(raw))
    return [next(decoded) if name is None else name for name in names]


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """Return the name in the Unicode path field (APPNOTE 4.6.9), if there is one for this name."""
    name = info.orig_filename
    extra = info.extra
    while len(extra) >= _EXTRA_FIELD.size:
        kind, length = _EXTRA_FIELD.unpack_from(extra)
        field = extra[_EXTRA_FIELD.size : _EXTRA_FIELD.size + length]
        if kind == _UNICODE_PATH and field[1:5] == zlib.crc32(name.encode("cp437")).to_bytes(4, "little"):
            with suppress(UnicodeDecodeError):
                return field[5:].decode()
        extra = extra[_EXTRA_FIELD.size + length :]
    return None


def _entry(source: ByteRange, info: zipfile.ZipInfo, name: str) -> Member | Link:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    member = _member(info)
    if kind in (0, stat.S_IFREG):
        return member
    if kind == stat.S_IFLNK:
        return Link(_link_text(source, member, name), member.mtime_ns)
    return replace(member, packing=Packing.SPECIAL)


def _link_text(source: ByteRange, member: Member, name: str) -> str | None:
    """Return the path that a symbolic link leads to: its content is that path."""
    if max(member.size, member.packed) > _MAX_LINK or unreadable_fault(member) is not None:
        return None
    try:
        content = read_content(source, content_offset(source, member), member)
    except FileFault:
        return None
    return link_target(name, content.decode(errors="surrogateescape"))


def _is_same(member: Member, earlier: Member) -> bool:
    return (member.crc, member.size, member.packing) == (earlier.crc, earlier.size, earlier.packing)


def _member(info: zipfile.ZipInfo) -> Member:
    if info.flag_bits & (_ENCRYPTED | _STRONGLY_ENCRYPTED):
        packing = Packing.ENCRYPTED
    elif info.flag_bits & _PATCHED:
        packing = Packing.OTHER
    else:
        known = {zipfile.ZIP_STORED: Packing.STORED, zipfile.ZIP_DEFLATED: Packing.DEFLATED}
        packing = known.get(info.compress_type, Packing.OTHER)
    try:
        seconds = calendar.timegm(info.date_time)
    except ValueError:
        seconds = 0
    # A zip keeps times to two seconds and without a zone: the CRC makes other content of one size another version.
    mtime_ns = seconds * 1_000_000_000 + info.CRC
    if packing in UNKNOWN_PACKINGS:
        # Packed again without a password it has the same time and CRC, and is another version.
        mtime_ns += 2**32
    return Member(info.header_offset, info.compress_size, info.file_size, mtime_ns, packing, info.CRC)
