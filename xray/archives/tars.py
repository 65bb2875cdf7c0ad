"""Read the headers of an uncompressed tar (POSIX.1-2001 pax, GNU and V7 forms).

The standard library's `tarfile` parses each header block. This module finds the next one, as `tarfile` takes a damaged
header for the end of the tar, accepts any length, and can be made to read in a circle.
"""

import re
import tarfile
from contextlib import suppress

from xray.archives.members import MAX_MEMBERS, Index, Link, Member, Packing, hard_link_target, link_target
from xray.archives.regular_files import ByteRange, clamp_to_int64
from xray.errors import ContainerFault
from xray.vocabulary import SkipReason

MAX_HEADER_BYTES = 64 * 1024
"""Maximum size of a header's extension: a path takes at most 4 KiB, an extended attribute 64 KiB."""

_BLOCK = tarfile.BLOCKSIZE
_MAX_BLOCKS = 16 * MAX_MEMBERS
_MAX_PADDING = 1024 * 1024
"""Maximum number of bytes after a tar's end, which is padded to its record: on tape up to a megabyte."""

_CONTENT = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE})
_WITHOUT_CONTENT = frozenset({tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE})
_CHUNK = 1024 * 1024
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_NUMBER = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_SPARSE = "GNU.sparse."
_SPARSE_NAME = "GNU.sparse.name"
_USED = frozenset({"path", "linkpath", "size", "mtime", _SPARSE_NAME})


def index_tar(source: ByteRange) -> Index:
    """Read all headers of a tar: 512 bytes for each member, and more for a long name.

    A hard link is the content of the member that it names, and so is a symbolic link to a member.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, has data after its end-of-archive marker, or is over a cap.
    OSError
        The storage failed.
    """
    reader = _HeaderReader(source)
    reader.read_all()
    reader.index.follow_links()
    return reader.index


class _HeaderReader:
    """Read from header to header, never back."""

    def __init__(self, source: ByteRange) -> None:
        self.index = Index(self._supersedes)
        self._source = source
        self._size = source.size
        self._position = 0
        self._blocks = 0

    def read_all(self) -> None:
        defaults: dict[str, str] = {}
        records: dict[str, str] = {}
        is_pax = False
        while (block := self._next_block()).strip(b"\0"):
            header = _header(block)
            if header.type in _PAX:
                is_pax = True
                records |= _pax_records(self._extension(header.size))
            elif header.type == tarfile.XGLTYPE:
                defaults |= _pax_records(self._extension(header.size))
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                records["path"] = _decoded(self._extension(header.size).partition(b"\0")[0])
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                records["linkpath"] = _decoded(self._extension(header.size).partition(b"\0")[0])
            else:
                if header.type == tarfile.GNUTYPE_SPARSE:
                    self._skip_sparse_map(block[482])
                self._add_member(header, defaults | records, is_pax)
                records, is_pax = {}, False
        if records:
            raise _damaged()
        self._check_padding()

    def _next_block(self) -> bytes:
        self._blocks += 1
        if self._blocks > _MAX_BLOCKS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has more than {_MAX_BLOCKS:,} header blocks")
        block = self._source.read(self._position, _BLOCK)
        if len(block) < _BLOCK:
            raise _damaged()
        self._position += _BLOCK
        return block

    def _extension(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            text = f"a header claims {size:,} bytes, the cap is {MAX_HEADER_BYTES:,}"
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, text)
        return self._source.read(self._skip(size), size)

    def _skip(self, size: int) -> int:
        start = self._position
        if not 0 <= size <= self._size - start:
            raise _damaged()
        self._position = start + -(-size // _BLOCK) * _BLOCK
        return start

    def _skip_sparse_map(self, is_extended: int) -> None:
        while is_extended:
            is_extended = self._next_block()[504]

    def _add_member(self, header: tarfile.TarInfo, records: dict[str, str], is_pax: bool) -> None:
        pax_size = _billionths(records.get("size"))
        size = header.size if pax_size is None else pax_size // 1_000_000_000
        is_link = header.type == tarfile.LNKTYPE and not self._has_content(size, is_pax)
        start = self._skip(0 if is_link or header.type in _WITHOUT_CONTENT else size)
        name = records.get(_SPARSE_NAME) or records.get("path") or header.name
        if header.type == tarfile.DIRTYPE or name.replace("\\", "/").endswith("/"):
            return
        pax_mtime_ns = _billionths(records.get("mtime"))
        mtime_ns = clamp_to_int64(int(header.mtime) * 1_000_000_000 if pax_mtime_ns is None else pax_mtime_ns)
        linked = records.get("linkpath") or header.linkname
        if is_link:
            self.index.add(name, Link(hard_link_target(linked), mtime_ns))
        elif header.type == tarfile.SYMTYPE:
            self.index.add(name, Link(link_target(name, linked), mtime_ns))
        elif header.type not in _CONTENT or any(key.startswith(_SPARSE) for key in records):
            self.index.add(name, Member(0, 0, 0, mtime_ns, Packing.SPECIAL, None))
        else:
            self.index.add(name, Member(start, size, size, mtime_ns, Packing.STORED, None))

    def _has_content(self, size: int, is_pax: bool) -> bool:
        """Tell whether the content of a hard link follows: POSIX.1-2001 allows it, older writers give a size only."""
        if size <= 0:
            return False
        block = self._source.read(self._position, _BLOCK)
        if block.strip(b"\0"):
            with suppress(ContainerFault):
                _header(block)
                return False
            return True
        return is_pax

    def _supersedes(self, member: Member, earlier: Member) -> bool:
        """Tell whether a member brings an earlier one up to date, as `tar --update` does, or is the same file again."""
        if member.mtime_ns > earlier.mtime_ns:
            return True
        if member.packing is not Packing.STORED or (member.size, member.packing) != (earlier.size, earlier.packing):
            return False
        return all(
            self._source.read(member.offset + at, min(_CHUNK, member.size - at))
            == self._source.read(earlier.offset + at, min(_CHUNK, member.size - at))
            for at in range(0, member.size, _CHUNK)
        )

    def _check_padding(self) -> None:
        # Other bytes are another tar after this one, or a copy whose end is not written yet: their images would be
        # missing without an error.
        padding = self._size - self._position
        if padding > _MAX_PADDING or self._source.read(self._position, padding).strip(b"\0"):
            raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "it has data after its end-of-archive marker")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        raise _damaged() from error
    if block[257:263] != b"ustar\0":
        # GNU's incremental archives have times where POSIX has the name's prefix, and `tarfile` reads them as a prefix.
        header.name = _decoded(block[:100].partition(b"\0")[0])
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
        name = _decoded(key)
        if name in _USED:
            records[name] = _decoded(value)
        elif name.startswith(_SPARSE):
            records[_SPARSE] = ""
        start = end
    return records


def _billionths(text: str | None) -> int | None:
    """Return a decimal number times 10**9, or None if the text is not a number."""
    match = _NUMBER.fullmatch(text or "")
    if match is None:
        return None
    sign, whole, fraction = match.groups("")
    nano = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    return -nano if sign else nano


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _damaged() -> ContainerFault:
    return ContainerFault(SkipReason.DAMAGED_CONTAINER, "it is not a tar, or it is damaged or cut off")
