"""``python -m producer``: run the feeder until SIGTERM or SIGINT."""

import logging
import os
import queue
import signal
import sys
import threading
from concurrent.futures import Future

from db.session import Database
from producer.feeder import Feeder
from producer.transport import Transport
from xray.errors import BonescreenError, UsageError
from xray.log_lines import configure_logging
from xray.printable import escape_unprintable
from xray.settings import Settings, read_settings

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""How long the round in work may take to end: less than a supervisor waits until it kills the feeder."""


def run_feeder(settings: Settings) -> None:
    """Run the feeder until SIGTERM or SIGINT.

    Raises
    ------
    UsageError
        No broker is configured, or the database needs ``bonescreen db upgrade``.
    """
    if settings.broker_url is None:
        raise UsageError(
            "set BONESCREEN_BROKER_URL for the feeder; `bonescreen screen` starts a broker and a feeder of its own"
        )
    configure_logging(settings, "feeder")
    feeder = Feeder(Database(settings.effective_database_url), Transport(settings.broker_url), settings)
    stop, ended = threading.Event(), Future[None]()
    woken = queue.SimpleQueue[object]()
    ended.add_done_callback(woken.put)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: woken.put(None))
    # In a thread of its own, as no signal interrupts the lookup of a host name. It takes 20 s and more when no server
    # of names answers; a container's name is gone as soon as the container has stopped.
    threading.Thread(target=_run, args=(feeder, stop, ended), daemon=True).start()
    woken.get()
    stop.set()
    try:
        ended.result(STOP_SECONDS)
    except TimeoutError:
        # Like a killed one: whatever it was about to do, another feeder does.
        log.warning("ended in the middle of a round, which waits for the broker or the database")


def _run(feeder: Feeder, stop: threading.Event, ended: "Future[None]") -> None:
    try:
        feeder.run(stop)
    except BaseException as error:
        ended.set_exception(error)
    else:
        ended.set_result(None)


def main() -> int:
    """Run the feeder; return the exit code."""
    try:
        run_feeder(read_settings(os.environ))
    except BonescreenError as error:
        print(f"error: {escape_unprintable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
