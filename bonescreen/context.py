"""What a reading command starts from: the settings, and the database they name."""

import importlib.util
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
    """Read the environment; a command does so once."""
    return read_settings(os.environ)


def require_packages(command: str, *modules: str) -> None:
    """Raise an error if modules that a command needs are not installed, before anything is imported or read.

    Raises
    ------
    UsageError
        A module is missing; says how to install it.
    """
    packages = {"sklearn": "scikit-learn"}
    missing = [packages.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{command} needs {' and '.join(missing)}: pip install 'bonescreen[tensorflow]'")


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Database]:
    """Open the database of a command that reads or steers; an embedded one is migrated on the way.

    Raises
    ------
    UsageError
        Nothing has been screened yet, or a configured database waits for ``bonescreen db upgrade``.
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
    """Map archives to their roots on this host: as configured, and on an embedded database as last scanned."""
    scanned = archive_roots(database) if settings.database_url is None else {}
    return {name: Path(root) for name, root in scanned.items()} | dict(settings.archives)


def _bring_up_to_date(database: Database, *, embedded: bool) -> None:
    try:
        migrate.check(database)
    except UsageError:
        # Only now, as an upgrade asks for the write lock, for which a busy scan would keep a reader waiting.
        if not embedded:
            raise
        migrate.upgrade(database)
