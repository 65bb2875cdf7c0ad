"""``python -m producer``: run the feeder until SIGTERM or SIGINT."""

import os
import signal
import sys
import threading

from db.session import Database
from producer.feeder import Feeder
from producer.transport import Transport
from xray.errors import BonescreenError, UsageError
from xray.log_lines import configure_logging
from xray.printable import escape_unprintable
from xray.settings import Settings, read_settings


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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Feeder(Database(settings.effective_database_url), Transport(settings.broker_url), settings).run(stop)


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
