"""A watchdog that ends a hung child process, as its batch would never finish."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_SECONDS = 120.0
"""The slowest image to decode, of 100 million pixels on a busy machine, took 20 s."""

CHECK_SECONDS = 5.0

# The file descriptor: Celery replaces `sys.stderr` by a logger, which C code cannot write to.
STANDARD_ERROR = 2

_decoding: dict[int, float] = {}
"""The threads that are decoding an image, and since when (monotonic clock)."""


@contextmanager
def decoding() -> Iterator[None]:
    """Tell the watchdog that this thread decodes an image within the block."""
    thread = threading.get_ident()
    _decoding[thread] = time.monotonic()
    try:
        yield
    finally:
        del _decoding[thread]


def start_watchdog(timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Start a thread that ends this process (exit code 1) when it is hung.

    A process is hung if an image takes longer than `timeout_seconds` to decode, or if no Python code runs for that
    long: some damaged images make CharLS loop forever, and some decoders keep the GIL meanwhile. The Celery parent
    then starts another child, and the feeder recovers the batch and finally quarantines the image. A traceback of each
    thread goes to standard error: function names and line numbers, no values.
    """

    def check() -> None:
        while True:
            # This timer runs in C and needs no GIL to fire; every check restarts it.
            faulthandler.dump_traceback_later(timeout_seconds, exit=True, file=STANDARD_ERROR)
            if any(time.monotonic() - since > timeout_seconds for since in list(_decoding.values())):
                faulthandler.dump_traceback(file=STANDARD_ERROR)
                os._exit(1)
            pause.wait(min(CHECK_SECONDS, timeout_seconds / 4))

    pause = threading.Event()
    threading.Thread(target=check, name="watchdog", daemon=True).start()
