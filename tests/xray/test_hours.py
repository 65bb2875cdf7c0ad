"""The hours in which archives may be read."""

from datetime import datetime, time

import pytest

from xray.errors import UsageError
from xray.hours import Hours, parse_hours


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-30T{clock}")


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("19:00-07:00", ["19:00", "23:59", "00:00", "06:59"], ["07:00", "12:00", "18:59"]),
        ("9:30-17:00", ["09:30", "16:59"], ["09:29", "17:00", "00:00"]),
    ],
)
def test_hours_include_their_start_and_not_their_end_and_may_go_over_midnight(
    hours: str, inside: list[str], outside: list[str]
) -> None:
    parsed = parse_hours(hours)
    assert all(parsed.includes(at(clock)) for clock in inside)
    assert not any(parsed.includes(at(clock)) for clock in outside)


def test_one_waits_until_the_next_start() -> None:
    night = Hours(time(19), time(7))
    assert night.seconds_until_start(at("18:59:30")) == 30.0
    assert night.seconds_until_start(at("07:00")) == 12 * 3600.0
    assert night.seconds_until_start(at("23:00")) == 0.0
    assert Hours(time(1), time(2)).seconds_until_start(at("03:00")) == 22 * 3600.0


@pytest.mark.parametrize(
    "text", ["night", "19-7", "24:00-07:00", "19:60-07:00", "07:00-07:00", "19:00-07:00,12:00-13:00"]
)
def test_hours_that_cannot_be_read_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"BONESCREEN_HOURS=.* must be of the form 19:00-07:00"):
        parse_hours(text)
