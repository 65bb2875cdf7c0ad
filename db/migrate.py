"""Upgrade a database's schema to the version that this code needs (Alembic)."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from db.session import Database
from xray.errors import UsageError

# Any constant: it lets only one host at a time migrate a PostgreSQL database.
ADVISORY_LOCK = 0x626F6E65

UNICODE_ENCODINGS = ("UTF8", "SQL_ASCII")
"""PostgreSQL keeps the bytes of SQL_ASCII as they are, so UTF-8 stays UTF-8."""


def upgrade(database: Database, revision: str | None = None) -> tuple[str | None, str]:
    """Upgrade the schema; safe to call from several processes at the same time.

    Parameters
    ----------
    database : Database
    revision : str, optional
        Default: the newest.

    Returns
    -------
    tuple of (str or None, str)
        The revisions before and after; equal if there was nothing to do.
    """
    config = _config()
    head = revision or _head(config)
    with database.write() as connection:
        if database.dialect == "postgresql":
            _require_unicode(database, connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        before = _revision(connection)
        if before != head:
            _refuse_newer(config, before)
            config.attributes["connection"] = connection
            command.upgrade(config, head)
    return before, head


def check(database: Database) -> None:
    """Check that a database has the schema that this code needs.

    Raises
    ------
    UsageError
        The schema is missing, older or newer; the text says what to do.
    """
    config = _config()
    with database.read() as connection:
        revision = _revision(connection)
    if revision == _head(config):
        return
    _refuse_newer(config, revision)
    state = "has no bonescreen tables yet" if revision is None else f"is at revision {revision}"
    raise UsageError(f"the database {database.masked_url} {state}; run: bonescreen db upgrade")


def _require_unicode(database: Database, connection: Connection) -> None:
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding not in UNICODE_ENCODINGS:
        raise UsageError(
            f"the database {database.masked_url} cannot hold every file name, as its encoding is {encoding}; "
            "create one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise AssertionError("db/migrations holds no revision")
    return head


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(config: Config, revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise UsageError(f"the database was made by a newer bonescreen (revision {revision}); upgrade bonescreen here")
