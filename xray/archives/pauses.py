"""The pauses that a busy DICOMweb service asks for, by HTTP 429 or 503: this process keeps them in all its requests."""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage

BUSY = (429, 503)
"""The statuses of answers that ask for a pause."""

BUSY_SECONDS = 1.0
"""The pause after an answer that does not say how long."""

MAX_RETRY_AFTER_SECONDS = 600.0
"""A service that asks for a longer pause is asked again after this one."""

_turns: dict[str, float] = {}
"""When (`time.monotonic`) services that asked for a pause may be asked again, by URL."""


def keep_pause(service: DicomWebService, retry_after: str, otherwise: float = BUSY_SECONDS) -> None:
    """Note that a service asks for a pause.

    Parameters
    ----------
    service : DicomWebService
    retry_after : str
        Its header Retry-After, which has a number of seconds or a date (RFC 9110 10.2.3).
    otherwise : float
        The pause, in seconds, where that does not say how long.
    """
    turn = time.monotonic() + _seconds(retry_after, otherwise)
    _turns[service.url] = max(_turns.get(service.url, 0.0), turn)


def pause_of(service: DicomWebService, until: float) -> float:
    """Return how many seconds a service is not to be asked.

    Parameters
    ----------
    service : DicomWebService
    until : float
        How long one is ready to wait (`time.monotonic`).

    Raises
    ------
    ArchiveOutage
        The pause ends later than that.
    """
    now = time.monotonic()
    turn = _turns.get(service.url, 0.0)
    if turn > max(now, until):
        raise ArchiveOutage(f"the archive at {service} is busy: it asks for a pause of {turn - now:.0f} s more")
    return max(0.0, turn - now)


def _seconds(retry_after: str, otherwise: float) -> float:
    if retry_after.strip().isdecimal():
        seconds = float(retry_after)
    else:
        try:
            seconds = (parsedate_to_datetime(retry_after).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            seconds = otherwise
    return min(max(seconds, BUSY_SECONDS), MAX_RETRY_AFTER_SECONDS)
