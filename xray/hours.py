"""The hours of the day in which archives may be read, such as the night (``BONESCREEN_HOURS``)."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from xray.errors import UsageError


@dataclass(frozen=True)
class Hours:
    """A part of each day by this machine's clock; it may go over midnight.

    Parameters
    ----------
    start, end : time
        From when and until when; the end is excluded.
    """

    start: time
    end: time

    def includes(self, now: datetime) -> bool:
        """Return whether a local time is within the hours."""
        if self.start < self.end:
            return self.start <= now.time() < self.end
        return now.time() >= self.start or now.time() < self.end

    def seconds_until_start(self, now: datetime) -> float:
        """Return the seconds from a local time until the hours begin; 0 within them."""
        if self.includes(now):
            return 0.0
        start = datetime.combine(now.date(), self.start)
        return ((start if start > now else start + timedelta(days=1)) - now).total_seconds()


def parse_hours(text: str) -> Hours:
    """Read hours such as ``19:00-07:00``.

    Raises
    ------
    UsageError
        The text does not have that form, or the hours would be empty.
    """
    parts = re.fullmatch(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)", text.strip(), re.ASCII)
    if parts is not None:
        numbers = [int(number) for number in parts.groups()]
        if max(numbers[::2]) < 24 and max(numbers[1::2]) < 60 and numbers[:2] != numbers[2:]:
            return Hours(time(numbers[0], numbers[1]), time(numbers[2], numbers[3]))
    raise UsageError(f"BONESCREEN_HOURS={text!r} must be of the form 19:00-07:00, from 0:00 to 23:59")
