"""Settings: read once from the environment into a frozen object, which is passed as an argument."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

from xray.archive_root import Root, parse_root
from xray.body_parts import read_site_terms
from xray.dicomweb import DicomWebService, is_service
from xray.errors import UsageError
from xray.hours import Hours, parse_hours
from xray.message import DEFAULT_BATCH_SIZE
from xray.pseudonym import MIN_KEY_LENGTH
from xray.vocabulary import KEEP

DEFAULT_MODEL = "fracture-5"
DEFAULT_QUIET_SECONDS = 10
MAX_QUIET_SECONDS = 3600
EngineName = Literal["auto", "openvino", "keras"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
PrecisionName = Literal["auto", "fp32", "bf16", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)

_ADDRESS = frozenset({"transport", "hostname", "port", "userid", "username", "password", "virtual_host", "db"})
"""Parts of a broker's URL that Celery reads only from before the query."""


@dataclass(frozen=True)
class Settings:
    """The settings of a process, read from the environment.

    ``docs/commands.md`` is made from this list (`bonescreen.reference`).

    Parameters
    ----------
    home : Path
        ``BONESCREEN_HOME``, default ``~/.bonescreen``: Folder of the embedded database and broker, the logs and the
        network graphs made on this machine. It must be on a local disk, and its path must not contain ``?``, ``#`` or
        ``%``.
    broker_url : str or None
        ``BONESCREEN_BROKER_URL``, default the embedded broker: A broker that speaks the Redis protocol:
        ``redis://host/0``, ``rediss://...`` or ``redis+socket:///path``.
    database_url : str or None
        ``BONESCREEN_DATABASE_URL``, default the embedded database: ``postgresql://user@host/name`` or
        ``sqlite:////folder/file.db``.
    archives : mapping of str to Path or DicomWebService
        ``BONESCREEN_ARCHIVES``, default none: Archives on this machine, ``name=/path,name=/path``, or a DICOMweb
        service, ``name=dicomweb+https://host/dicom-web``. Workers read below these paths, from these services, and
        nowhere else. A path must not contain a comma or end with a space.
    dicomweb : Path or None
        ``BONESCREEN_DICOMWEB``, default none: A TOML file with the users, passwords, token files and certificates of
        DICOMweb services, a table for each URL (docs/dicomweb.md). Only its owner should be able to read it. It is read
        again when it changes.
    model : str
        ``BONESCREEN_MODEL``, default ``fracture-5``: The model package, by name or folder.
    engine : str
        ``BONESCREEN_ENGINE``, default ``auto``: ``openvino``, ``keras``, or ``auto``: Keras where it has a GPU, else
        OpenVINO.
    precision : str
        ``BONESCREEN_PRECISION``, default ``auto``: What the network is computed in: ``fp32``, ``bf16``, ``int8``, or
        ``auto``: the fastest that the workers' processors have instructions for and the model package allows. An
        archive's later scans keep the precision of its first.
    batch_size : int
        ``BONESCREEN_BATCH_SIZE``, default ``1024``: Images in a batch at most. A worker takes as many at once as it
        screens in three seconds.
    quiet_seconds : float
        ``BONESCREEN_QUIET_SECONDS``, default ``10``: A file modified within this many seconds is assumed to be still
        being written and is checked again at the end of the scan; ``0`` accepts every file immediately.
    hours : Hours or None
        ``BONESCREEN_HOURS``, default the whole day: When archives may be read, by this machine's clock, such as
        ``19:00-07:00``. Outside these hours its workers claim nothing, and a scan waits to begin.
    pseudonym_key : bytes or None
        ``BONESCREEN_PSEUDONYM_KEY``, default none: At least 16 characters, as from ``openssl rand -hex 32``. With it, a
        keyed hash of each patient is stored, which links images of the same patient; without it nothing is stored that
        identifies a patient. Keep it as secret as patients' names, and the same on every machine that scans: with a
        different key, all headers are read again.
    keep : frozenset of str
        ``BONESCREEN_KEEP``, default nothing: What `results`, `study` and exports show besides, of ``accession``,
        ``date`` (of the study), ``modality`` and ``path``, as in ``accession,date``. Accession numbers and dates
        identify patients to those who have the hospital's records, so they are stored only if they are named here.
    site_terms : mapping of str to str
        ``BONESCREEN_BODY_PARTS``, default none: A CSV file with the columns ``term,part``: a site's own terms for body
        parts, as in ``HANDGELENK,WRIST``. With a changed file, all headers are read again.
    worker_name : str
        ``BONESCREEN_WORKER_NAME``, default the host's name: The worker's name in `bonescreen status` and Flower:
        letters, digits, ``.``, ``-`` and ``_``. It must be unique in a cluster; two workers on one host could be
        ``$(hostname)-gpu1`` and ``$(hostname)-gpu2``.
    flower_user : str or None
        ``BONESCREEN_FLOWER_USER``, default none: User name that `bonescreen flower` asks for, without a colon.
    flower_password : str or None
        ``BONESCREEN_FLOWER_PASSWORD``, default none: Password that `bonescreen flower` asks for: printable ASCII
        characters, no spaces.
    log_format : str
        ``BONESCREEN_LOG_FORMAT``, default ``text``: How workers, feeders and Flower write their logs: ``text``, or
        ``json``, an object a line with run, batch and worker.
    log_level : str
        ``BONESCREEN_LOG_LEVEL``, default ``info``: The least level of lines in these logs: ``debug``, ``info``,
        ``warning`` or ``error``.
    """

    home: Path
    broker_url: str | None
    database_url: str | None
    archives: Mapping[str, Root]
    dicomweb: Path | None
    model: str
    engine: EngineName
    precision: PrecisionName
    batch_size: int
    quiet_seconds: float
    hours: Hours | None
    pseudonym_key: bytes | None = field(repr=False)
    keep: frozenset[str]
    site_terms: Mapping[str, str]
    worker_name: str
    flower_user: str | None
    flower_password: str | None = field(repr=False)
    log_format: LogFormat
    log_level: LogLevel

    @property
    def worker_signature(self) -> str:
        """Host and name of this host's worker, which its claims begin with: two hosts may use the same name."""
        host = socket.gethostname()
        return host if self.worker_name == host else f"{host}/{self.worker_name}"

    @property
    def effective_database_url(self) -> str:
        """The database's URL, embedded or configured."""
        return self.database_url or f"sqlite:///{self.home / 'bonescreen.db'}"

    @property
    def graph_cache(self) -> Path:
        """Where derived inference graphs are kept."""
        return self.home / "graphs"

    def archive_root(self, name: str, scanned_at: str) -> Root | None:
        """Return an archive's root on this host, or None if it is not configured here.

        On an embedded database, which only one host uses, the default is the root at which it was scanned.

        Raises
        ------
        UsageError
            It was scanned at a DICOMweb service that may no longer be asked, see `xray.dicomweb.parse_service`.
        """
        if name not in self.archives and self.database_url is None:
            return parse_root(scanned_at, self.dicomweb)
        return self.archives.get(name)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read every ``BONESCREEN_*`` setting.

    Raises
    ------
    UsageError
        The value of a setting is not valid; the text names the setting.
    """
    dicomweb = Path(file).expanduser().absolute() if (file := environ.get("BONESCREEN_DICOMWEB")) else None
    return Settings(
        home=_home(environ.get("BONESCREEN_HOME") or "~/.bonescreen"),
        broker_url=_broker_url(environ.get("BONESCREEN_BROKER_URL") or None),
        database_url=environ.get("BONESCREEN_DATABASE_URL") or None,
        archives=parse_archives(environ.get("BONESCREEN_ARCHIVES") or "", dicomweb),
        dicomweb=dicomweb,
        model=environ.get("BONESCREEN_MODEL") or DEFAULT_MODEL,
        engine=_engine(environ.get("BONESCREEN_ENGINE") or "auto"),
        precision=_precision(environ.get("BONESCREEN_PRECISION") or "auto"),
        batch_size=_batch_size(environ.get("BONESCREEN_BATCH_SIZE") or str(DEFAULT_BATCH_SIZE)),
        quiet_seconds=_quiet_seconds(environ.get("BONESCREEN_QUIET_SECONDS") or str(DEFAULT_QUIET_SECONDS)),
        hours=parse_hours(hours) if (hours := environ.get("BONESCREEN_HOURS")) else None,
        pseudonym_key=_pseudonym_key(environ.get("BONESCREEN_PSEUDONYM_KEY") or None),
        keep=_keep(environ.get("BONESCREEN_KEEP") or ""),
        site_terms=read_site_terms(Path(terms)) if (terms := environ.get("BONESCREEN_BODY_PARTS")) else {},
        worker_name=_worker_name(environ.get("BONESCREEN_WORKER_NAME") or socket.gethostname()),
        flower_user=_flower_user(environ.get("BONESCREEN_FLOWER_USER") or None),
        flower_password=_flower_password(environ.get("BONESCREEN_FLOWER_PASSWORD") or None),
        log_format=_log_format(environ.get("BONESCREEN_LOG_FORMAT") or "text"),
        log_level=_log_level(environ.get("BONESCREEN_LOG_LEVEL") or "info"),
    )


def parse_archives(text: str, dicomweb: Path | None = None) -> dict[str, Root]:
    """Read ``name=/path,name=dicomweb+https://host/path``.

    Parameters
    ----------
    text : str
    dicomweb : Path or None
        The file with credentials of DICOMweb services.

    Raises
    ------
    UsageError
        A part does not have that form, a name repeats, a path is not absolute, or a service may not be asked.
    """
    found: dict[str, Root] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, path = part.partition("=")
        if not equals or not is_archive_name(name) or not (path.startswith("/") or is_service(path)):
            # What is no root may be a URL with a password.
            shown = repr(part) if "@" not in part else "a part"
            raise UsageError(
                f"BONESCREEN_ARCHIVES: {shown} is not of the form name=/absolute/path or "
                "name=dicomweb+https://host/path; correct it"
            )
        if name in found:
            raise UsageError(f"BONESCREEN_ARCHIVES names {name!r} twice; give each archive a name of its own")
        try:
            found[name] = parse_root(path, dicomweb)
        except UsageError as error:
            raise UsageError(f"BONESCREEN_ARCHIVES, {name}: {error}") from error
    return found


def fits_in_setting(name: str, root: Root) -> bool:
    """Tell whether an archive written into ``BONESCREEN_ARCHIVES`` is read back the same."""
    text = f"{name}={root}"
    try:
        text.encode()
        access = root.access if isinstance(root, DicomWebService) else None
        return "\n" not in text and parse_archives(text, access) == {name: root}
    except (UnicodeEncodeError, UsageError):
        return False


def is_archive_name(name: str) -> bool:
    """Tell whether a text is a valid archive name: letters, digits, dot, dash and underscore."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) is not None


def _home(text: str) -> Path:
    try:
        home = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"BONESCREEN_HOME={text!r} is the home of a user that does not exist here") from error
    # It becomes part of two URLs, whose readers escape these characters differently.
    if any(character in "?#%" or not character.isprintable() for character in str(home)):
        raise UsageError(
            f"BONESCREEN_HOME: {str(home)!r} has a '?', '#', '%' or unprintable character; choose a different one"
        )
    return home


def _broker_url(url: str | None) -> str | None:
    if url is None:
        return None
    if not url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise UsageError("BONESCREEN_BROKER_URL must begin with redis://, rediss:// or redis+socket://")
    # The URL is not shown, as the wrong part may be its password.
    wrong = UsageError(
        "BONESCREEN_BROKER_URL is not a broker's URL; write redis://user:password@host:6379/0 with any special "
        "character of the password as %XX, or redis+socket:///path"
    )
    try:
        parts = urlsplit(url)
        # urlsplit checks the port only when it is read.
        parts.port  # noqa: B018
    except ValueError as error:
        raise wrong from error
    if parts.scheme == "redis+socket":
        return url
    if re.fullmatch(r"/?[0-9]*", parts.path) is None or "@" in parts.query + parts.fragment:
        raise wrong
    options = parse_qs(parts.query, keep_blank_values=True).keys()
    if _ADDRESS & options:
        raise wrong
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in options:
        # Celery would accept any certificate, also that of an attacker in between.
        return parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))).geturl()
    return url


def _engine(text: str) -> EngineName:
    for engine in ENGINES:
        if text == engine:
            return engine
    raise UsageError(f"BONESCREEN_ENGINE={text!r} must be one of {', '.join(ENGINES)}")


def _precision(text: str) -> PrecisionName:
    for precision in PRECISIONS:
        if text == precision:
            return precision
    raise UsageError(f"BONESCREEN_PRECISION={text!r} must be one of {', '.join(PRECISIONS)}")


def _log_format(text: str) -> LogFormat:
    for log_format in LOG_FORMATS:
        if text == log_format:
            return log_format
    raise UsageError(f"BONESCREEN_LOG_FORMAT={text!r} must be one of {', '.join(LOG_FORMATS)}")


def _log_level(text: str) -> LogLevel:
    for level in LOG_LEVELS:
        if text.lower() == level:
            return level
    raise UsageError(f"BONESCREEN_LOG_LEVEL={text!r} must be one of {', '.join(LOG_LEVELS)}")


def _quiet_seconds(text: str) -> float:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_QUIET_SECONDS:
        raise UsageError(
            f"BONESCREEN_QUIET_SECONDS is {text!r}; it must be a whole number from 0 to {MAX_QUIET_SECONDS}"
        )
    return float(text)


def _pseudonym_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    # The key itself is not shown.
    if len(text) < MIN_KEY_LENGTH:
        raise UsageError(
            f"BONESCREEN_PSEUDONYM_KEY has {len(text)} characters; it needs at least {MIN_KEY_LENGTH}; "
            "make one with: openssl rand -hex 32"
        )
    return text.encode(errors="surrogateescape")


def _keep(text: str) -> frozenset[str]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KEEP:
            raise UsageError(f"BONESCREEN_KEEP names {name!r}; it may name {', '.join(KEEP)}")
    return frozenset(names)


def _batch_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 4096:
        raise UsageError(f"BONESCREEN_BATCH_SIZE is {text!r}; it must be a whole number from 1 to 4096")
    return int(text)


def _worker_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) is None:
        raise UsageError(
            f"BONESCREEN_WORKER_NAME={text!r} is not a valid name; "
            "use 1 to 64 letters, digits, dots, dashes and underscores, as in gpu1"
        )
    return text


def _flower_user(text: str | None) -> str | None:
    # Browsers send name and password joined by a colon, and Flower compares ASCII only.
    if text is not None and (not _is_plain(text) or ":" in text):
        raise UsageError(f"BONESCREEN_FLOWER_USER is {text!r}; it must be printable ASCII without blanks and ':'")
    return text


def _flower_password(text: str | None) -> str | None:
    if text is not None and not _is_plain(text):
        raise UsageError("BONESCREEN_FLOWER_PASSWORD has a space or a character that is not printable ASCII")
    return text


def _is_plain(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None
