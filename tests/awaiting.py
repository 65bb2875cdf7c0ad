"""Wait for a condition, in place of sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02

PATIENCE = 8
"""How many times longer anything may take than on an idle machine: only what is broken takes all of it."""


def await_that(condition: Callable[[], T | None], seconds: float, what: str, *, patience: float = PATIENCE) -> T:
    """Poll until a condition returns something true, and return that; fail after `seconds`, times `patience`."""
    deadline = time.monotonic() + seconds * patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds * patience:.0f} s: {what}"
        time.sleep(POLL_SECONDS)
    return value
