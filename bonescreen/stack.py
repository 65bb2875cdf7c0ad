"""The one-machine stack: the home's lock and database, the archives' names, and the services to supervise."""

import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bonescreen.broker import broker_service, broker_url
from bonescreen.context import require_access
from bonescreen.supervisor import Service
from db.migrate import check, upgrade
from db.session import Database
from xray.archive_root import Root, parse_root
from xray.archives.layouts import is_utf8
from xray.archives.members import is_container
from xray.archives.names import stored_name
from xray.archives.storage_errors import OUTAGE_ERRNOS
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, StorageOutage, UsageError
from xray.settings import Settings, fits_in_setting, is_archive_name


@contextmanager
def home_lock(settings: Settings) -> Iterator[None]:
    """Lock the home for one `screen` at a time; the kernel releases the lock even if the process is killed.

    Raises
    ------
    UsageError
        Another `screen` has locked it.
    StorageOutage
        The home cannot be written.
    """
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.home / "logs").mkdir(exist_ok=True)
        file = (settings.home / "screen.lock").open("a+")
    except OSError as error:
        raise StorageOutage(f"{settings.home} cannot be written ({error.strerror}); set BONESCREEN_HOME") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another `bonescreen screen` is running in {settings.home}; "
                "watch it with: bonescreen status (or set a different BONESCREEN_HOME for this one)"
            ) from error
        yield


def is_home_locked(settings: Settings) -> bool:
    """Return whether a `screen` of this home is running."""
    try:
        with (settings.home / "screen.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def open_database(settings: Settings) -> Database:
    """Open the database for screening; create or upgrade an embedded one."""
    database = Database(settings.effective_database_url)
    if settings.database_url is None:
        upgrade(database)
    else:
        check(database)
    return database


def name_archives(settings: Settings, known: Mapping[str, str], paths: Sequence[str]) -> dict[str, Root]:
    """Return distinct names of the archives at several paths, with their roots.

    Raises
    ------
    UsageError, ArchiveOutage
        As `name_archive`, or as `require_access`.
    """
    named: dict[str, Root] = {}
    for path in paths:
        name, root = name_archive(settings, {**known, **{name: str(root) for name, root in named.items()}}, path)
        named[name] = root
    require_access(named.values())
    return named


def name_archive(settings: Settings, known: Mapping[str, str], path: str | Path) -> tuple[str, Root]:
    """Return the name and root of the archive at a path: its configured name, its earlier one, or its folder's.

    That of a DICOMweb service is the name of its host.

    Parameters
    ----------
    settings : Settings
        Has the configured archives; the name of one may be given in place of its path.
    known : mapping of str to str
        Roots of the archives in the database, by name.
    path : str or Path
        As the user gave it; or the URL of a service, ``dicomweb+https://host/path``.

    Raises
    ------
    UsageError
        There is nothing at the path, or the path is not UTF-8, or the service may not be asked, or, with a configured
        database, it cannot be written in BONESCREEN_ARCHIVES, which passes it to the services.
    ArchiveOutage
        The storage does not respond.
    """
    name, root = _named(settings, known, str(path))
    if not is_utf8(str(root)):
        raise UsageError(f"the archive's path is not UTF-8; rename the folder: {str(root)!r}")
    if settings.database_url is not None and not fits_in_setting(name, root):
        raise UsageError(
            "the archive's path cannot be written in BONESCREEN_ARCHIVES, as it has a comma, a line break or a space "
            f"at its end; rename the folder: {str(root)!r}"
        )
    return name, root


def _named(settings: Settings, known: Mapping[str, str], text: str) -> tuple[str, Root]:
    if text in settings.archives and not os.path.exists(text):
        return text, settings.archives[text]
    root = parse_root(text, settings.dicomweb)
    if not isinstance(root, DicomWebService):
        _require_archive(root)
        root = Path(os.path.realpath(root))
    for name, configured in settings.archives.items():
        # Unlike Path.resolve, it does not raise for a link to itself.
        place = configured if isinstance(configured, DicomWebService) else os.path.realpath(configured)
        if str(place) == str(root):
            return name, root
    for name, earlier in known.items():
        # Another mount may write the same path in the other Unicode form.
        if earlier == str(root) or (stored_name(earlier) == stored_name(str(root)) and not os.path.exists(earlier)):
            return name, root
    base = "".join(c if is_archive_name(c) else "_" for c in root.name)[:180] or "archive"
    name, number = base, 2
    while name in known or name in settings.archives:
        name, number = f"{base}-{number}", number + 1
    return name, root


def _require_archive(path: Path) -> None:
    next_step = "give the folder that holds the studies, a zip or tar of them, or one image"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path} does not exist; {next_step}") from error
    except OSError as error:
        if error.errno in OUTAGE_ERRNOS:
            raise ArchiveOutage(f"the archive at {path} does not answer: {error.strerror}") from error
        raise UsageError(f"{path} cannot be read ({error.strerror}); {next_step}") from error
    if stat.S_ISREG(mode) and not is_container(path.name):
        _require_image(path)
    elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise UsageError(f"{path} is neither a folder nor a file; {next_step}")


def _require_image(path: Path) -> None:
    # Pillow and pydicom take time to import, which those who screen folders need not wait for.
    from xray.images.decode import is_image
    from xray.images.dicom.header import HEAD_BYTES

    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give this user the right to read it") from error
    if not is_image(head):
        raise UsageError(
            f"{path} is not a DICOM, PNG, JPEG or TIFF image; give the folder that holds the studies, a zip or tar of "
            "them, or one image"
        )


def require_configured(settings: Settings, archives: Mapping[str, Root]) -> None:
    """Check that workers on a configured database can find the archives (roots by name) by their names.

    Raises
    ------
    UsageError
        An archive is not in BONESCREEN_ARCHIVES.
    """
    for name, root in archives.items():
        if settings.database_url is not None and name not in settings.archives:
            raise UsageError(
                f"{root} has no name by which workers find it; "
                f"set BONESCREEN_ARCHIVES={name}={root} here and its path there on each worker"
            )


def with_archives(settings: Settings, more: Mapping[str, Root]) -> Settings:
    """Add archives to the configured ones, unless the database is embedded: there services read roots from it."""
    return replace(settings, archives={**settings.archives, **more}) if settings.database_url else settings


def stack_services(settings: Settings, model_path: Path) -> list[Service]:
    """Return the services of a `screen`: an embedded broker if none is configured, a feeder and a worker."""
    broker = [broker_service(settings)] if settings.broker_url is None else []
    return broker + work_services(service_environ(settings, model_path), settings.home / "logs")


def work_services(environ: Mapping[str, str], logs: Path | None = None) -> list[Service]:
    """Return a feeder and a worker; they log to files in the folder `logs`, or to this process's output."""
    return [
        Service(name, [sys.executable, "-P", "-m", module], environ, logs and logs / f"{name}.log")
        for name, module in (("feeder", "producer"), ("worker", "worker"))
    ]


def service_environ(settings: Settings, model_path: Path) -> dict[str, str]:
    """Return a service's environment: this process's with the settings."""
    configured = {} if settings.database_url is None else {"BONESCREEN_DATABASE_URL": settings.database_url}
    return {
        **os.environ,
        **configured,
        "BONESCREEN_HOME": str(settings.home),
        "BONESCREEN_BROKER_URL": settings.broker_url or broker_url(settings),
        "BONESCREEN_ARCHIVES": ",".join(f"{name}={root}" for name, root in settings.archives.items()),
        "BONESCREEN_MODEL": str(model_path),
        "PYTHONUNBUFFERED": "1",
        # Like `-P`, for the Python processes that a service starts.
        "PYTHONSAFEPATH": "1",
    }
