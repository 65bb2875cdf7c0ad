"""Classify an error of the storage: a fault of one file, or an outage of the whole archive."""

import errno
import os
import stat
from pathlib import Path

from xray.archive_root import Root
from xray.archives.dicomweb import require_service
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason, SkipReason

OUTAGE_ERRNOS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED,
        errno.ECONNRESET, errno.EREMOTEIO, errno.ESHUTDOWN, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
        errno.ENODEV, errno.ENXIO, errno.ENOMEDIUM, errno.EBUSY, errno.ETIME, errno.ENOLINK, errno.ECOMM, errno.ENONET,
        errno.ENETRESET, errno.ENOBUFS, errno.ENOLCK, errno.EAGAIN, errno.EKEYEXPIRED, errno.EKEYREVOKED,
        errno.EKEYREJECTED, errno.ENOKEY,
    }
)  # fmt: skip
"""Errors of a disk, a mount or this process, and not of one file.

EAGAIN is that of a file on which another host or Samba holds a write lease, which it gives back within seconds
(F_SETLEASE in fcntl(2)); those of keys are of an expired Kerberos ticket (NFS), or of a folder whose key is not loaded.
"""

_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def file_fault(root: Path, relative: str, error: OSError) -> FileFault:
    """Return the fault of the file that an error came from.

    Parameters
    ----------
    root : Path
        The archive's root.
    relative : str
        The file's path below it.
    error : OSError
        What opening, reading or listing it raised.

    Returns
    -------
    FileFault
        With the reason ``VANISHED``, ``BROKEN_LINK`` or ``UNREADABLE``.

    Raises
    ------
    ArchiveOutage
        The archive, not the file, is the cause: the storage does not answer, or the root is unavailable.
    """
    raise_if_outage(root, error)
    if error.errno in _NOT_FOUND + _FORBIDDEN:
        require_root(root)
    if error.errno in (*_NOT_FOUND, errno.ELOOP) and root.joinpath(relative).is_symlink():
        return FileFault(Reason.BROKEN_LINK)
    if error.errno in _NOT_FOUND:
        return FileFault(Reason.VANISHED)
    return FileFault(Reason.UNREADABLE, error.strerror or type(error).__name__)


def skip_reason(root: Path, relative: str, error: OSError) -> SkipReason:
    """Return why a scan skips the file or folder that an error came from; parameters and errors as for `file_fault`."""
    return SkipReason[file_fault(root, relative, error).reason.name]


def raise_if_outage(root: Path, error: OSError) -> None:
    """Raise `ArchiveOutage` if an error says that the storage below a root does not answer."""
    if error.errno in OUTAGE_ERRNOS:
        raise ArchiveOutage(f"the archive at {root} does not answer: {error.strerror}") from error


def require_root(root: Root) -> None:
    """Raise `ArchiveOutage` unless an archive's root is a folder, a file or a service that holds something.

    An empty root counts as unavailable: a mount point without its mount is empty, and so is a file whose copy has not
    begun.
    """
    if isinstance(root, DicomWebService):
        require_service(root)
        return
    problem = _root_problem(root)
    if problem is not None:
        raise ArchiveOutage(f"the archive at {root} {problem}")


def _root_problem(root: Path) -> str | None:
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
