"""The database session, for SQLite and PostgreSQL: connections, transactions, the database's clock, and outages.

Also helpers for statements that must run fast on both: `insert_into` and `insert_many` for upserts, `one_of`, `chunks`.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Double,
    Engine,
    Table,
    any_,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from db.local_disk import require_local_disk
from xray.errors import DatabaseOutage, MissingExtra, StorageOutage, UsageError

T = TypeVar("T")

CHUNK = 500
"""Rows per statement: well below SQLite's and PostgreSQL's limits on bound values."""

BUSY_SECONDS = 30
"""How long a connection waits for SQLite's write lock."""

WAL_RETRY_SECONDS = 0.02

IDLE_SECONDS = 15
"""PostgreSQL ends a writing transaction that is idle this long, such as that of a process that was stopped or
whose machine failed, so that its row locks do not block the others."""

DISK_FULL = "53100"
SQLITE_DISK_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""The second one when the first process that opens the database finds no space for the index of its WAL."""
READ_ONLY = "25006"
"""A standby after a failover, or a managed server whose disk is full."""
SERVER_FAULTS = ("57", "58")
"""SQLSTATE classes "operator intervention" and "system error", which not every driver reports as operational errors."""
PROGRAM_LIMIT = "54"
"""SQLSTATE class "program limit exceeded": a bug in a statement of ours, which waiting does not fix."""

_SET_IDLE_TIMEOUT = f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"

_DAMAGED = ("is damaged", "restore a backup, or move the file away to start again")
_FILE_FAULTS = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check that its folder exists and that this user may write to it"),
    sqlite3.SQLITE_READONLY: ("cannot be written", "check that this user may write to the file and its folder"),
}
"""SQLite errors whose cause is the file and not the SQL: what is wrong with it, and what to do."""


class Now(FunctionElement[float]):
    """Seconds since the epoch on the database's clock, millisecond resolution."""

    type = Double()
    inherit_cache = True


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    # now() would return the start of the transaction, which is too early for a lease.
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """Short transactions on one database; if it cannot be reached or used, they raise an `Outage`.

    Parameters
    ----------
    url : str
        SQLAlchemy URL: ``sqlite:////folder/file.db`` or ``postgresql://user@host/name``.

    Raises
    ------
    UsageError
        The URL is neither, or the SQLite file is not on a local disk (`db.local_disk`).
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.dialect = self._engine.dialect.name
        self.masked_url = self._engine.url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that may write; it commits at the end of the block and rolls back on any error."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that only reads, on one snapshot."""
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
                        connection.exec_driver_sql(_SET_IDLE_TIMEOUT)
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
        if _sqlstate(error) == DISK_FULL or getattr(error.orig, "sqlite_errorcode", 0) in SQLITE_DISK_FULL:
            return StorageOutage(f"no space left for the database {self.masked_url}: {reason}")
        fault = _file_fault(error)
        if fault is not None:
            state, remedy = fault
            return DatabaseOutage(f"the database {self.masked_url} {state}: {reason}; {remedy}")
        return DatabaseOutage(f"the database {self.masked_url} does not answer: {reason}")

    @contextmanager
    def impatient(self, milliseconds: int) -> Iterator[None]:
        """Wait for SQLite's write lock only so long within the block."""
        if self.dialect != "sqlite":
            yield
            return
        with self.read() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds}")
        try:
            yield
        finally:
            # Connections in the pool would keep the short timeout.
            self._engine.dispose()

    def checkpoint(self) -> None:
        """Write to SQLite's file what only its WAL has, if another process does not do so; it may have to grow."""
        if self.dialect == "sqlite":
            with self.read() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all()
                connection.exec_driver_sql("BEGIN")

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _is_outage(error: DBAPIError) -> bool:
    sqlstate = _sqlstate(error) or ""
    return sqlstate == READ_ONLY or sqlstate.startswith(SERVER_FAULTS) or _file_fault(error) is not None


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _file_fault(error: DBAPIError) -> tuple[str, str] | None:
    # The low byte of an extended error code is the primary one.
    return _FILE_FAULTS.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "BONESCREEN_DATABASE_URL is not a database URL; "
            "set it to sqlite:////folder/file.db or postgresql://user@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError("an SQLite database needs a file: sqlite:////folder/file.db")
        require_local_disk(Path(parsed.database))
        engine = create_engine(
            parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, hide_parameters=True
        )
        if "uri" not in parsed.query:
            event.listen(engine, "do_connect", lambda *_: _create_privately(Path(parsed.database or "")))
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if backend == "postgresql":
        # Where the server's encoding is SQL_ASCII, psycopg would else return text as bytes.
        arguments = {
            "client_encoding": "utf8",
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "tcp_user_timeout": 20000,
        }
        try:
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_size=4,
                connect_args=arguments,
                hide_parameters=True,
            )
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise MissingExtra("PostgreSQL needs its driver", "postgres") from error
        # psycopg would insert many rows in a pipeline, and the message that ends it stops the server's idle timer,
        # which `_SET_IDLE_TIMEOUT` has set. SQLAlchemy's single statement does not.
        engine.dialect.use_insertmanyvalues_wo_returning = True
        event.listen(engine, "connect", _postgresql_connect)
        return engine
    raise UsageError(f"the database {backend!r} is not supported; use sqlite or postgresql")


def _create_privately(file: Path) -> None:
    """Create a database that only this user may read, which SQLite leaves to the umask; its WAL gets its rights."""
    # Only a new file: if this process has the database open, closing another descriptor of it would release its locks.
    with suppress(OSError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _sqlite_connect(connection: Any, record: Any) -> None:
    # The driver would begin transactions late and deferred; `_sqlite_begin` begins them instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _postgresql_connect(connection: Any, record: Any) -> None:
    # In PgBouncer's transaction mode, the next transaction may be on another server connection, which does not have the
    # statements that psycopg has prepared. PgBouncer does not tell clients the server process that they talk to.
    (server_process,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    connection.rollback()
    if server_process != connection.info.backend_pid:
        connection.prepare_threshold = None


def _use_wal(cursor: sqlite3.Cursor) -> None:
    # If two connections switch a new file to WAL at the same time, SQLite refuses one at once, without the busy
    # timeout, to avoid a deadlock.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_SECONDS)


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that writes later can fail at once with "database is locked", whatever the busy timeout.
    writes = connection.get_execution_options().get("bonescreen_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Start an INSERT that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_many(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    complete: Callable[[Any], Any] | None = None,
) -> CursorResult[Any]:
    """Insert one or more rows, in this order, as one statement.

    Parameters
    ----------
    connection : Connection
    table : Table
    rows : sequence of mapping
        All with the same columns.
    complete : callable, optional
        Adds ON CONFLICT and RETURNING; a function of a module, as the statement is made once and kept.
    """
    statement = _insert_statement(connection.dialect.name, table, tuple(rows[0]), complete)
    if connection.dialect.name == "sqlite":
        return connection.execute(statement, rows)
    return connection.execute(statement, {f"new_{name}": [row[name] for row in rows] for name in rows[0]})


@cache
def _insert_statement(
    dialect: str, table: Table, names: Sequence[str], complete: Callable[[Any], Any] | None
) -> sqlite.Insert | postgresql.Insert:
    statement: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    if complete is not None:
        statement = complete(statement)
    if dialect == "postgresql":
        # An array for each column, so that the SQL is the same for any number of rows: reading and planning a statement
        # with a value for each cell takes longer than executing it.
        arrays = [bindparam(f"new_{name}", type_=postgresql.ARRAY(table.c[name].type)) for name in names]
        source = func.unnest(*arrays).table_valued(*names, name="new").render_derived()
        statement = statement.from_select(names, select(source))
    return statement  # type: ignore[no-any-return]


def or_nothing(statement: Any) -> Any:
    """Complete an INSERT for `insert_many`: leave rows alone that exist."""
    return statement.on_conflict_do_nothing()


def one_of(connection: Connection, column: Column[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Compare a column with some values, by SQL that is the same for any number of them on PostgreSQL.

    The server then plans it once, not anew for each number of values.
    """
    if connection.dialect.name == "sqlite":
        return column.in_(values)
    return column == any_(bindparam(None, list(values), type_=postgresql.ARRAY(column.type)))


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split a sequence into parts of at most `CHUNK` items."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
