"""Settings: read once from the environment into a frozen object, which is passed as an argument."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

from xray.errors import UsageError
from xray.message import DEFAULT_BATCH_SIZE
from xray.pseudonym import MIN_KEY_LENGTH

DEFAULT_MODEL = "fracture-3"
DEFAULT_QUIET_SECONDS = 10
MAX_QUIET_SECONDS = 3600
EngineName = Literal["auto", "openvino", "keras"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

_ADDRESS = frozenset({"transport", "hostname", "port", "userid", "username", "password", "virtual_host", "db"})
"""Parts of a broker's URL that Celery reads only from before the query."""


@dataclass(frozen=True)
class Settings:
    """Settings from the environment.

    Parameters
    ----------
    home : Path
        Folder of the embedded database, the embedded broker and the graph cache (``BONESCREEN_HOME``).
    broker_url : str or None
        Redis-protocol URL; None means the embedded broker (``BONESCREEN_BROKER_URL``).
    database_url : str or None
        SQLAlchemy URL; None means the embedded SQLite file (``BONESCREEN_DATABASE_URL``).
    archives : mapping of str to Path
        Archive roots on this host by name (``BONESCREEN_ARCHIVES``, ``name=/path,...``).
    model : str
        Model package, by name or folder (``BONESCREEN_MODEL``).
    engine : str
        ``auto``, ``openvino`` or ``keras`` (``BONESCREEN_ENGINE``).
    batch_size : int
        Images in a batch (``BONESCREEN_BATCH_SIZE``).
    quiet_seconds : float
        A file that changed less than this many seconds ago may still be written (``BONESCREEN_QUIET_SECONDS``).
    pseudonym_key : bytes or None
        Turns patients into keyed hashes; without it, nothing about patients is stored (``BONESCREEN_PSEUDONYM_KEY``).
    worker_name : str
        The name of this host's worker in claims and lists (``BONESCREEN_WORKER_NAME``).
    flower_user, flower_password : str or None
        User name and password of Flower (``BONESCREEN_FLOWER_USER``, ``BONESCREEN_FLOWER_PASSWORD``).
    """

    home: Path
    broker_url: str | None
    database_url: str | None
    archives: Mapping[str, Path]
    model: str
    engine: EngineName
    batch_size: int
    quiet_seconds: float
    pseudonym_key: bytes | None = field(repr=False)
    worker_name: str
    flower_user: str | None
    flower_password: str | None = field(repr=False)

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

    def archive_root(self, name: str, scanned_at: str) -> Path | None:
        """Return an archive's root on this host, or None if it is not configured here.

        On an embedded database, which only one host uses, the default is the root at which it was scanned.
        """
        if self.database_url is None:
            return self.archives.get(name, Path(scanned_at))
        return self.archives.get(name)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read every ``BONESCREEN_*`` setting.

    Raises
    ------
    UsageError
        The value of a setting is not valid; the text names the setting.
    """
    return Settings(
        home=_home(environ.get("BONESCREEN_HOME") or "~/.bonescreen"),
        broker_url=_broker_url(environ.get("BONESCREEN_BROKER_URL") or None),
        database_url=environ.get("BONESCREEN_DATABASE_URL") or None,
        archives=parse_archives(environ.get("BONESCREEN_ARCHIVES") or ""),
        model=environ.get("BONESCREEN_MODEL") or DEFAULT_MODEL,
        engine=_engine(environ.get("BONESCREEN_ENGINE") or "auto"),
        batch_size=_batch_size(environ.get("BONESCREEN_BATCH_SIZE") or str(DEFAULT_BATCH_SIZE)),
        quiet_seconds=_quiet_seconds(environ.get("BONESCREEN_QUIET_SECONDS") or str(DEFAULT_QUIET_SECONDS)),
        pseudonym_key=_pseudonym_key(environ.get("BONESCREEN_PSEUDONYM_KEY") or None),
        worker_name=_worker_name(environ.get("BONESCREEN_WORKER_NAME") or socket.gethostname()),
        flower_user=_flower_user(environ.get("BONESCREEN_FLOWER_USER") or None),
        flower_password=_flower_password(environ.get("BONESCREEN_FLOWER_PASSWORD") or None),
    )


def parse_archives(text: str) -> dict[str, Path]:
    """Read ``name=/path,name=/path``.

    Raises
    ------
    UsageError
        A part does not have that form, a name repeats, or a path is not absolute.
    """
    found: dict[str, Path] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, path = part.partition("=")
        if not equals or not is_archive_name(name) or not path.startswith("/"):
            raise UsageError(f"BONESCREEN_ARCHIVES: {part!r} is not of the form name=/absolute/path; correct it")
        if name in found:
            raise UsageError(f"BONESCREEN_ARCHIVES names {name!r} twice; give each archive a name of its own")
        found[name] = Path(path)
    return found


def fits_in_setting(name: str, root: Path) -> bool:
    """Tell whether an archive can be written in ``BONESCREEN_ARCHIVES`` and read back unchanged."""
    text = f"{name}={root}"
    try:
        text.encode()
        return "\n" not in text and parse_archives(text) == {name: root}
    except (UnicodeEncodeError, UsageError):
        return False


def is_archive_name(name: str) -> bool:
    """Tell whether a text is a valid archive name: letters, digits, dot, dash and underscore."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) is not None


def _home(text: str) -> Path:
    try:
        home = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"BONESCREEN_HOME={text!r}: this host has no such user; choose another folder") from error
    # It becomes part of two URLs, which libraries do not all quote in the same way.
    if any(character in "?#%" or not character.isprintable() for character in str(home)):
        raise UsageError(f"BONESCREEN_HOME: {str(home)!r} has a '?', '#', '%' or unprintable character; choose another")
    return home


def _broker_url(url: str | None) -> str | None:
    if url is None:
        return None
    if not url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise UsageError("BONESCREEN_BROKER_URL must begin with redis://, rediss:// or redis+socket://; correct it")
    # The URL is not shown, as the wrong part may be its password.
    wrong = UsageError(
        "BONESCREEN_BROKER_URL is not the URL of a broker; write redis://user:password@host:6379/0 with any special "
        "character of the password as %XX, or redis+socket:///path"
    )
    try:
        parts = urlsplit(url)
        # Reading the port raises an error if it is not a number.
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
    raise UsageError(f"BONESCREEN_ENGINE is {text!r}; it must be one of {', '.join(ENGINES)}")


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
            f"BONESCREEN_PSEUDONYM_KEY has {len(text)} characters and needs at least {MIN_KEY_LENGTH}; "
            "make one with: openssl rand -hex 32"
        )
    return text.encode(errors="surrogateescape")


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
        raise UsageError("BONESCREEN_FLOWER_PASSWORD must be printable ASCII without blanks")
    return text


def _is_plain(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None
