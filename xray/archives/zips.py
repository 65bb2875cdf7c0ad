"""Read a zip's directory (APPNOTE.TXT 6.3.10, PKWARE), and find a member's content.

The directory is parsed by the standard library's `zipfile`, from a source that gives it no more than a directory may
have.
"""

import calendar
import errno
import os
import stat
import struct
import zipfile
from contextlib import suppress
from typing import IO, cast

from xray.archives.members import MAX_DIRECTORY_BYTES, MAX_MEMBERS, Entry, Index, Packing
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
    """Read a zip's directory.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, or over a cap.
    OSError
        The storage failed.
    """
    source = _Source(descriptor)
    try:
        with zipfile.ZipFile(cast(IO[bytes], source)) as directory:
            infos = directory.infolist()
    except _PARSE_ERRORS as error:
        if source.trouble is not None:
            raise source.trouble from error
        # Not the error's text, in which a name may be.
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "no zip, or its directory is damaged or cut off") from error
    if not _as_many_as_said(descriptor, source.size, len(infos)):
        raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "its directory has not as many members as its end says")
    index = Index()
    for info in infos:
        name = _name(info)
        if not name.replace("\\", "/").endswith("/"):
            index.add(name, _entry(info) if _is_file(info) else SkipReason.SPECIAL_FILE)
    return index


def content_offset(descriptor: int, entry: Entry) -> int:
    """Return where a member's content begins, behind its local header (APPNOTE 4.3.7).

    Raises
    ------
    FileFault
        There is no such header.
    OSError
        The storage failed.
    """
    header = read_at(descriptor, entry.offset, _LOCAL_HEADER.size) if 0 <= entry.offset < 2**63 - 2**32 else b""
    if len(header) < _LOCAL_HEADER.size:
        raise FileFault(Reason.TRUNCATED, "its zip ends before it")
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise FileFault(Reason.CORRUPT, "its zip has no header for it")
    return entry.offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


class _Source:
    """What `zipfile` reads the directory from: the caps hold before a byte is read, or a member's object made."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self.size = os.fstat(descriptor).st_size
        self.trouble: OSError | None = None
        """What the storage said: `zipfile` takes any such error for a damaged zip."""

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
            text = f"its directory is said to take {length:,} bytes, the cap is {MAX_DIRECTORY_BYTES:,}"
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, text)
        try:
            data = read_at(self._descriptor, self._position, length) if length else b""
        except OSError as error:
            self.trouble = error
            raise
        if data.count(b"PK\1\2") > MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has over {MAX_MEMBERS:,} members")
        self._position += len(data)
        return data


def _as_many_as_said(descriptor: int, size: int, members: int) -> bool:
    # `zipfile` goes by the directory's length alone: with a wrong one, images would be missing without a word.
    start = max(size - _END_RECORD - _MAX_COMMENT, 0)
    tail = read_at(descriptor, start, size - start)
    record = tail[tail.rfind(b"PK\5\6") :]
    said = int.from_bytes(record[10:12], "little")
    # All ones: the count is in the zip64 record. Some writers without zip64 let the count overflow.
    return said in (members % 2**16, 2**16 - 1)


def _name(info: zipfile.ZipInfo) -> str:
    # Not `filename`, which ends at a NUL, and which later versions of Python take from an extra field.
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    # Info-ZIP on Linux and macOS write UTF-8 without the flag that says so (APPNOTE, appendix D), for code page 437.
    with suppress(UnicodeDecodeError):
        return name.encode("cp437").decode()
    return name


def _is_file(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    return kind in (0, stat.S_IFREG)


def _entry(info: zipfile.ZipInfo) -> Entry:
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
    # The time is kept to two seconds and without a zone. The CRC makes other content of one size another version.
    stamp_ns = seconds * 1_000_000_000 + info.CRC
    return Entry(info.header_offset, info.compress_size, info.file_size, stamp_ns, packing, info.CRC)
