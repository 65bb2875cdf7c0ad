"""A watchdog that ends a hung child process, as its batch would never finish."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from db.ledger import BatchImage

TIMEOUT_SECONDS = 120.0
"""The slowest image to decode, of 100 million pixels on a busy machine, took 20 s."""

SLOW_SECONDS = 30.0
"""An image that takes longer to load is reported as a problem."""

CHECK_SECONDS = 5.0

LAST_WORD_SECONDS = 30.0
"""How long a process that is hung may take to count the images that it waits for."""

# The file descriptor: Celery replaces `sys.stderr` by a logger, which C code cannot write to.
STANDARD_ERROR = 2

_in_work: dict[int, tuple[BatchImage | None, float]] = {}
"""The image that each thread reads or decodes (None: it infers), and since when (monotonic clock)."""


@contextmanager
def in_work(image: BatchImage | None) -> Iterator[None]:
    """Tell the watchdog that this thread reads or decodes an image, or infers (None), within the block."""
    thread = threading.get_ident()
    _in_work[thread] = (image, time.monotonic())
    try:
        yield
    finally:
        del _in_work[thread]


def slow_images(seconds: float) -> list[BatchImage]:
    """List the images that have been read or decoded for longer than some seconds."""
    return [image for image in _slow(seconds) if image is not None]


def _slow(seconds: float) -> list[BatchImage | None]:
    now = time.monotonic()
    return [image for image, since in list(_in_work.values()) if now - since > seconds]


def slow_work() -> str | None:
    """Say that an image is loaded, or that the engine infers, for longer than `SLOW_SECONDS`, or return None."""
    slow = _slow(SLOW_SECONDS)
    for image in slow:
        if image is not None:
            return f"an image has not ended to load for {SLOW_SECONDS:.0f} s ({image.path}): does its storage answer?"
    return f"the engine has not answered for {SLOW_SECONDS:.0f} s: does its device work?" if slow else None


def start_watchdog(
    last_word: Callable[[Sequence[BatchImage]], object],
    beat: Callable[[], object],
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Start a thread that ends this process (exit code 1) when it is hung.

    A process is hung if an image takes longer than `timeout_seconds` to read or to decode, if an inference does, or if
    no Python code runs for that long: a dead network mount or device never answers, some damaged images make CharLS
    loop forever, and some decoders keep the GIL meanwhile. The Celery parent then starts another child. A traceback of
    each thread goes to standard error: function names and line numbers, no values.

    Parameters
    ----------
    last_word : callable
        Called, in a thread that gets `LAST_WORD_SECONDS`, with the images that take too long, to count them; with none
        if an inference does, which is no image's fault. If no
        Python code runs, nobody can call it: then the batch's lease expires, and the feeder recovers it.
    beat : callable
        Called at each check.
    timeout_seconds : float
    """

    def check() -> None:
        while True:
            beat()
            # This timer runs in C and needs no GIL to fire; every check restarts it.
            faulthandler.dump_traceback_later(timeout_seconds, exit=True, file=STANDARD_ERROR)
            if _slow(timeout_seconds):
                faulthandler.dump_traceback(file=STANDARD_ERROR)
                counting = threading.Thread(target=last_word, args=(slow_images(timeout_seconds),), daemon=True)
                counting.start()
                counting.join(LAST_WORD_SECONDS)
                os._exit(1)
            pause.wait(min(CHECK_SECONDS, timeout_seconds / 4))

    pause = threading.Event()
    threading.Thread(target=check, name="watchdog", daemon=True).start()
