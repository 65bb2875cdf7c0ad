"""A worker child's pulse: one thread that renews the lease, reports health, and ends an orphan."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.heartbeats import record_heartbeat, remove_heartbeat
from db.ledger import Claim, renew_lease
from db.session import Database
from xray.errors import Outage
from xray.message import RENEW_SECONDS

log = logging.getLogger(__name__)

PROBLEM_SECONDS = 30.0
"""Longer than any pause between two tries at what is away (``worker.batch.PAUSE_SECONDS``)."""


class LeaseRenewer:
    """Beats every `RENEW_SECONDS` as long as the process lives.

    Parameters
    ----------
    database : Database
        This process's own.
    name, queue : str
        Who reports, and for which queue.
    parent : int
        Process id of the Celery parent; when it is gone, nobody would ever end this child.
    die : callable
        Called when the parent is gone.
    """

    def __init__(
        self, database: Database, name: str, queue: str, parent: int, die: Callable[[int], object] = os._exit
    ) -> None:
        self._problem: tuple[str, float] | None = None
        self._database = database
        self._name = name
        self._queue = queue
        self._parent = parent
        self._die = die
        self._held: Claim | None = None
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    @property
    def problem(self) -> str | None:
        """What this process waits for; forgotten when it was not said again for a while, as the trouble may be over.

        Without a batch to try, nobody here would find out.
        """
        if self._problem is None or time.monotonic() - self._problem[1] > PROBLEM_SECONDS:
            return None
        return self._problem[0]

    @problem.setter
    def problem(self, text: str | None) -> None:
        self._problem = None if text is None else (text, time.monotonic())

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def retire(self) -> None:
        """End the thread and take this process's heartbeat away."""
        self.stop()
        try:
            remove_heartbeat(self._database, self._name)
        except Outage as outage:
            log.warning("not signed off: %s", type(outage).__name__)

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[threading.Event]:
        """Renew a claim's lease within the block; the event yielded is set once the claim is lost."""
        with self._lock:
            self._held = claim
            self._lost = lost = threading.Event()
        try:
            yield lost
        finally:
            with self._lock:
                self._held = None

    def _run(self) -> None:
        while True:
            if os.getppid() != self._parent:
                self._die(1)
                return
            try:
                self._beat()
            # Whatever it is: without a pulse, each batch in work would be taken for lost from here on.
            except Exception as error:
                log.warning("no pulse: %s", type(error).__name__)
            if self._stop.wait(RENEW_SECONDS):
                return

    def _beat(self) -> None:
        with self._lock:
            held, lost = self._held, self._lost
        if held is not None and not renew_lease(self._database, held):
            lost.set()
        record_heartbeat(self._database, self._name, "worker", self._queue, self.problem)
