"""Requests to a DICOMweb service: search (QIDO-RS), metadata and instances (WADO-RS), PS3.18.

A request that fails is either the service's outage, which is waited for, or a fault of the one object that was asked
for. Where that is not clear, the service is asked for something else, and the request is repeated. No error holds a
URL of a study: it names the patient's study, and errors are logged.
"""

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from xray.archives.multipart import OVERHEAD_BYTES, DamagedMessage, content_of
from xray.archives.pauses import BUSY, keep_pause, pause_of
from xray.dicomweb import CONNECT_SECONDS, DicomWebService
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")

Metadata = Mapping[str, Any]
"""A data set in the DICOM JSON model (PS3.18 annex F): elements by their tags as eight hexadecimal digits."""

VERSION = (0, 1)
"""The version (`ArchiveFile.version`) of every instance: one whose pixels change gets a new UID (PS3.3 C.12.1.1.1)."""

ATTEMPTS = 3
"""How often a request is made that fails while the service answers others."""

ATTEMPT_PAUSE_SECONDS = 0.2

READ_SECONDS = 30.0
"""How long a service may send nothing."""

CHECK_SECONDS = 15.0
"""How long a service may take to show that it answers at all."""

MAX_PAUSED_SECONDS = 20.0
"""A request waits so long where a service asks for a pause; a longer one is an outage, until it is over."""

MAX_JSON_BYTES = 128 * 1024 * 1024
"""Of one answer in JSON: the metadata of some 20,000 instances."""

CHUNK_BYTES = 2**18

DICOM, JSON = "application/dicom", "application/dicom+json"
_ACCEPTED = {
    # The bytes as they are stored: any other transfer syntax would have to be made from them.
    DICOM: {"Accept": f'multipart/related; type="{DICOM}"; transfer-syntax=*', "Accept-Encoding": "identity"},
    JSON: {"Accept": f"{JSON}, application/json;q=0.5"},
}
_GONE = (404, 410)


class _Failed(Exception):
    """A request failed, and that may be the fault of what it asked for.

    Parameters
    ----------
    reason : Reason
    text : str
        What the service did: ``answers HTTP 500``.
    again : bool
        Whether it may be different the next time.
    foreign : bool
        Whether something else than a DICOMweb service may have answered, as at a wrong path.
    refused : bool
        Whether the connection was broken, as some services do to a client without a certificate.
    """

    def __init__(
        self, reason: Reason, text: str, *, again: bool = True, foreign: bool = False, refused: bool = False
    ) -> None:
        super().__init__(text)
        self.reason, self.text, self.again, self.foreign, self.refused = reason, text, again, foreign, refused


@dataclass(frozen=True)
class _Answer:
    """What a service answered; `has_end` if HTTP tells where it ends, so that it was not cut off."""

    content_type: str
    body: bytes
    has_end: bool


def read_instance(service: DicomWebService, path: str, max_bytes: int) -> bytes:
    """Retrieve an instance's DICOM file, in the transfer syntax in which it is stored.

    Parameters
    ----------
    service : DicomWebService
    path : str
        Study, Series and SOP Instance UID, with slashes between them.
    max_bytes : int
        Maximum size of the file; of a larger one no more is read.

    Returns
    -------
    bytes

    Raises
    ------
    FileFault
        The service does not have the instance, or fails to send it whole while it answers otherwise.
    ArchiveOutage
        The service does not answer, or answers nobody with these credentials.
    """
    study, series, instance = split_path(path)
    resource = f"studies/{quote(study)}/series/{quote(series)}/instances/{quote(instance)}"

    def attempt(deadline: float) -> bytes:
        answer = _ask(service, resource, DICOM, max_bytes=max_bytes + OVERHEAD_BYTES, deadline=deadline)
        try:
            content = content_of(answer.body, answer.content_type, DICOM)
            if content is answer.body and not answer.has_end:
                raise DamagedMessage("sent an instance without its length")
        except DamagedMessage as damage:
            raise _Failed(Reason.UNREADABLE, str(damage)) from None
        if len(content) > max_bytes:
            raise _Failed(Reason.TOO_LARGE, f"{len(content):,} bytes, the cap is {max_bytes:,}", again=False)
        return content

    return _persistently(service, attempt)


def read_metadata(service: DicomWebService, study: str, series: str | None = None) -> list[Metadata]:
    """Retrieve the metadata of a study's instances, or of a series'.

    Raises
    ------
    FileFault, ArchiveOutage
        As `read_instance`.
    """
    resource = f"studies/{quote(study)}" + (f"/series/{quote(series)}" if series else "") + "/metadata"
    return _persistently(service, lambda deadline: _ask_json(service, resource, (), deadline))


def search(service: DicomWebService, resource: str, query: Sequence[tuple[str, str]] = ()) -> list[Metadata]:
    """Search for studies, series or instances; a service may answer with fewer than it has.

    Parameters
    ----------
    service : DicomWebService
    resource : str
        ``studies``, or ``studies/UID/series``.
    query : sequence of (str, str)
        Names and values.

    Raises
    ------
    FileFault, ArchiveOutage
        As `read_instance`.
    """
    return _persistently(service, lambda deadline: _ask_json(service, resource, query, deadline))


def is_deleted(service: DicomWebService, path: str) -> bool:
    """Tell whether a service knows no more of an instance that it does not find; raise as `read_instance`."""
    study, series, instance = split_path(path)
    resource = f"studies/{quote(study)}/series/{quote(series)}/instances"
    try:
        return not search(service, resource, [("SOPInstanceUID", instance), ("limit", "1")])
    except FileFault as fault:
        # Some answer so for a series that they do not have.
        return fault.reason is Reason.VANISHED


def require_service(service: DicomWebService) -> None:
    """Raise `ArchiveOutage` unless a service answers, and has a study.

    An empty one counts as unavailable, like an empty folder: what it held may come back.
    """
    deadline = time.monotonic() + min(CHECK_SECONDS, service.patience)
    try:
        found = _ask_json(service, "studies", [("limit", "1")], deadline)
    except _Failed as failed:
        text = "is no DICOMweb service (HTTP 404): check its path" if failed.reason is Reason.VANISHED else failed.text
        hint = ": is it the URL of a DICOMweb service? check its path" if failed.foreign else ""
        if failed.refused and service.url.startswith("https:") and not service.session().cert:
            hint = (
                "; if it wants a client's certificate, name it as certificate_file in the file of BONESCREEN_DICOMWEB"
            )
        raise ArchiveOutage(f"the archive at {service} {text}{hint}") from None
    if not found:
        raise ArchiveOutage(f"the archive at {service} holds no study that this user may see")


def first_text(metadata: Metadata, tag: str) -> str:
    """Return the first value of an element as text, ``""`` if there is none."""
    element = metadata.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return str(first).strip() if isinstance(first, str | int) else ""


def split_path(path: str) -> tuple[str, str, str]:
    """Return the UIDs of an instance's path.

    Raises
    ------
    FileFault
        ``outside_archive``: it is no such path.
    """
    parts = path.split("/")
    if len(parts) != 3 or not all(map(is_uid, parts)):
        raise FileFault(Reason.OUTSIDE_ARCHIVE, "an instance's path is study/series/instance")
    return parts[0], parts[1], parts[2]


def is_uid(text: str) -> bool:
    """Tell whether a text can be a UID in a URL: PS3.5 allows digits and dots, and anonymisers write letters too."""
    plain = text.replace(".", "").replace("-", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and len(text) <= 128


def _persistently(service: DicomWebService, attempt: Callable[[float], T]) -> T:
    """Make a request until it succeeds; where it fails `ATTEMPTS` times while the service answers, it is a fault."""
    deadline = time.monotonic() + service.patience
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt(deadline)
        except _Failed as failed:
            last = failed
        if last.reason is Reason.TOO_LARGE:
            break
        require_service(service)
        if not last.again or number == ATTEMPTS or time.monotonic() > deadline:
            break
        time.sleep(ATTEMPT_PAUSE_SECONDS * number)
    raise FileFault(last.reason, f"the DICOMweb service {last.text}" if last.again else last.text)


def _ask_json(
    service: DicomWebService, resource: str, query: Sequence[tuple[str, str]], deadline: float
) -> list[Metadata]:
    answer = _ask(service, resource, JSON, query=query, max_bytes=MAX_JSON_BYTES, deadline=deadline)
    if not answer.body:
        return []
    kind = answer.content_type.partition(";")[0].strip().lower()
    try:
        found = json.loads(answer.body) if kind in (JSON, "application/json") else None
    except (ValueError, RecursionError):
        found = None
    # Some services send a single object without the array.
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _Failed(Reason.UNREADABLE, "sent no DICOM JSON", foreign=True)
    return found


def _ask(
    service: DicomWebService,
    resource: str,
    kind: str,
    *,
    query: Sequence[tuple[str, str]] = (),
    max_bytes: int,
    deadline: float,
) -> _Answer:
    paused = 0.0
    while True:
        pause = pause_of(service, min(deadline, time.monotonic() + MAX_PAUSED_SECONDS - paused))
        time.sleep(pause)
        paused += pause
        with _outages(service):
            response = service.session().get(
                f"{service.url}/{resource}",
                params=list(query),
                headers=_ACCEPTED[kind],
                stream=True,
                timeout=(CONNECT_SECONDS, max(1.0, min(READ_SECONDS, deadline - time.monotonic()))),
                allow_redirects=False,
            )
            with response:
                if response.status_code not in BUSY:
                    _check(service, response.status_code)
                    if response.status_code == 204:
                        return _Answer("", b"", has_end=True)
                    body, has_end = _body(response, max_bytes, deadline)
                    return _Answer(response.headers.get("Content-Type", ""), body, has_end)
                keep_pause(service, response.headers.get("Retry-After", ""))


def _body(response: "Response", max_bytes: int, deadline: float) -> tuple[bytes, bool]:
    """Return the body of an answer, and whether it has an end; of a body over the cap no more is read."""
    stated = response.headers.get("Content-Length", "")
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    plain = response.headers.get("Content-Encoding", "identity").lower() == "identity"
    length = int(stated) if re.fullmatch(r"[0-9]{1,18}", stated) and not chunked else None
    too_large = _Failed(Reason.TOO_LARGE, f"more than the cap of {max_bytes:,} bytes", again=False)
    if length is not None and length > max_bytes:
        raise too_large
    body = bytearray()
    # Whatever has come, as a full chunk of a service that sends little at a time may take longer than there is time.
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
        if time.monotonic() > deadline:
            raise _Failed(Reason.UNREADABLE, "did not come to the end of its answer in time")
    if length is not None and plain and len(body) != length:
        raise _Failed(Reason.UNREADABLE, "ended its answer too early")
    return bytes(body), chunked or length is not None


def _check(service: DicomWebService, status: int) -> None:
    """Raise what an answer's status means."""
    if status in (200, 204):
        return
    if status in (401, 407):
        say = "does not accept these credentials" if service.access else "wants credentials"
        raise ArchiveOutage(
            f"the archive at {service} {say} (HTTP {status}): check what the file of BONESCREEN_DICOMWEB has for it"
        )
    if 300 <= status < 400:
        raise ArchiveOutage(
            f"the archive at {service} is elsewhere (HTTP {status}), and no redirection is followed: write the "
            "service's own URL in BONESCREEN_ARCHIVES"
        )
    if status in _GONE:
        raise _Failed(Reason.VANISHED, "", again=False)
    if status == 403:
        raise _Failed(Reason.UNREADABLE, "does not let this user read it (HTTP 403)")
    # Orthanc answers 400 above its DICOMweb path.
    raise _Failed(Reason.UNREADABLE, f"answers HTTP {status}", foreign=status == 400)


@contextmanager
def _outages(service: DicomWebService) -> Iterator[None]:
    """Turn errors of the connection into an outage, or into a failure of the request if it was connected."""
    from requests import RequestException
    from requests.exceptions import ConnectTimeout, SSLError
    from urllib3.exceptions import HTTPError, NewConnectionError

    try:
        yield
    except (RequestException, HTTPError, OSError) as error:
        # Without the library's text and its chain, which have the URL.
        causes = list(_causes(error))
        why = next(filter(None, map(_reason, causes)), type(error).__name__)
        # A connection that ends without a word says nothing of certificates.
        if isinstance(error, SSLError) and not any(isinstance(cause, ssl.SSLEOFError) for cause in causes):
            raise ArchiveOutage(
                f"the archive at {service} and this host do not trust each other ({why}): check its certificate, and "
                "ca_file and certificate_file in the file of BONESCREEN_DICOMWEB (docs/dicomweb.md)"
            ) from None
        if isinstance(error, ConnectTimeout) or any(isinstance(cause, NewConnectionError) for cause in causes):
            raise ArchiveOutage(f"the archive at {service} does not answer: {why}") from None
        late = any(isinstance(cause, TimeoutError) for cause in causes)
        text = "sent nothing for too long" if late else f"broke the connection: {why}"
        raise _Failed(Reason.UNREADABLE, text, refused=not late) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        inner = (getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args)
        cause = next((one for one in inner if isinstance(one, BaseException)), None)


def _reason(error: BaseException) -> str | None:
    """Return what an error of the operating system or of TLS says: no address, and no URL."""
    verify: str | None = getattr(error, "verify_message", None)
    if verify:
        return verify
    return error.strerror if isinstance(error, OSError) and isinstance(error.errno, int) else None
