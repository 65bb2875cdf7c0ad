"""One database, SQLite or PostgreSQL: its connections, its clock, and its outages by name."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Double, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from xray.errors import DatabaseOutage, StorageOutage, UsageError

BUSY_SECONDS = 30
SWITCH_PAUSE_SECONDS = 0.02
PROBE_MILLISECONDS = 2000
IDLE_SECONDS = 15
"""A writer that is stopped, or whose machine vanished, within a transaction loses it and its row locks after that."""

DISK_FULL = "53100"
READ_ONLY = "25006"
"""A standby after a failover, or a managed server whose disk is full."""
SERVER_TROUBLE = ("57", "58")
"""SQLSTATE's classes of an operator's intervention and of errors outside PostgreSQL, which are no operational errors
to every driver."""
PROGRAM_LIMIT = "54"
"""SQLSTATE's class of what PostgreSQL can never do: a bug of ours, which waiting does not mend."""

_GIVE_UP_LOCKS = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"

_DAMAGED = ("is damaged", "put a copy back, or move the file away to begin anew")
_FILE_FAULTS = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check that its folder is there and this user may write in it"),
    sqlite3.SQLITE_READONLY: ("cannot be written", "check that this user may write to the file and in its folder"),
}
"""SQLite's errors that are its file's and no mistake in SQL: what to say, and the way out."""

NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})


class Now(FunctionElement[float]):
    """Seconds since the epoch on the database's clock, millisecond resolution."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    # now() stands still within a transaction; a lease must not.
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """Short transactions on one database; every loss of it is raised as an `Outage`.

    Parameters
    ----------
    url : str
        SQLAlchemy URL: ``sqlite:////folder/file.db`` or ``postgresql://user@host/name``.

    Raises
    ------
    UsageError
        The URL is neither, or an SQLite file would lie on a network file system (its locks do not hold there).
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.dialect = self._engine.dialect.name
        self.masked_url = self._engine.url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one transaction that writes; it commits at the end of the block, or rolls back on any error."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open one transaction that only reads, on one snapshot."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                options = {"bonescreen_writes": writes}
                if self.dialect == "postgresql" and not writes:
                    options["isolation_level"] = "REPEATABLE READ"  # type: ignore[assignment]
                connection = connection.execution_options(**options)
                with connection.begin():
                    if self.dialect == "postgresql" and writes:
                        connection.exec_driver_sql(_GIVE_UP_LOCKS)
                    yield connection
        except (OperationalError, InterfaceError) as error:
            if (_sqlstate(error) or "").startswith(PROGRAM_LIMIT):
                raise
            raise self._outage(error) from error
        except DBAPIError as error:
            if error.connection_invalidated or _is_outage(error):
                raise self._outage(error) from error
            raise

    def _outage(self, error: DBAPIError) -> DatabaseOutage | StorageOutage:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if "disk is full" in reason or _sqlstate(error) == DISK_FULL:
            return StorageOutage(f"no space left for the database {self.masked_url}: {reason}")
        fault = _file_fault(error)
        if fault is not None:
            state, way_out = fault
            return DatabaseOutage(f"the database {self.masked_url} {state}: {reason}; {way_out}")
        return DatabaseOutage(f"the database {self.masked_url} does not answer: {reason}")

    def write_fault(self) -> str | None:
        """Say in words why nothing can be written just now, or None; looks at SQLite's one lock, for two seconds."""
        if self.dialect != "sqlite":
            return None
        with self.read() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {PROBE_MILLISECONDS}")
        try:
            with self.write():
                return None
        except (DatabaseOutage, StorageOutage) as outage:
            return str(outage)
        finally:
            # Pooled connections would keep the short timeout.
            self._engine.dispose()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _is_outage(error: DBAPIError) -> bool:
    sqlstate = _sqlstate(error) or ""
    return sqlstate == READ_ONLY or sqlstate.startswith(SERVER_TROUBLE) or _file_fault(error) is not None


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _file_fault(error: DBAPIError) -> tuple[str, str] | None:
    # The low byte is the kind of error, the others say more.
    return _FILE_FAULTS.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "BONESCREEN_DATABASE_URL is no database URL; write sqlite:////folder/file.db or postgresql://user@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError("an SQLite database needs a file: sqlite:////folder/file.db")
        _refuse_network_file_system(Path(parsed.database))
        engine = create_engine(
            parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, hide_parameters=True
        )
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if backend == "postgresql":
        arguments = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 20000}
        try:
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_size=4,
                connect_args=arguments,
                hide_parameters=True,
            )
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise UsageError("PostgreSQL needs its driver: pip install 'bonescreen[postgres]'") from error
        # Many rows in one statement: the driver's own way, a pipeline, ends with a message that disarms the server's
        # clock of `_GIVE_UP_LOCKS`.
        engine.dialect.use_insertmanyvalues_wo_returning = True
        return engine
    raise UsageError(f"the database {backend!r} is not supported; use sqlite or postgresql")


def _refuse_network_file_system(file: Path) -> None:
    folder = os.path.realpath(file.parent)
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return
    best = ("", "")
    for mount in mounts:
        point, kind = mount.split(" ")[1:3]
        point = point.replace("\\040", " ")
        if os.path.commonpath([point, folder]) == point and len(point) > len(best[0]):
            best = (point, kind)
    if best[1] in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"{folder} is on a network file system ({best[1]}), where SQLite loses data; "
            "set BONESCREEN_HOME to a local disk, or use PostgreSQL"
        )


def _sqlite_connect(connection: Any, record: Any) -> None:
    # The driver's own transaction control would begin late and deferred; we say BEGIN ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    # Of two connections that switch a new file at once SQLite refuses one without a wait, as neither could go on.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_PAUSE_SECONDS)


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that turns into a writer can fail at once with "database is locked", whatever the timeout.
    writes = connection.get_execution_options().get("bonescreen_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


T = TypeVar("T")

CHUNK = 500
"""Rows a statement: well under SQLite's and PostgreSQL's limits on bound values."""


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Start an insert that can be given ``on_conflict_do_nothing`` or ``on_conflict_do_update``."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list into pieces of at most `CHUNK`."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
