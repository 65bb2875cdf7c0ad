"""Walk an archive's tree, streaming: memory grows with its depth and with nothing else."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xray.archives.files import OUTAGE_ERRNOS, mtime_ns, root_absence
from xray.archives.layouts import Placement, is_hidden, is_utf8
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import SkipReason

MAX_DEPTH = 64
"""Folders held open at once, one for each level."""


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of an archive.

    Parameters
    ----------
    path : str
        Below the root, POSIX.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, nanoseconds since 1970, within 64 bits.
    placed : Placed or None
        Its place, where a manifest tells it.
    """

    path: str
    size: int
    mtime_ns: int
    placed: Placement | None = None

    ABSENT: ClassVar = (0, 0)
    """Size and time of a file that a manifest lists and that is not there."""

    @property
    def key(self) -> tuple[str, int, int]:
        """Path, size and time of the last change: what makes it this version of this file."""
        return self.path, self.size, self.mtime_ns

    @property
    def is_absent(self) -> bool:
        """Whether a manifest lists it and it is not there."""
        return self.placed is not None and (self.size, self.mtime_ns) == self.ABSENT


@dataclass(frozen=True, slots=True)
class Skipped:
    r"""A file or folder that the scan passes over.

    Parameters
    ----------
    path : str
        Below the root, for a person: bytes that are no UTF-8 are written out as ``\xNN``.
    reason : str
        What to count it under: a `SkipReason`, or the name of what a DICOM file holds.
    judged : FileEntry or None
        The file, when it had to be opened to be judged.
    """

    path: str
    reason: str
    judged: ArchiveFile | None = None


def walk(root: Path) -> Iterator[ArchiveFile | Skipped]:
    """Yield every file below a root, in no particular order, and what is passed over.

    Links to folders are not followed; links to files are yielded, as it is for the worker to refuse those that lead
    out of the archive. A folder that may not be listed, or whose name is no UTF-8, is passed over whole; its name is
    for the caller to tell.

    Parameters
    ----------
    root : Path
        The archive's root.

    Raises
    ------
    UsageError
        There is no folder at `root`, or it may not be listed.
    ArchiveOutage
        The storage does not answer, or the root went away meanwhile: what was yielded is not the whole archive.
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
            path = folder + entry.name
            if is_hidden(entry.name):
                yield Skipped(path_as_text(path), SkipReason.HIDDEN)
                continue
            if not is_utf8(entry.name):
                yield Skipped(path_as_text(path), SkipReason.NAME_NOT_UTF8)
                continue
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield _file(entry, path)
                elif len(levels) == MAX_DEPTH:
                    yield Skipped(path_as_text(path), SkipReason.NESTED_TOO_DEEP)
                else:
                    levels.append((path + "/", os.scandir(entry.path)))
            except OSError as error:
                yield Skipped(path_as_text(path), trouble(root, error))
    finally:
        for _, entries in levels:
            entries.close()
    if _identity(root) != identity:
        raise ArchiveOutage(f"the archive at {root} went away during the scan")


def list_root(root: Path) -> "os._ScandirIterator[str]":
    """List an archive's root; raises `UsageError` where there is none to list, `ArchiveOutage` where none answers."""
    try:
        return os.scandir(os.fspath(root))
    except FileNotFoundError as error:
        raise UsageError(f"{root} does not exist; name a folder of X-ray studies, mounted on this host") from error
    except NotADirectoryError as error:
        raise UsageError(f"{root} is not a folder; name the folder that holds the X-ray studies") from error
    except OSError as error:
        if error.errno in OUTAGE_ERRNOS:
            raise ArchiveOutage(f"the archive at {root} does not answer: {error.strerror}") from error
        raise UsageError(f"{root} cannot be listed ({error.strerror}); give this user the right to read it") from error


def _next(root: Path, entries: "os._ScandirIterator[str]") -> "os.DirEntry[str] | None":
    try:
        return next(entries, None)
    except OSError as error:
        # Whatever the error, the folder is half listed, and no caller may take it for listed.
        raise ArchiveOutage(f"the archive at {root} broke off: {error.strerror}") from error


def _file(entry: "os.DirEntry[str]", path: str) -> ArchiveFile | Skipped:
    status = _follow(entry)
    if stat.S_ISDIR(status.st_mode):
        return Skipped(path_as_text(path), SkipReason.LINKED_FOLDER)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        return Skipped(path_as_text(path), SkipReason.SPECIAL_FILE)
    return ArchiveFile(path, status.st_size, mtime_ns(status))


def _follow(entry: "os.DirEntry[str]") -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in OUTAGE_ERRNOS or not entry.is_symlink():
            raise
        # A broken link becomes an image that fails, by name, and not one that was never seen.
        return entry.stat(follow_symlinks=False)


def trouble(root: Path, error: OSError) -> SkipReason:
    """Tell what to pass an entry over for; raises `ArchiveOutage` where it is the archive that has the trouble."""
    if error.errno in OUTAGE_ERRNOS:
        raise ArchiveOutage(f"the archive at {root} does not answer: {error.strerror}") from error
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return SkipReason.UNREADABLE
    absence = root_absence(root)
    if absence is not None:
        raise ArchiveOutage(f"the archive at {root} {absence}") from error
    return SkipReason.VANISHED


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def path_as_text(path: str) -> str:
    r"""Write a path out for people, bytes that are no UTF-8 as ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
