"""Read the headers of an uncompressed tar (POSIX.1-2001 pax, GNU and V7 forms).

Each header block is parsed by the standard library's `tarfile`; the way from one to the next is ours, as `tarfile`
takes a damaged header for the end, believes any length, and can be led round in circles.
"""

import os
import re
import tarfile

from xray.archives.members import MAX_MEMBERS, Entry, Index, Packing
from xray.archives.regular_files import clamp_to_int64, read_at
from xray.errors import ContainerFault
from xray.vocabulary import SkipReason

MAX_HEADER_BYTES = 64 * 1024
"""Bytes that a header's extension may take: a path takes 4 KiB at most, an extended attribute 64 KiB."""

_BLOCK = tarfile.BLOCKSIZE
_MAX_BLOCKS = 16 * MAX_MEMBERS
_MAX_PADDING = 1024 * 1024
"""Bytes after a tar's end: it is padded to its record, on tape up to a megabyte."""

_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_WITHOUT_CONTENT = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE}
)
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_NUMBER = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_SPARSE = "GNU.sparse."
_SPARSE_NAME = "GNU.sparse.name"
_USED = frozenset({"path", "size", "mtime", _SPARSE_NAME})


def index_tar(descriptor: int) -> Index:
    """Read all headers of a tar: one read of 512 bytes for each member, and more for a long name.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, goes on after its end, or is over a cap.
    OSError
        The storage failed.
    """
    walk = _Walk(descriptor)
    walk.run()
    return walk.index


class _Walk:
    """From header to header, never back."""

    def __init__(self, descriptor: int) -> None:
        self.index = Index()
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._position = 0
        self._blocks = 0

    def run(self) -> None:
        defaults: dict[str, str] = {}
        records: dict[str, str] = {}
        while (block := self._next_block()).strip(b"\0"):
            header = _header(block)
            if header.type in _PAX:
                records |= _pax_records(self._extension(header.size))
            elif header.type == tarfile.XGLTYPE:
                defaults |= _pax_records(self._extension(header.size))
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                records["path"] = _text(self._extension(header.size).partition(b"\0")[0])
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                self._extension(header.size)
            else:
                if header.type == tarfile.GNUTYPE_SPARSE:
                    self._skip_map(block[482])
                self._member(header, defaults | records)
                records = {}
        if records:
            raise _damaged()
        self._check_padding()

    def _next_block(self) -> bytes:
        self._blocks += 1
        if self._blocks > _MAX_BLOCKS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has over {_MAX_BLOCKS:,} header blocks")
        block = read_at(self._descriptor, self._position, _BLOCK)
        if len(block) < _BLOCK:
            raise _damaged()
        self._position += _BLOCK
        return block

    def _extension(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            text = f"a header is said to take {size:,} bytes, the cap is {MAX_HEADER_BYTES:,}"
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, text)
        return read_at(self._descriptor, self._skip(size), size)

    def _skip(self, size: int) -> int:
        start = self._position
        if not 0 <= size <= self._size - start:
            raise _damaged()
        self._position = start + -(-size // _BLOCK) * _BLOCK
        return start

    def _skip_map(self, goes_on: int) -> None:
        while goes_on:
            goes_on = self._next_block()[504]

    def _member(self, header: tarfile.TarInfo, records: dict[str, str]) -> None:
        said = _number(records.get("size"))
        size = header.size if said is None else said // 1_000_000_000
        start = self._skip(0 if header.type in _WITHOUT_CONTENT else size)
        name = records.get(_SPARSE_NAME) or records.get("path") or header.name
        if header.type == tarfile.DIRTYPE or name.replace("\\", "/").endswith("/"):
            return
        if header.type not in _FILES or any(key.startswith(_SPARSE) for key in records):
            self.index.add(name, SkipReason.SPECIAL_FILE)
            return
        changed_at = _number(records.get("mtime"))
        stamp_ns = clamp_to_int64(int(header.mtime) * 1_000_000_000 if changed_at is None else changed_at)
        self.index.add(name, Entry(start, size, size, stamp_ns, Packing.STORED, None))

    def _check_padding(self) -> None:
        # More is another tar put behind this one, or a copy whose end is not written yet: its images would be missing
        # without a word.
        padding = self._size - self._position
        if padding > _MAX_PADDING or read_at(self._descriptor, self._position, padding).strip(b"\0"):
            raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "it goes on after its end")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise _damaged() from error
    if block[257:263] != b"ustar\0":
        # GNU's incremental archives have times where POSIX has the name's beginning, and `tarfile` takes them for it.
        header.name = _text(block[:100].partition(b"\0")[0])
    return header


def _pax_records(data: bytes) -> dict[str, str]:
    # POSIX.1-2001 pax: "%d %s=%s\n", the number counting the whole record.
    records = {}
    start = 0
    while start < len(data):
        length, space, _ = data[start : start + 20].partition(b" ")
        end = start + int(length) if space and length.isdigit() else start
        key, equals, value = data[start + len(length) + 1 : end - 1].partition(b"=")
        if not start < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise _damaged()
        name = _text(key)
        if name in _USED:
            records[name] = _text(value)
        elif name.startswith(_SPARSE):
            records[_SPARSE] = ""
        start = end
    return records


def _number(text: str | None) -> int | None:
    """Return a decimal number times 10**9; None where there is none."""
    match = _NUMBER.fullmatch(text or "")
    if match is None:
        return None
    sign, whole, fraction = match.groups("")
    nano = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    return -nano if sign else nano


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _damaged() -> ContainerFault:
    return ContainerFault(SkipReason.DAMAGED_CONTAINER, "no tar, or it is damaged or cut off")
