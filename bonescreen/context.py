"""The settings and the database of a command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db import migrate
from db.runs import archive_roots
from db.session import Database
from xray.errors import UsageError
from xray.settings import Settings, read_settings


def settings_here() -> Settings:
    """Read the settings from the environment; each command does so once."""
    return read_settings(os.environ)


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Database]:
    """Open an existing database; an embedded one is upgraded if necessary.

    Raises
    ------
    UsageError
        Nothing has been screened yet, or a configured database needs ``bonescreen db upgrade``.
    DatabaseOutage
        It does not answer, or its file is damaged.
    """
    embedded = settings.database_url is None
    if embedded and not (settings.home / "bonescreen.db").exists():
        raise UsageError(f"nothing has been screened yet in {settings.home}; run: bonescreen screen PATH")
    database = Database(settings.effective_database_url)
    try:
        _bring_up_to_date(database, embedded=embedded)
        yield database
    finally:
        database.close()


def roots_here(settings: Settings, database: Database) -> dict[str, Path]:
    """Map archives to their roots on this host: as configured, and in an embedded database as last scanned."""
    scanned = archive_roots(database) if settings.database_url is None else {}
    return {name: Path(root) for name, root in scanned.items()} | dict(settings.archives)


def _bring_up_to_date(database: Database, *, embedded: bool) -> None:
    try:
        migrate.check(database)
    except UsageError:
        # Only if necessary: an upgrade takes the write lock, for which it would wait while a scan is writing.
        if not embedded:
            raise
        migrate.upgrade(database)
