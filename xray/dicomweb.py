"""A DICOMweb service (PS3.18): its URL, and the credentials and certificates that a file has for it.

No credentials are ever in a URL, as that is stored with the archive, shown and logged. Requests to a service are made
in `xray.archives.dicomweb`.
"""

import logging
import os
import re
import ssl
import threading
import tomllib
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from xray.errors import ArchiveOutage, UsageError

if TYPE_CHECKING:
    from requests import PreparedRequest, Session

PREFIX = "dicomweb+"

CONNECT_SECONDS = 10.0
"""How long a service may take to accept a connection."""

PATIENCE_SECONDS = 90.0
"""How long one request, with what is tried again, may take: less than the worker's watchdog waits for an image."""

CONNECTIONS = 16
"""Connections to a service that a process keeps open."""

ACCESS_KEYS = frozenset(
    {"user", "password", "password_variable", "token_file", "ca_file", "certificate_file", "plain_http"}
)
"""What ``BONESCREEN_DICOMWEB`` may say of a service."""


@dataclass(frozen=True)
class DicomWebService:
    """A DICOMweb service.

    Parameters
    ----------
    url : str
        ``https://host/path``, or ``http://``; without credentials, query and slash at the end.
    access : Path or None
        The file of ``BONESCREEN_DICOMWEB``, see `Access`. It is read again when it changes.
    patience : float
        Seconds that one request may take.
    """

    url: str
    access: Path | None = field(default=None, repr=False, compare=False)
    patience: float = field(default=PATIENCE_SECONDS, repr=False, compare=False)

    def __str__(self) -> str:
        """Return it as ``BONESCREEN_ARCHIVES`` names it: ``dicomweb+https://host/path``."""
        return PREFIX + self.url

    @property
    def name(self) -> str:
        """The host, with its port if the URL has one: what the service's archive is called by default."""
        return urlsplit(self.url).netloc

    def session(self) -> "Session":
        """Return this process's session: it has the service's credentials and certificates, and keeps connections.

        Raises
        ------
        ArchiveOutage
            The file of the credentials, or one that it names, cannot be used.
        """
        try:
            return _session(self)
        except UsageError as error:
            # It was right when the process started, so that it may soon be right again.
            raise ArchiveOutage(str(error)) from error


@dataclass(frozen=True)
class Access:
    """What a TOML file says of a service, in a table with the service's URL as its name.

    Parameters
    ----------
    user, password : str or None
        For HTTP's basic authentication.
    password_variable : str or None
        The environment variable that holds the password, in place of `password`.
    token_file : str or None
        A file with a bearer token (RFC 6750), read for each request, as tokens are renewed.
    ca_file : str or None
        Certificates (PEM) of the authorities that may vouch for the service, in place of the public ones.
    certificate_file : str or None
        This client's certificate with its key (PEM, not encrypted).
    plain_http : bool
        Whether the service may be asked without encryption though it is not on this host.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    password_variable: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    plain_http: bool = False


def is_service(text: str) -> bool:
    """Tell whether the text of an archive's root names a DICOMweb service."""
    return text.startswith(PREFIX)


def parse_service(text: str, access: Path | None = None) -> DicomWebService:
    """Read ``dicomweb+https://host/path``.

    Parameters
    ----------
    text : str
    access : Path or None
        The file of ``BONESCREEN_DICOMWEB``.

    Raises
    ------
    UsageError
        It is not such a URL, it has credentials, which the text does not show, or it would send patients' data over a
        network in the clear.
    """
    try:
        parts = urlsplit(text.removeprefix(PREFIX))
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if "@" in text:
        raise UsageError(
            "the URL of a DICOMweb service has a '@', as if it held a password; leave the user and the password out of "
            "it, and write them into the file that BONESCREEN_DICOMWEB names (docs/dicomweb.md)"
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not _is_plain(text):
        raise UsageError(f"{text!r} is not the URL of a DICOMweb service; write dicomweb+https://host/dicom-web")
    name = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    service = DicomWebService(url, access)
    if parts.scheme == "http" and not _is_loopback(host) and not read_access(service).plain_http:
        raise UsageError(
            f"{service} would send patients' data, and any password, over the network in the clear; use "
            "dicomweb+https://, or allow it by plain_http = true in the file that BONESCREEN_DICOMWEB names "
            "(docs/dicomweb.md)"
        )
    return service


def read_access(service: DicomWebService) -> Access:
    """Read what the file of ``BONESCREEN_DICOMWEB`` says of a service.

    Raises
    ------
    UsageError
        The file, or one that it names, cannot be read, or is not as `Access` describes; never shows a value.
    """
    if service.access is None:
        return Access()
    wrong = f"BONESCREEN_DICOMWEB: {service.access}"
    try:
        tables = tomllib.loads(service.access.read_text())
    except OSError as error:
        raise UsageError(f"{wrong} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The library's text shows what it could not read, which may be the password.
        raise UsageError(f"{wrong} is not a TOML file; see docs/dicomweb.md") from None
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f'{wrong} has {url!r} outside a table; write it below a line ["https://host/path"]')
        if _same_url(url, service.url):
            return _checked(table, f"{wrong}, {url}")
    return Access()


def _same_url(text: str, url: str) -> bool:
    """Tell whether a table's name is a service's URL, however its host is written."""
    scheme, slashes, rest = text.removeprefix(PREFIX).partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host}".lower() + f"{slash}{path}".rstrip("/") == url


def _checked(table: dict[str, Any], where: str) -> Access:
    if unknown := sorted(table.keys() - ACCESS_KEYS):
        raise UsageError(f"{where}: {unknown[0]!r} is unknown; there may be {', '.join(sorted(ACCESS_KEYS))}")
    for key, value in table.items():
        if not isinstance(value, bool if key == "plain_http" else str):
            raise UsageError(f"{where}: {key} must be {'true or false' if key == 'plain_http' else 'a text'}")
    access = Access(**table)
    if access.password_variable is not None:
        if access.password is not None:
            raise UsageError(f"{where}: it has both a password and a password_variable; remove one of them")
        access = replace(access, password=os.environ.get(access.password_variable))
        if not access.password:
            raise UsageError(f"{where}: the environment has no {access.password_variable}, or an empty one")
    if (access.user is None) != (access.password is None):
        raise UsageError(f"{where}: user and password need each other")
    if access.user is not None and access.token_file is not None:
        raise UsageError(f"{where}: it has both a password and a token_file; remove one of them")
    for path in filter(None, (access.token_file, access.ca_file, access.certificate_file)):
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            raise UsageError(f"{where}: {path} cannot be read")
    _require_certificates(access, where)
    return access


def _require_certificates(access: Access, where: str) -> None:
    # The library tells no such file from a service that is not trusted, and asks a terminal for a key's password.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if access.ca_file is not None:
            context.load_verify_locations(access.ca_file)
    except ssl.SSLError:
        raise UsageError(f"{where}: {access.ca_file} holds no certificates (PEM)") from None
    try:
        if access.certificate_file is not None:
            context.load_cert_chain(access.certificate_file, password="")
    except ssl.SSLError:
        raise UsageError(
            f"{where}: {access.certificate_file} does not hold a certificate with its key (PEM, not encrypted)"
        ) from None


def _is_plain(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None and "," not in text


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_sessions: dict[tuple[str, Path | None, int], tuple[tuple[int, ...], "Session"]] = {}
_sessions_lock = threading.Lock()


def _session(service: DicomWebService) -> "Session":
    # By process, as two that share a connection after a fork would mix up their answers.
    key = service.url, service.access, os.getpid()
    try:
        status = None if service.access is None else service.access.stat()
    except OSError as error:
        raise UsageError(f"BONESCREEN_DICOMWEB: {service.access} cannot be read ({error.strerror})") from error
    # With its size, as a file may be written twice within what its time tells apart.
    version = () if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
    with _sessions_lock:
        known = _sessions.get(key)
        if known is None or known[0] != version:
            known = _sessions[key] = version, _new_session(service)
        return known[1]


def _new_session(service: DicomWebService) -> "Session":
    # Imported here, as it takes a tenth of a second, and most archives are folders.
    from requests import Session
    from requests.adapters import HTTPAdapter
    from requests.auth import HTTPBasicAuth

    access = read_access(service)
    # Its warnings have the URLs of studies.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    session = Session()
    # Neither a proxy nor a ~/.netrc of this host's environment: patients' data go to the configured service alone.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount(service.url, HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS))
    session.headers["User-Agent"] = "bonescreen"
    session.verify = access.ca_file or True
    session.cert = access.certificate_file
    if access.user is not None and access.password is not None:
        session.auth = HTTPBasicAuth(access.user.encode(), access.password.encode())
    elif access.token_file is not None:
        token_file = Path(access.token_file)
        session.auth = lambda request: _with_token(request, token_file)
    return session


def _with_token(request: "PreparedRequest", token_file: Path) -> "PreparedRequest":
    try:
        token = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise ArchiveOutage(f"the token file {token_file} cannot be read") from None
    if not token or not re.fullmatch(r"[!-~]+", token):
        raise ArchiveOutage(f"the token file {token_file} does not hold one token")
    request.headers["Authorization"] = f"Bearer {token}"
    return request
