"""Walk an archive's folders; memory grows with their depth and with nothing else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from xray.archives.archive_file import MISSING, ArchiveFile, Skipped
from xray.archives.files import mtime_ns
from xray.archives.layouts import is_hidden, is_utf8
from xray.archives.names import name_in_folder
from xray.archives.storage_errors import OUTAGE_ERRNOS, raise_if_outage, skip_reason
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import SkipReason

MAX_DEPTH = 64
"""Maximum number of nested folders, as the folder of each level stays open."""


def walk(root: Path) -> Iterator[ArchiveFile | Skipped]:
    """Yield every file below a root, in no particular order, and every file or folder that is skipped.

    Links to folders are not followed. Links to files are yielded; the worker refuses those that leave the archive. A
    folder that cannot be listed is skipped with all that it holds; a file that cannot be read is yielded as lost.

    Parameters
    ----------
    root : Path
        The archive's root.

    Raises
    ------
    UsageError
        There is no folder at `root`, or it cannot be listed.
    ArchiveOutage
        The storage does not answer, or the root became unavailable: the files yielded are not the whole archive.
    """
    identity = _identity(root)
    levels = [("", list_root(root))]
    try:
        while levels:
            folder, entries = levels[-1]
            entry = _next(root, entries)
            if entry is None:
                entries.close()
                levels.pop()
                continue
            name = entry.name
            if not name.isascii():
                name = name_in_folder(os.path.dirname(entry.path), name)
            path = folder + name
            if is_hidden(name):
                yield Skipped(path, SkipReason.HIDDEN)
                continue
            if not is_utf8(name):
                yield Skipped(path, SkipReason.NAME_NOT_UTF8)
                continue
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield _file(root, entry, path)
                elif len(levels) == MAX_DEPTH:
                    yield Skipped(path, SkipReason.NESTED_TOO_DEEP)
                else:
                    levels.append((path + "/", os.scandir(entry.path)))
            except OSError as error:
                yield Skipped(path, skip_reason(root, path, error))
    finally:
        for _, entries in levels:
            entries.close()
    if _identity(root) != identity:
        raise ArchiveOutage(f"the archive at {root} became unavailable during the scan")


def list_root(root: Path) -> "os._ScandirIterator[str]":
    """List an archive's root.

    Raises
    ------
    UsageError
        There is no folder at `root`, or it cannot be listed.
    ArchiveOutage
        The storage does not answer.
    """
    try:
        return os.scandir(os.fspath(root))
    except FileNotFoundError as error:
        raise UsageError(
            f"{root} does not exist; name a folder of X-ray studies, mounted on this host, or an image"
        ) from error
    except NotADirectoryError as error:
        raise UsageError(
            f"{root} is not a folder; name the folder that holds the X-ray studies, or an image"
        ) from error
    except OSError as error:
        raise_if_outage(root, error)
        raise UsageError(f"{root} cannot be listed ({error.strerror}); give this user the right to read it") from error


def _next(root: Path, entries: "os._ScandirIterator[str]") -> "os.DirEntry[str] | None":
    try:
        return next(entries, None)
    except OSError as error:
        # After any error the rest of the folder is unknown, so its images must not be taken for gone.
        raise ArchiveOutage(f"the archive at {root} could not be listed to its end: {error.strerror}") from error


def _file(root: Path, entry: "os.DirEntry[str]", path: str) -> ArchiveFile | Skipped:
    try:
        status, is_broken = _status(entry)
    except OSError as error:
        reason = skip_reason(root, path, error)
        return Skipped(path, reason) if reason is SkipReason.VANISHED else ArchiveFile(path, *MISSING, lost=reason)
    if stat.S_ISDIR(status.st_mode):
        return Skipped(path, SkipReason.LINKED_FOLDER)
    lost = None if stat.S_ISREG(status.st_mode) else SkipReason.BROKEN_LINK if is_broken else SkipReason.SPECIAL_FILE
    return ArchiveFile(path, status.st_size, mtime_ns(status), lost=lost)


def _status(entry: "os.DirEntry[str]") -> tuple[os.stat_result, bool]:
    """Return the status of a file, or that of a broken link itself and True."""
    try:
        return entry.stat(), False
    except OSError as error:
        if error.errno in OUTAGE_ERRNOS or not entry.is_symlink():
            raise
        return entry.stat(follow_symlinks=False), True


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
