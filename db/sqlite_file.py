"""The file of an SQLite database as a whole: copy it while others use it, and erase what was deleted from it."""

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import make_url

from db.session import BUSY_SECONDS, Database
from xray.errors import DatabaseOutage, StorageOutage, UsageError

RETRY_SECONDS = 0.2

WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system that has no hard links, such as that of a USB stick."""


def sqlite_path(database: Database) -> Path:
    """Return the file of an SQLite database."""
    return Path(str(make_url(database.masked_url).database))


def erase_deleted(database: Database) -> None:
    """Rewrite the file without the bytes of deleted rows, and empty its write-ahead log.

    It needs free space for up to twice the database's size. Other processes go on, but wait for the write lock.

    Raises
    ------
    DatabaseOutage
        Another process has kept it locked, or has read from it, for `BUSY_SECONDS`.
    StorageOutage
        There is no space for it.
    """
    path = sqlite_path(database)
    with _open(path) as connection:
        connection.execute("VACUUM")
        deadline = time.monotonic() + BUSY_SECONDS
        # The log is emptied only when nobody reads from it; until then it holds the deleted rows too.
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise DatabaseOutage(f"the write-ahead log of {path} is in use, and still has deleted rows")
            time.sleep(RETRY_SECONDS)


def back_up(database: Database, target: Path) -> int:
    """Copy the database as it is at one moment into a new file that only its owner can read, and check the copy.

    Writers go on meanwhile. The copy has nothing of deleted rows.

    Parameters
    ----------
    database : Database
    target : Path
        A file that does not exist.

    Returns
    -------
    int
        The size of the copy, in bytes.

    Raises
    ------
    UsageError
        The file exists, or its folder does not.
    StorageOutage
        It cannot be written.
    DatabaseOutage
        The database cannot be read, or the copy is damaged; then it is removed.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; choose another name, as a backup is not overwritten")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a folder; make it, or choose another one")
    try:
        # Readable by its owner only, and complete or not there under its name.
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise StorageOutage(f"{target.parent} cannot be written ({error.strerror})") from error
    copy = Path(name)
    try:
        with _open(sqlite_path(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        _require_intact(copy)
        os.fsync(descriptor)
        _publish(copy, target)
    finally:
        os.close(descriptor)
        copy.unlink(missing_ok=True)
    return target.stat().st_size


def _publish(copy: Path, target: Path) -> None:
    """Give a complete copy its name, unless another file has got it meanwhile."""
    try:
        os.link(copy, target)
    except FileExistsError as error:
        raise UsageError(f"{target} exists; choose another name, as a backup is not overwritten") from error
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise StorageOutage(f"{target} cannot be written ({error.strerror})") from error
        copy.rename(target)


def _require_intact(copy: Path) -> None:
    with _open(copy) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DatabaseOutage(f"the copy is damaged, and so the database may be: {found}")


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        # Not the database's own connections: each of their statements is in a transaction, where VACUUM is refused.
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise StorageOutage(f"no space left to copy the database {path}: {error}") from error
        raise DatabaseOutage(f"the database {path} cannot be copied or erased: {error}") from error
