"""End a child that a library in C keeps from running: neither its lease nor its work would ever go on."""

import faulthandler
import threading

HANG_SECONDS = 60.0
"""The longest that a decoder was seen to hold Python's lock is 20, for 100 million pixels on a busy machine."""

LOOK_SECONDS = 5.0

# By its number: Celery puts a log in the place of `sys.stderr`, to which C cannot write.
STANDARD_ERROR = 2


def end_when_hung(hang_seconds: float = HANG_SECONDS) -> None:
    """Have this process end (exit code 1) when no Python has run in it for so many seconds.

    Its parent starts another one, and the feeder takes the batch back. Where each thread stood goes to standard error:
    names of functions and lines of code, and no values.
    """

    def look() -> None:
        while True:
            # The alarm is in C, and so needs no lock of Python's to go off; each look puts it off.
            faulthandler.dump_traceback_later(hang_seconds, exit=True, file=STANDARD_ERROR)
            pause.wait(min(LOOK_SECONDS, hang_seconds / 4))

    pause = threading.Event()
    threading.Thread(target=look, name="hang", daemon=True).start()
