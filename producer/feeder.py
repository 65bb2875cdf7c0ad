"""The feeder: keeps the queues filled from the database, and recovers batches and scans of processes that died.

Any number of feeders may run at once: every step in the database is one guarded UPDATE, and a message more than needed
finds nothing to do.
"""

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass

from db.heartbeats import record_heartbeat, remove_heartbeat
from db.ledger import QueueWork, queues_with_work
from db.migrate import check
from db.recovery import recover_expired
from db.session import Database
from producer.abandoned_scans import AbandonedScans
from producer.transport import Transport
from xray.errors import BrokerOutage, DatabaseOutage, Outage, StorageOutage
from xray.message import LEASE_SECONDS, RENEW_SECONDS
from xray.settings import Settings

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0

HIGH_WATER = 64
"""Messages in a queue at most: enough to wake every worker up, each of which then goes on for a while."""

PAUSED_SECONDS = 15.0
"""If the last round is longer ago than that, workers get time to renew their leases."""


@dataclass(frozen=True)
class Round:
    """How many messages a round of the feeder sent, and how many batches of lost workers it recovered."""

    sent: int = 0
    recovered: int = 0


class Feeder:
    """Feed every queue of one database.

    Parameters
    ----------
    database : Database
    transport : Transport
    settings : Settings
        With the archive roots, which decide which abandoned scans this host can finish.
    """

    def __init__(self, database: Database, transport: Transport, settings: Settings) -> None:
        self._database = database
        self._transport = transport
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._grace_until = 0.0
        self._last_round_at = time.time()
        self._scans = AbandonedScans(database, settings, self._name)
        self.problem: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Do a round every `ROUND_SECONDS` until `stop` is set; wait while there is an outage.

        Raises
        ------
        UsageError
            The database needs ``bonescreen db upgrade``.
        """
        schema_checked = nodes_forgotten = False
        # What ended the previous feeder may also have kept workers from renewing their leases.
        self._grace_until = time.monotonic() + 2 * RENEW_SECONDS
        while not stop.is_set():
            now = time.time()
            self.note_pause(now - self._last_round_at)
            self._last_round_at = now
            try:
                if not schema_checked:
                    check(self._database)
                    schema_checked = True
                self.do_round()
                if not nodes_forgotten:
                    self._transport.forget_gone_nodes()
                    nodes_forgotten = True
                self._report(self._scans.problem, logged="an abandoned scan cannot be finished; see: bonescreen status")
            except (DatabaseOutage, StorageOutage) as outage:
                # Workers could not renew their leases either: give them time before their leases expire.
                self._grace_until = time.monotonic() + LEASE_SECONDS
                self._note(str(outage))
            except BrokerOutage as outage:
                self._report(str(outage))
            stop.wait(ROUND_SECONDS)
        self._retire()

    def note_pause(self, seconds: float) -> None:
        """Give workers time to renew their leases if the last round is long ago.

        A locked database, or a machine that slept, kept the workers from renewing them too.

        Parameters
        ----------
        seconds : float
            Time since the last round.
        """
        if seconds > PAUSED_SECONDS:
            self._grace_until = max(self._grace_until, time.monotonic() + 2 * RENEW_SECONDS)

    def do_round(self) -> Round:
        """Recover the batches of lost workers, have abandoned scans finished, and fill the queues.

        Raises
        ------
        Outage
            The database or the broker does not answer; the next round does what was left.
        """
        recovered = 0
        if time.monotonic() >= self._grace_until:
            recovered = recover_expired(self._database)
            self._scans.finish()
        sent = sum(self._fill(work) for work in queues_with_work(self._database, HIGH_WATER))
        if sent or recovered:
            log.info("sent %d, batches of lost workers recovered %d", sent, recovered)
        return Round(sent, recovered)

    def _fill(self, work: QueueWork) -> int:
        """Have as many messages wait in a queue as batches, up to `HIGH_WATER`; return how many were sent."""
        missing = max(0, work.batches - self._transport.depth(work.queue))
        for _ in range(missing):
            self._transport.send(work.queue, work.run_id)
        return missing

    def _report(self, problem: str | None, logged: str | None = None) -> None:
        self._note(problem, logged)
        try:
            record_heartbeat(self._database, self._name, "feeder", None, problem)
        except Outage as outage:
            self._note(str(outage))

    def _note(self, problem: str | None, logged: str | None = None) -> None:
        if problem is not None and problem != self.problem:
            # A problem may name a path, which may be stored in the database but not in a log.
            log.warning("waiting: %s", logged or problem)
        self.problem = problem

    def _retire(self) -> None:
        try:
            remove_heartbeat(self._database, self._name)
        except Outage as outage:
            log.warning("ended while waiting: %s", outage)
