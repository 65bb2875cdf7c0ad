"""Read a file of an archive: only below its root, never blocking, and telling a bad file from an absent archive."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from xray.archives.containers import member_status, open_member, read_member
from xray.archives.members import is_container
from xray.archives.regular_files import clamp_to_int64, open_regular_file, read_at
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason

MAX_BYTES = 256 * 1024 * 1024

MTIME_SLACK_NS = 2_000_000_000
"""Mounts of one archive keep times to a nanosecond, a second or (FAT) two, so hosts see them a little apart."""

OUTAGE_ERRNOS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED,
        errno.ECONNRESET, errno.EREMOTEIO, errno.ESHUTDOWN, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    }
)  # fmt: skip
"""What a disk, a mount or this process has trouble with, and not one file."""

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def read_image_file(
    root: Path, relative: str, *, seen: tuple[int, int] | None = None, max_bytes: int = MAX_BYTES
) -> bytes:
    """Read a whole file below an archive's root, or a member of a zip or tar below it.

    The first of a path's names that is a regular file and ends in .zip or .tar is read as a folder, and so is a root
    that is such a file.

    Parameters
    ----------
    root : Path
        The archive's root on this host.
    relative : str
        The image's path below it, POSIX; of a member, the container's path and the member's name in it.
    seen : tuple of (int, int), optional
        The size (bytes) and the time of the last change (ns) that the file had when it was scanned; it must still have
        them when it has been read. A member's are those of `xray.archives.containers.Member` and must be equal.
    max_bytes : int
        Cap on the file's size, held before anything is read.

    Returns
    -------
    bytes

    Raises
    ------
    FileFault
        This one file is missing, no regular file, not to be opened, over the cap, not as it was seen, or not below the
        root.
    ArchiveOutage
        The root is missing, empty or neither a folder nor a container, or the storage does not answer.
    """
    try:
        path, member = _resolve(root, relative)
        return _read_regular(path, seen, max_bytes) if member is None else read_member(path, member, seen, max_bytes)
    except OSError as error:
        raise _sort_out(root, relative, error) from error


@contextmanager
def open_image(root: Path, relative: str) -> Iterator[BinaryIO]:
    """Open a file below an archive's root as a seekable binary stream, to look at its first bytes.

    Parameters
    ----------
    root, relative
        As in `read_image_file`.

    Raises
    ------
    FileFault, ArchiveOutage
        As in `read_image_file`, also while the stream is read: an `OSError` in the body counts as the storage's.
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
        raise _sort_out(root, relative, error) from error


def lies_below(root: Path, relative: str) -> bool:
    """Tell whether a path below an archive's root, whose links are followed, still lies below it; `OSError` as ever."""
    try:
        _real_path_below(os.path.realpath(root, strict=True), root / relative)
    except FileFault:
        return False
    return True


def image_status(root: Path, relative: str) -> tuple[int, int]:
    """Return the size (bytes) and the time of the last change (ns) of a file below an archive's root, or of a member.

    A member's are those of `xray.archives.containers.Member`; errors are those of `read_image_file`.
    """
    try:
        path, member = _resolve(root, relative)
        if member is not None:
            return member_status(path, member)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise FileFault(Reason.UNREADABLE, "not a regular file")
        return status.st_size, mtime_ns(status)
    except OSError as error:
        raise _sort_out(root, relative, error) from error


def content_digest(data: bytes) -> bytes:
    """Return a file's SHA-256, 32 bytes: what makes two files the same content."""
    return hashlib.sha256(data).digest()


def mtime_ns(status: os.stat_result) -> int:
    """Return a file's time of the last change, nanoseconds since 1970, within 64 bits."""
    return clamp_to_int64(status.st_mtime_ns)


def _resolve(root: Path, relative: str) -> tuple[str, str | None]:
    """Return the real path of a file, and of a container's member the container's with the member's name."""
    parts = PurePosixPath(relative).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in relative:
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "a path in the archive is relative and has no '..'")
    try:
        real_root = os.path.realpath(root, strict=True)
        if is_container(real_root) and os.path.isfile(real_root):
            absence = root_absence(root)
            if absence is not None:
                raise ArchiveOutage(f"the archive at {root} {absence}")
            return real_root, "/".join(parts)
        if is_single_file(root):
            if relative != root.name:
                raise ArchiveOutage(f"the archive at {root} is not a folder, a zip or a tar")
            return real_root, None
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
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "a link leads out of the archive")
    return real_path


def _read_regular(path: str, seen: tuple[int, int] | None, max_bytes: int) -> bytes:
    with open_regular_file(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            raise FileFault(Reason.TOO_LARGE, f"{size:,} bytes, the cap is {max_bytes:,}")
        data = read_at(descriptor, 0, size)
        # Only now, so that a file that is written while it is read is found out too.
        if seen is not None and _differs(os.fstat(descriptor), seen):
            raise FileFault(Reason.CHANGED)
        return data


def _differs(status: os.stat_result, seen: tuple[int, int]) -> bool:
    size, changed_at = seen
    return status.st_size != size or abs(mtime_ns(status) - changed_at) > MTIME_SLACK_NS


def _sort_out(root: Path, relative: str, error: OSError) -> FileFault | ArchiveOutage:
    if error.errno in OUTAGE_ERRNOS:
        return ArchiveOutage(f"the archive at {root} does not answer: {error.strerror}")
    if error.errno in _MISSING + _FORBIDDEN:
        absence = root_absence(root)
        if absence is not None:
            return ArchiveOutage(f"the archive at {root} {absence}")
    if error.errno in (*_MISSING, errno.ELOOP) and root.joinpath(relative).is_symlink():
        return FileFault(Reason.BROKEN_LINK)
    if error.errno in _MISSING:
        return FileFault(Reason.VANISHED)
    return FileFault(Reason.UNREADABLE, error.strerror or type(error).__name__)


def is_single_file(root: Path) -> bool:
    """Tell whether an archive's root is itself the only file of the archive: a regular file that is not a container.

    The file's path in the archive is its name.
    """
    return os.path.isfile(root) and not is_container(os.path.realpath(root))


def root_absence(root: Path) -> str | None:
    """Say what is wrong with an archive's root, for a sentence about it; None when it is a folder or a file.

    An empty root counts as absent: that is what a mount point without its mount looks like, and a file that is yet to
    be written.
    """
    try:
        if stat.S_ISREG((status := root.stat()).st_mode):
            return None if status.st_size else "is an empty file: is it still being copied?"
        with os.scandir(root) as entries:
            return None if any(True for _ in entries) else "is empty: is it mounted?"
    except FileNotFoundError:
        return "is missing: is it mounted?"
    except NotADirectoryError:
        return "is not a folder, a zip or a tar"
    except OSError as error:
        return f"cannot be listed: {error.strerror}"
