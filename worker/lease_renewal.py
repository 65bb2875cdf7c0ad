"""The lease renewal of a worker child: a thread that renews the lease of the batch in work and sends heartbeats."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.heartbeats import Activity, record_heartbeat, remove_heartbeat
from db.ledger import Claim, renew_lease
from db.session import Database
from xray.errors import Outage
from xray.message import RENEW_SECONDS

log = logging.getLogger(__name__)

PROBLEM_SECONDS = 30.0
"""How long a problem is reported; longer than any pause between two attempts (``worker.batch.RETRY_SECONDS``)."""


class LeaseRenewer:
    """Every `RENEW_SECONDS`, renews the lease of the batch in work and sends a heartbeat, in a thread of its own.

    A new activity is recorded at once. A worker that has no batch when a heartbeat is due is idle.

    It also ends the process if the Celery parent is gone, as nothing would ever shut this child down.

    Parameters
    ----------
    database : Database
        This process's own.
    name, queue : str
        The heartbeat's name (``worker:process id``) and queue.
    parent : int
        Process id of the Celery parent.
    end_process : callable
        Called with the exit code when the parent is gone.
    """

    def __init__(
        self, database: Database, name: str, queue: str, parent: int, end_process: Callable[[int], object] = os._exit
    ) -> None:
        self._problem: tuple[str, float] | None = None
        self._activity = Activity.STARTING
        self._recorded: Activity | None = None
        self._database = database
        self._name = name
        self._queue = queue
        self._parent = parent
        self._end_process = end_process
        self._claim: Claim | None = None
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="lease-renewal", daemon=True)

    @property
    def problem(self) -> str | None:
        """What this process waits for, or None; a problem that was not set again for a while is dropped.

        It may be solved by then, which a worker without a batch would not notice.
        """
        if self._problem is None or time.monotonic() - self._problem[1] > PROBLEM_SECONDS:
            return None
        return self._problem[0]

    @problem.setter
    def problem(self, text: str | None) -> None:
        self._problem = None if text is None else (text, time.monotonic())

    @property
    def activity(self) -> Activity:
        """What this process does; a change is recorded at once."""
        return self._activity

    @activity.setter
    def activity(self, activity: Activity) -> None:
        with self._lock:
            self._activity = activity
            changed = activity is not self._recorded
        if changed:
            self._wake.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and remove this process's heartbeat."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        try:
            remove_heartbeat(self._database, self._name)
        except Outage as outage:
            log.warning("heartbeat not removed: %s", type(outage).__name__)

    @contextmanager
    def renewing(self, claim: Claim) -> Iterator[threading.Event]:
        """Renew a claim's lease within the block; the event yielded is set once the claim is lost."""
        with self._lock:
            self._claim = claim
            self._lost = lost = threading.Event()
        self.activity = Activity.SCREENING
        try:
            yield lost
        finally:
            with self._lock:
                self._claim = None

    def _run(self) -> None:
        while True:
            if os.getppid() != self._parent:
                self._end_process(1)
                return
            try:
                self._renew()
            # Any error: if this thread ended, every batch in work would from now on lose its lease.
            except Exception as error:
                log.warning("lease not renewed: %s", type(error).__name__)
            self._wake.wait(RENEW_SECONDS)
            if self._stop.is_set():
                return
            self._wake.clear()

    def _renew(self) -> None:
        with self._lock:
            claim, lost = self._claim, self._lost
            idle = claim is None and self._recorded is not None and self._activity is not Activity.LOADING
            self._recorded = Activity.IDLE if idle else self._activity
            activity = self._recorded
        if claim is not None and not renew_lease(self._database, claim):
            lost.set()
        record_heartbeat(self._database, self._name, "worker", self._queue, self.problem, activity)
