"""The context of a command: its settings, and an open database for commands that do not screen."""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from db import migrate
from db.runs import archive_roots
from db.session import Database
from xray.archive_root import Root, parse_root
from xray.dicomweb import DicomWebService, read_access
from xray.errors import MissingExtra, UsageError
from xray.settings import Settings, read_settings

PATIENCE_SECONDS = 8.0
"""How long a DICOMweb service may take to answer a person."""


def settings_here() -> Settings:
    """Read the settings from the environment; a command calls this once."""
    return read_settings(os.environ)


def require_packages(command: str, *modules: str, extra: str = "tensorflow") -> None:
    """Raise an error if modules that a command needs are not installed, before anything is imported or read.

    Parameters
    ----------
    command : str
        What needs them.
    *modules : str
        The modules.
    extra : str
        The extra of ``pyproject.toml`` that installs them.

    Raises
    ------
    MissingExtra
        A module is missing; says how to install it.
    """
    packages = {"sklearn": "scikit-learn", "dicomanonymizer": "dicom-anonymizer"}
    missing = [packages.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{command} needs {', '.join(missing)}", extra)


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Database]:
    """Open the database for a command that reads results or controls runs; upgrade an embedded one.

    Raises
    ------
    UsageError
        Nothing has been screened yet, or a configured database needs ``bonescreen db upgrade``.
    DatabaseOutage
        The database does not answer, or its file is damaged.
    """
    embedded = settings.database_url is None
    if embedded and not (settings.home / "bonescreen.db").exists():
        raise UsageError(f"nothing has been screened yet in {settings.home}; run: bonescreen screen PATH")
    database = Database(settings.effective_database_url)
    try:
        _upgrade_if_needed(database, embedded=embedded)
        yield database
    finally:
        database.close()


def roots_here(settings: Settings, database: Database, *, patience: float = PATIENCE_SECONDS) -> dict[str, Root]:
    """Map archives to their roots on this host: as configured, and with an embedded database as last scanned.

    Parameters
    ----------
    settings : Settings
    database : Database
    patience : float
        Seconds that a DICOMweb service gets for an answer; by default as many as a person waits. One that may no longer
        be asked (`xray.dicomweb.parse_service`) is left out.
    """
    scanned = archive_roots(database) if settings.database_url is None else {}
    roots: dict[str, Root] = {}
    for name, text in scanned.items():
        with suppress(UsageError):
            roots[name] = parse_root(text, settings.dicomweb)
    return {
        name: replace(root, patience=patience) if isinstance(root, DicomWebService) else root
        for name, root in {**roots, **settings.archives}.items()
    }


def require_access(roots: Iterable[Root]) -> None:
    """Check what BONESCREEN_DICOMWEB says of those archives that are services, before anything is asked.

    Raises
    ------
    UsageError
        It cannot be used (`xray.dicomweb.read_access`); for a process that runs already, that is an outage.
    """
    for root in roots:
        if isinstance(root, DicomWebService):
            read_access(root)


def _upgrade_if_needed(database: Database, *, embedded: bool) -> None:
    try:
        migrate.check(database)
    except UsageError:
        # Checked first, as an upgrade needs the write lock, and a reader would have to wait for a scan that has it.
        if not embedded:
            raise
        migrate.upgrade(database)
