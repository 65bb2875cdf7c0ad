"""Upgrade a database's schema to the version that this code needs (Alembic).

Alembic is imported only if there is something to upgrade, as importing it takes a sixth of a command's start.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, column, inspect, select, table, text

from db.session import Database
from xray.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"

# Any constant: it lets only one host at a time migrate a PostgreSQL database.
ADVISORY_LOCK = 0x626F6E65


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade to the newest schema; safe to call from several processes at the same time.

    Returns
    -------
    tuple of (str or None, str)
        The revisions before and after; equal if there was nothing to do.
    """
    head = _revisions()[-1]
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        before = _revision(connection)
        if before != head:
            _refuse_newer(before)
            from alembic import command

            config = _config()
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
    with database.read() as connection:
        revision = _revision(connection)
    if revision == _revisions()[-1]:
        return
    _refuse_newer(revision)
    state = "has no bonescreen tables yet" if revision is None else f"is at revision {revision}"
    raise UsageError(f"the database {database.masked_url} {state}; run: bonescreen db upgrade")


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _revisions() -> list[str]:
    """List all revisions in order; the name of each file in ``versions`` starts with its revision."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar_one_or_none()


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision not in _revisions():
        raise UsageError(f"the database was made by a newer bonescreen (revision {revision}); upgrade bonescreen here")
