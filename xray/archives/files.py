"""Read a file of an archive: only below its root or from its DICOMweb service, never blocking, and bounded by size."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from xray.archive_root import Root
from xray.archives import dicomweb
from xray.archives.archive_file import MTIME_TOLERANCE_NS
from xray.archives.containers import is_same_member, member_version, open_member, read_member
from xray.archives.members import is_container
from xray.archives.names import names_on_disk, needs_lookup, stored_name
from xray.archives.regular_files import clamp_to_int64, open_regular_file, read_at
from xray.archives.storage_errors import file_fault, require_root
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason

MAX_BYTES = 256 * 1024 * 1024


def read_image_file(
    root: Root, relative: str, *, expected: tuple[int, int] | None = None, max_bytes: int = MAX_BYTES
) -> bytes:
    """Read a whole file below an archive's root, or a member of a zip or tar below it, or an instance of a service.

    A zip or tar is read like a folder: the first regular file on the path whose name ends in .zip or .tar, or the root
    itself. The rest of the path is the member's name.

    Parameters
    ----------
    root : Path or DicomWebService
        The archive's root on this host.
    relative : str
        The image's path below it, POSIX; for a member, the container's path and the member's path in it; for an
        instance, the UIDs of study, series and instance.
    expected : tuple of (int, int), optional
        The version (`ArchiveFile.version`) that the file had when it was scanned, and must still have after it was
        read. A file's time may differ by `MTIME_TOLERANCE_NS`, a member's may not. An instance has only one.
    max_bytes : int
        Maximum size of the file, checked before anything is read, or while a service sends it.

    Returns
    -------
    bytes

    Raises
    ------
    FileFault
        This one file is missing, not a regular file, not readable, too large, changed since the scan, or not below
        the root.
    ArchiveOutage
        The root is missing, empty, or neither a folder nor a container; or the storage or service does not answer.
    """
    if isinstance(root, DicomWebService):
        return dicomweb.read_instance(root, relative, max_bytes)
    try:
        path, member = _resolve(root, relative)
        if member is not None:
            return read_member(path, member, expected, max_bytes)
        return _read_file(path, expected, max_bytes)
    except OSError as error:
        raise file_fault(root, relative, error) from error


@contextmanager
def open_image(root: Path, relative: str) -> Iterator[BinaryIO]:
    """Open a file below an archive's root, or a member, as a seekable binary stream.

    Parameters
    ----------
    root, relative
        As in `read_image_file`.

    Raises
    ------
    FileFault, ArchiveOutage
        As in `read_image_file`, also while the stream is read: an `OSError` in the body comes from the storage.
    """
    try:
        path, member = _resolve(root, relative)
        if member is not None:
            with open_member(path, member) as stream:
                yield stream
        else:
            with open_regular_file(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
                yield stream
    except OSError as error:
        raise file_fault(root, relative, error) from error


def is_single_file(root: Path) -> bool:
    """Tell whether an archive's root is its only file: a regular file that is not a container.

    The file's path in the archive is its name.
    """
    return os.path.isfile(root) and not is_container(os.path.realpath(root))


def is_below_root(root: Path, relative: str) -> bool:
    """Tell whether a path, with its links followed, is still below an archive's root.

    Raises
    ------
    OSError
        The path cannot be followed.
    """
    try:
        _real_path_below(os.path.realpath(root, strict=True), path_on_disk(root, relative))
    except FileFault:
        return False
    return True


def path_on_disk(root: Path, relative: str) -> Path:
    """Return where a file or folder of an archive is on this host, which may write its name in another form."""
    if not needs_lookup(relative):
        return root / relative
    return root.joinpath(*names_on_disk(str(root), PurePosixPath(relative).parts))


def file_version(root: Path, relative: str) -> tuple[int, int]:
    """Return the version (`ArchiveFile.version`) of a file or member below an archive's root.

    Parameters
    ----------
    root, relative
        As in `read_image_file`; an empty path means the root itself, where that is a container.

    Raises
    ------
    FileFault, ArchiveOutage
        As in `read_image_file`.
    """
    try:
        path, member = _resolve(root, relative) if relative else (str(root), None)
        if member is not None:
            return member_version(path, member)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise FileFault(Reason.UNREADABLE, "not a regular file")
        return status.st_size, mtime_ns(status)
    except OSError as error:
        raise file_fault(root, relative, error) from error


def is_readable(root: Root, relative: str, version: tuple[int, int]) -> bool:
    """Tell whether a file or member below an archive's root can be opened, and has a version (`ArchiveFile.version`).

    An instance of a service is read.

    Raises
    ------
    ArchiveOutage
        As in `read_image_file`.
    """
    try:
        if isinstance(root, DicomWebService):
            return bool(read_image_file(root, relative))
        with open_image(root, relative):
            return file_version(root, relative) == version
    except FileFault:
        return False


def is_same_file(root: Path, one: str, other: str) -> bool:
    """Tell whether two paths below an archive's root, or in its containers, lead to one file.

    Raises
    ------
    FileFault, ArchiveOutage
        As in `read_image_file`.
    """
    try:
        places = [_resolve(root, path) for path in (one, other)]
        if places[0][1] is None or places[1][1] is None:
            return places[0] == places[1]
        containers = {path for path, _ in places}
        return len(containers) == 1 and is_same_member(*containers, *(member for _, member in places if member))
    except OSError as error:
        raise file_fault(root, one, error) from error


def content_digest(data: bytes) -> bytes:
    """Return the SHA-256 of a file's content, 32 bytes."""
    return hashlib.sha256(data).digest()


def file_digest(root: Root, relative: str) -> bytes | None:
    """Return the SHA-256 of a file, a member or an instance of an archive, or None if it cannot be read.

    Raises
    ------
    ArchiveOutage
        As in `read_image_file`.
    """
    try:
        return content_digest(read_image_file(root, relative))
    except FileFault:
        return None


def mtime_ns(status: os.stat_result) -> int:
    """Return the time of a file's last change, nanoseconds since 1970, within 64 bits."""
    return clamp_to_int64(status.st_mtime_ns)


def _resolve(root: Path, relative: str) -> tuple[str, str | None]:
    """Return the real path of a file and None, or of a container and the path of the member in it."""
    parts = PurePosixPath(relative).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in relative:
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "a path in the archive is relative and has no '..'")
    try:
        real_root = os.path.realpath(root, strict=True)
        if is_container(real_root) and os.path.isfile(real_root):
            require_root(root)
            return real_root, "/".join(parts)
        if is_single_file(root):
            if relative not in (root.name, stored_name(root.name)):
                raise ArchiveOutage(f"the archive at {root} is not a folder, a zip or a tar")
            return real_root, None
        if needs_lookup(relative):
            parts = tuple(names_on_disk(str(root), parts))
        for depth, part in enumerate(parts[:-1], 1):
            if is_container(part):
                path = _real_path_below(real_root, root.joinpath(*parts[:depth]))
                if os.path.isfile(path):
                    return path, "/".join(parts[depth:])
        return _real_path_below(real_root, root.joinpath(*parts)), None
    except UnicodeEncodeError as error:
        raise FileFault(Reason.UNREADABLE, "this host cannot write the file's name") from error


def _real_path_below(real_root: str, path: Path) -> str:
    real_path = os.path.realpath(path, strict=True)
    if not real_path.startswith(real_root.rstrip(os.sep) + os.sep):
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "a link points outside the archive")
    return real_path


def _read_file(path: str, expected: tuple[int, int] | None, max_bytes: int) -> bytes:
    with open_regular_file(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            raise FileFault(Reason.TOO_LARGE, f"{size:,} bytes, the cap is {max_bytes:,}")
        data = read_at(descriptor, 0, size)
        # After reading, so that a file that was written meanwhile is recognised too.
        if expected is not None and _differs(os.fstat(descriptor), expected):
            raise FileFault(Reason.CHANGED)
        return data


def _differs(status: os.stat_result, expected: tuple[int, int]) -> bool:
    size, changed_at = expected
    return status.st_size != size or abs(mtime_ns(status) - changed_at) > MTIME_TOLERANCE_NS
