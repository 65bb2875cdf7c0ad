"""Bring a database's schema to the version this code was written for (Alembic).

Alembic itself is imported only where there is something to migrate: it takes a sixth of a command's start.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, column, inspect, select, table, text

from db.session import Database
from xray.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"

# Any constant of our own: one migration at a time on a PostgreSQL server shared by many hosts.
ADVISORY_LOCK = 0x626F6E65


def upgrade(database: Database) -> tuple[str | None, str]:
    """Migrate to the newest schema; safe to call from several processes at once.

    Returns
    -------
    tuple of (str or None, str)
        The revision found and the revision reached; equal when there was nothing to do.
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
    """Refuse a database whose schema is not the one this code was written for.

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
    raise UsageError(f"the database {database.shown_url} {state}; run: bonescreen db upgrade")


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _revisions() -> list[str]:
    """Return all revisions in their order: each file in ``versions`` begins with its own."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar_one_or_none()


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision not in _revisions():
        raise UsageError(f"the database was made by a newer bonescreen (revision {revision}); update bonescreen here")
