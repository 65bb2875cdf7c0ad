"""End a child that a decoder never comes back to: its batch would never be done, here or anywhere."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HANG_SECONDS = 120.0
"""The longest that a film took to decode is 20, of 100 million pixels on a busy machine."""

LOOK_SECONDS = 5.0

# By its number: Celery puts a log in the place of `sys.stderr`, to which C cannot write.
STANDARD_ERROR = 2

_decoding: dict[int, float] = {}
"""Since when (monotonic clock) each thread has been decoding a film."""


@contextmanager
def decoding() -> Iterator[None]:
    """Mark this thread as decoding a film within the block."""
    thread = threading.get_ident()
    _decoding[thread] = time.monotonic()
    try:
        yield
    finally:
        del _decoding[thread]


def start_watchdog(hang_seconds: float = HANG_SECONDS) -> None:
    """Have this process end (exit code 1) when a film takes so many seconds to decode, or no Python runs for so long.

    There are damaged films that keep CharLS busy for ever, and decoders that hold Python's lock meanwhile. The parent
    starts another child, the feeder takes the batch back, and in the end the film is quarantined. Where each thread
    stood goes to standard error: names of functions and lines of code, and no values.
    """

    def look() -> None:
        while True:
            # This alarm is in C, and so needs no lock of Python's to go off; each look puts it off.
            faulthandler.dump_traceback_later(hang_seconds, exit=True, file=STANDARD_ERROR)
            if any(time.monotonic() - since > hang_seconds for since in list(_decoding.values())):
                faulthandler.dump_traceback(file=STANDARD_ERROR)
                os._exit(1)
            pause.wait(min(LOOK_SECONDS, hang_seconds / 4))

    pause = threading.Event()
    threading.Thread(target=look, name="hang", daemon=True).start()
