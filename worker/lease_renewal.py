"""The lease renewal of a worker child: a thread that renews the leases of its batches and sends heartbeats."""

import logging
import os
import threading
import time
from collections.abc import Callable

from db.heartbeats import Activity, record_heartbeat, remove_heartbeat
from db.ledger import Claim, renew_lease
from db.session import Database
from xray.errors import Outage
from xray.message import RENEW_SECONDS

log = logging.getLogger(__name__)

PROBLEM_SECONDS = 30.0
"""How long a problem is reported; longer than any pause between two attempts (``worker.pipeline.RETRY_SECONDS``)."""


BUSY = (Activity.LOADING, Activity.OUTSIDE_HOURS)
"""What a worker does without a batch."""


class LeaseRenewer:
    """Every `RENEW_SECONDS`, renews the leases of the batches in work and sends a heartbeat, in a thread of its own.

    A new activity is recorded at once. A worker that has no batch when a heartbeat is due is idle.

    It also ends the process if the Celery parent is gone, as nothing would ever shut this child down.

    Parameters
    ----------
    database : Database
        This process's own.
    name, queues, precisions : str
        The heartbeat's name (``worker:process id``), queues and precisions.
    parent : int
        Process id of the Celery parent.
    notice : callable
        Asked before each heartbeat for a problem that the work itself cannot report, while it waits.
    end_process : callable
        Called with the exit code when the parent is gone.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        queues: str,
        precisions: str,
        parent: int,
        notice: Callable[[], str | None] = lambda: None,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._problem: tuple[str, float] | None = None
        self._activity = Activity.STARTING
        self._recorded: Activity | None = None
        self._database = database
        self._name = name
        self._queues, self._precisions = queues, precisions
        self._parent = parent
        self._notice = notice
        self._end_process = end_process
        self._claims: dict[Claim, threading.Event] = {}
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

    def add(self, claim: Claim) -> threading.Event:
        """Renew a claim's lease from now on; the event returned is set once the claim is lost."""
        lost = threading.Event()
        with self._lock:
            self._claims[claim] = lost
        self.activity = Activity.SCREENING
        return lost

    def remove(self, claim: Claim) -> None:
        """Renew a claim's lease no longer."""
        with self._lock:
            self._claims.pop(claim, None)

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
            claims = dict(self._claims)
            idle = not claims and self._recorded is not None and self._activity not in BUSY
            self._recorded = Activity.IDLE if idle else self._activity
            activity = self._recorded
        for claim, lost in claims.items():
            if not renew_lease(self._database, claim):
                lost.set()
        problem = self.problem or self._notice()
        record_heartbeat(self._database, self._name, "worker", self._queues, problem, activity, self._precisions)
