"""Read a file of an archive: only below its root, never blocking, and telling a bad file from an absent archive."""

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason

MAX_BYTES = 256 * 1024 * 1024

MTIME_SLACK_NS = 2_000_000_000
"""Mounts of one archive keep times to a nanosecond, a second or (FAT) two, so hosts see them a little apart."""

_INT64_MAX = 2**63 - 1

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
    """Read a whole file below an archive's root.

    Parameters
    ----------
    root : Path
        The archive's root on this host.
    relative : str
        The image's path below it, POSIX.
    seen : tuple of (int, int), optional
        The size (bytes) and the time of the last change (ns) that the file had when it was scanned; it must still have
        them when it has been read.
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
        The root is missing, empty or no folder, or the storage does not answer.
    """
    parts = PurePosixPath(relative).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in relative:
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "a path in the archive is relative and has no '..'")
    try:
        real_root = os.path.realpath(root, strict=True)
        real_path = os.path.realpath(root.joinpath(*parts), strict=True)
        if not real_path.startswith(real_root.rstrip(os.sep) + os.sep):
            raise FileFault(Reason.OUTSIDE_ARCHIVE, "a link leads out of the archive")
        return _read_regular(real_path, seen, max_bytes)
    except OSError as error:
        raise _sort_out(root, root.joinpath(*parts), error) from error
    except UnicodeEncodeError as error:
        raise FileFault(Reason.UNREADABLE, "this host cannot write the file's name") from error


def content_digest(data: bytes) -> bytes:
    """Return a file's SHA-256, 32 bytes: what makes two files the same content."""
    return hashlib.sha256(data).digest()


def mtime_ns(status: os.stat_result) -> int:
    """Return a file's time of the last change, nanoseconds since 1970, within 64 bits.

    Some file systems reach beyond the year 2262, databases do not.
    """
    return min(max(status.st_mtime_ns, -_INT64_MAX), _INT64_MAX)


def _read_regular(path: str, seen: tuple[int, int] | None, max_bytes: int) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOFOLLOW: the path is resolved, and must have stayed so.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileFault(Reason.UNREADABLE, "not a regular file")
        if status.st_size > max_bytes:
            raise FileFault(Reason.TOO_LARGE, f"{status.st_size:,} bytes, the cap is {max_bytes:,}")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size)
        # Only now, so that a file that is written while it is read is found out too.
        if seen is not None and _differs(os.fstat(descriptor), seen):
            raise FileFault(Reason.CHANGED)
        return data
    finally:
        os.close(descriptor)


def _differs(status: os.stat_result, seen: tuple[int, int]) -> bool:
    size, changed_at = seen
    return status.st_size != size or abs(mtime_ns(status) - changed_at) > MTIME_SLACK_NS


def _sort_out(root: Path, path: Path, error: OSError) -> FileFault | ArchiveOutage:
    if error.errno in OUTAGE_ERRNOS:
        return ArchiveOutage(f"the archive at {root} does not answer: {error.strerror}")
    if error.errno in _MISSING + _FORBIDDEN:
        absence = root_absence(root)
        if absence is not None:
            return ArchiveOutage(f"the archive at {root} {absence}")
    if error.errno in (*_MISSING, errno.ELOOP) and path.is_symlink():
        return FileFault(Reason.BROKEN_LINK)
    if error.errno in _MISSING:
        return FileFault(Reason.VANISHED)
    return FileFault(Reason.UNREADABLE, error.strerror or type(error).__name__)


def root_absence(root: Path) -> str | None:
    """Say what is wrong with an archive's root, for a sentence about it; None when it is a folder with content.

    An empty root counts as absent: that is what a mount point without its mount looks like.
    """
    try:
        with os.scandir(root) as entries:
            return None if any(True for _ in entries) else "is empty: is it mounted?"
    except FileNotFoundError:
        return "is missing: is it mounted?"
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return f"cannot be listed: {error.strerror}"
