"""Store DICOM objects in a DICOMweb service: STOW-RS (PS3.18 10.5), one object in each request.

One at a time, as the answer to several may be one error without saying which it is about.
"""

import json
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xray.archives.pauses import BUSY, BUSY_SECONDS, keep_pause, pause_of
from xray.dicomweb import CONNECT_SECONDS, DicomWebService
from xray.errors import ArchiveOutage

if TYPE_CHECKING:
    from requests import Response

MAX_PAUSED_SECONDS = 300.0
"""How long one object may wait in all for a service that is busy."""

JSON = "application/dicom+json"
_FAILED, _REFERENCED = "00081198", "00081199"
_INSTANCE, _REASON, _WARNING = "00081155", "00081197", "00081196"

REASONS = {
    0x0110: "it could not process it",
    0x0117: "the UID of the object is not valid",
    0x0122: "it does not take objects of this SOP class",
    0x0124: "these credentials may not store",
    0xA700: "it is out of resources",
    0xA900: "the object does not fit its SOP class",
    0xC000: "it cannot understand the object",
    0xC122: "it does not take this transfer syntax",
}
"""What services say of an object that they refuse (PS3.18 table 10.5.3-1, PS3.4 annex B.2.3)."""

ALREADY_STORED = frozenset({0x0111, 0xB00E})
"""What services say of an object that they have: *duplicate SOP instance* (PS3.7 annex C), or Microsoft's own code."""

WARNINGS = {
    0xB000: "it has changed elements of it",
    0xB006: "it has left out elements of it",
    0xB007: "the object does not fit its SOP class",
}

_STATUSES = {
    400: "it does not understand the request",
    409: "it refuses the object",
    413: "the object is too large for it",
    415: "it does not take such objects",
    500: "it fails at the object",
}


class Refused(Exception):
    """A service does not store an object; the text says why and reads on from "refused: "."""


def store(service: DicomWebService, sop_instance: str, data: bytes, say: Callable[[str], object]) -> str | None:
    """Send one object to a service, and check that it has it; while the service is busy, wait.

    Parameters
    ----------
    service : DicomWebService
    sop_instance : str
        Its SOP Instance UID.
    data : bytes
        The file.
    say : callable
        Takes a line that says what is waited for, and how long at most.

    Returns
    -------
    str or None
        What the service warns of; None if nothing. That it has the object already is no warning.

    Raises
    ------
    Refused
        It refuses this object.
    ArchiveOutage
        It does not answer, is busy for too long, or refuses these credentials: it would not take the next object
        either.
    """
    response = _post_in_turn(service, data, say)
    items = _answer(response)
    for item in items.get(_FAILED, []):
        if _text(item, _INSTANCE) in (sop_instance, ""):
            if _number(item, _REASON) in ALREADY_STORED:
                # With this UID it can only be the same object.
                return None
            raise Refused(_reason(item, _REASON, REASONS))
    if not 200 <= response.status_code < 300:
        raise Refused(f"{_STATUSES.get(response.status_code, 'an error')} (HTTP {response.status_code})")
    for item in items.get(_REFERENCED, []):
        if _text(item, _INSTANCE) == sop_instance:
            return _reason(item, _WARNING, WARNINGS) if _WARNING in item else None
    if response.status_code == 200:
        return None
    raise Refused(f"it does not say that it has stored it (HTTP {response.status_code})")


def _post_in_turn(service: DicomWebService, data: bytes, say: Callable[[str], object]) -> "Response":
    until, otherwise, waited = time.monotonic() + MAX_PAUSED_SECONDS, BUSY_SECONDS, False
    while True:
        if pause := pause_of(service, until):
            if not waited:
                say(f"{service} is busy: waiting as it asks, {MAX_PAUSED_SECONDS:.0f} s at most")
            time.sleep(pause)
            waited = True
        response = _post(service, data)
        if response.status_code not in BUSY:
            return response
        keep_pause(service, response.headers.get("Retry-After", ""), otherwise)
        # An object of some megabytes is not sent every second.
        otherwise *= 2


def _post(service: DicomWebService, data: bytes) -> "Response":
    from requests import RequestException

    boundary = uuid.uuid4().hex.encode()
    body = b"\r\n".join(
        [b"--" + boundary, b"Content-Type: application/dicom", b"", data, b"--" + boundary + b"--", b""]
    )
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary.decode()}',
        "Accept": JSON,
    }
    try:
        # To another address, a patient's data would go where nobody has said.
        response = service.session().post(
            f"{service.url}/studies",
            data=body,
            headers=headers,
            timeout=(CONNECT_SECONDS, service.patience),
            allow_redirects=False,
        )
    except RequestException as error:
        raise ArchiveOutage(f"{service} does not answer ({type(error).__name__}); try again later") from error
    status = response.status_code
    if status in (401, 403):
        raise ArchiveOutage(
            f"{service} refuses these credentials (HTTP {status}); correct them in the file that BONESCREEN_DICOMWEB "
            "names"
        )
    if status in (404, 405, 501) or 300 <= status < 400:
        raise ArchiveOutage(f"{service} stores nothing at this address (HTTP {status}); check it with --store")
    if status == 200 and response.headers.get("Content-Type", "").lower().startswith("text/html"):
        # As a sign-in before the service does.
        raise ArchiveOutage(f"{service} answers with a web page and stores nothing; check its address and credentials")
    # 500 may be the fault of one object, for which the others are not to wait.
    if status > 500 and status not in BUSY:
        raise ArchiveOutage(f"{service} takes nothing now (HTTP {status}); try again later: what it has, it keeps")
    return response


def _answer(response: "Response") -> dict[str, list[dict[str, Any]]]:
    """Return the sequences of a service's answer; none if it is not JSON as PS3.18 annex F has it."""
    try:
        answer = json.loads(response.content)
    except ValueError:
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for data_set in answer if isinstance(answer, list) else [answer]:
        for tag in (_FAILED, _REFERENCED):
            element = data_set.get(tag) if isinstance(data_set, dict) else None
            items = element.get("Value") if isinstance(element, dict) else None
            found.setdefault(tag, []).extend(item for item in items or [] if isinstance(item, dict))
    return found


def _text(item: dict[str, Any], tag: str) -> str:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _number(item: dict[str, Any], tag: str) -> int:
    text = _text(item, tag)
    return int(text) if text.isascii() and text.isdigit() else 0


def _reason(item: dict[str, Any], tag: str, known: dict[int, str]) -> str:
    code = _number(item, tag)
    # Of the codes A9xx and Cxxx, the last digits are the service's own.
    words = known.get(code) or known.get(code & 0xFF00) or known.get(code & 0xF000) or "it does not say why"
    return f"{words} ({code:04X})"
