"""A thread of the Celery parent that ends a worker which no longer works; whatever supervises it starts it again."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
from celery import Celery
from celery.worker import state
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as KombuOperationalError

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0

QUIET_PROBLEM_SECONDS = 30.0
"""If messages have waited for so long and none was received, the worker reports a problem."""

QUIET_END_SECONDS = 60.0
"""After so long, it ends. Longer than Celery's pauses between two attempts to reach the broker, of 32 s at most."""

SILENT_CHILD_SECONDS = 180.0
"""A child that the watchdog did not end by then cannot end, as the kernel waits for its storage."""


PAUSED_SECONDS = 30.0
"""If the last check is longer ago than that, the machine was paused, and the child too."""


class ParentWatch:
    """Ends the Celery parent, and thereby its child, when one of them no longer works.

    - Celery's consumer sometimes receives nothing more after its connection to the broker broke, without an error.
    - A child whose thread waits for a dead network mount cannot even be killed, and Celery waits for it.

    Parameters
    ----------
    app : Celery
        The worker's.
    queues : sequence of str
        The queues that it consumes.
    quiet_since : multiprocessing value of float
        Set here for the child, which reports it: since when (monotonic clock) messages wait that the consumer does not
        receive; 0 if they do not.
    child_checked_at : multiprocessing value of float
        Set by the child's watchdog: when it checked last (monotonic clock); 0 before the first time.
    """

    def __init__(self, app: Celery, queues: Sequence[str], quiet_since: Any, child_checked_at: Any) -> None:
        self._app = app
        self._queues = queues
        self._quiet_since = quiet_since
        self._child_checked_at = child_checked_at
        self._received = -1
        self._stop = threading.Event()

    def start(self, **_: object) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="parent-watch", daemon=True).start()

    def stop(self, **_: object) -> None:
        """Stop it: a worker that shuts down receives nothing more."""
        self._stop.set()

    def _run(self) -> None:
        last = resumed = time.monotonic()
        while not self._stop.wait(CHECK_SECONDS):
            now = time.monotonic()
            if now - last > PAUSED_SECONDS:
                resumed = now
            last = now
            quiet = self._is_quiet()
            self._quiet_since.value = (self._quiet_since.value or now) if quiet else 0.0
            if quiet and now - self._quiet_since.value > QUIET_END_SECONDS:
                log.error("messages wait, and Celery's consumer receives none: this worker ends, to be started again")
                os._exit(1)
            checked = self._child_checked_at.value
            if checked and now - max(checked, resumed) > SILENT_CHILD_SECONDS:
                log.error("the child process does not end although it is hung: this worker ends, to be started again")
                os._exit(1)

    def _is_quiet(self) -> bool:
        """Return whether messages wait although the child is idle and nothing was received since the last check."""
        received = state.total_count.total()
        unchanged = received == self._received and not state.reserved_requests and not state.active_requests
        self._received = received
        return unchanged and self._waiting() > 0

    def _waiting(self) -> int:
        try:
            with self._app.connection_for_read() as connection:
                return sum(connection.default_channel.client.llen(queue) for queue in self._queues)
        except (redis.RedisError, KombuError, KombuOperationalError, OSError):
            return 0


def quiet_problem(quiet_since: float) -> str | None:
    """Say that the consumer has been quiet for `QUIET_PROBLEM_SECONDS`, or return None."""
    if quiet_since and time.monotonic() - quiet_since > QUIET_PROBLEM_SECONDS:
        return "messages wait in its queue, but it receives none; it ends and is started again"
    return None
