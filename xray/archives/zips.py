"""Read the directory of a zip (APPNOTE.TXT 6.3.10, PKWARE), and find the content of a member.

The standard library's `zipfile` parses the directory, from a file object that enforces the caps.
"""

import calendar
import errno
import os
import stat
import struct
import zipfile
from contextlib import suppress
from typing import IO, cast

from xray.archives.members import MAX_DIRECTORY_BYTES, MAX_MEMBERS, Index, Member, Packing
from xray.archives.regular_files import read_at
from xray.errors import ContainerFault, FileFault
from xray.vocabulary import Reason, SkipReason

_UNIX = 3
_ENCRYPTED, _PATCHED, _STRONGLY_ENCRYPTED, _UTF8 = 0x1, 0x20, 0x40, 0x800
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_END_RECORD = 22
_MAX_COMMENT = 2**16 - 1
_PARSE_ERRORS = (zipfile.BadZipFile, struct.error, ValueError, ArithmeticError, LookupError, RuntimeError)


def index_zip(descriptor: int) -> Index:
    """Read the directory of a zip.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, or over a cap.
    OSError
        The storage failed.
    """
    source = _CappedFile(descriptor)
    try:
        with zipfile.ZipFile(cast(IO[bytes], source)) as directory:
            infos = directory.infolist()
    except _PARSE_ERRORS as error:
        if source.error is not None:
            raise source.error from error
        # Without the error's text, which may contain a name.
        text = "it is not a zip, or its directory is damaged or cut off"
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, text) from error
    if not _count_matches(descriptor, source.size, len(infos)):
        text = "its directory does not have as many members as its end record says"
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, text)
    index = Index()
    for info in infos:
        name = _name(info)
        if not name.replace("\\", "/").endswith("/"):
            index.add(name, _member(info) if _is_file(info) else SkipReason.SPECIAL_FILE)
    return index


def content_offset(descriptor: int, member: Member) -> int:
    """Return where the content of a member begins, after its local header (APPNOTE 4.3.7).

    Raises
    ------
    FileFault
        There is no such header.
    OSError
        The storage failed.
    """
    header = read_at(descriptor, member.offset, _LOCAL_HEADER.size) if 0 <= member.offset < 2**63 - 2**32 else b""
    if len(header) < _LOCAL_HEADER.size:
        raise FileFault(Reason.TRUNCATED, "the zip is truncated before this file")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise FileFault(Reason.CORRUPT, "its zip has no header for it")
    return member.offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


class _CappedFile:
    """The file that `zipfile` reads from: the caps are checked before bytes are read and before objects are made."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self.size = os.fstat(descriptor).st_size
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
            data = read_at(self._descriptor, self._position, length) if length else b""
        except OSError as error:
            self.error = error
            raise
        if data.count(b"PK\1\2") > MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has more than {MAX_MEMBERS:,} members")
        self._position += len(data)
        return data


def _count_matches(descriptor: int, size: int, members: int) -> bool:
    # `zipfile` uses only the directory's length: if that is wrong, images would be missing without an error.
    start = max(size - _END_RECORD - _MAX_COMMENT, 0)
    tail = read_at(descriptor, start, size - start)
    record = tail[tail.rfind(b"PK\5\6") :]
    count = int.from_bytes(record[10:12], "little")
    # All ones: the count is in the zip64 record. Some writers without zip64 let the count overflow.
    return count in (members % 2**16, 2**16 - 1)


def _name(info: zipfile.ZipInfo) -> str:
    # Not `filename`, which ends at a NUL, and which later versions of Python read from an extra field.
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    # Info-ZIP on Linux and macOS write UTF-8 without the flag for it (APPNOTE, appendix D), instead of code page 437.
    with suppress(UnicodeDecodeError):
        return name.encode("cp437").decode()
    return name


def _is_file(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    return kind in (0, stat.S_IFREG)


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
    return Member(info.header_offset, info.compress_size, info.file_size, mtime_ns, packing, info.CRC)
