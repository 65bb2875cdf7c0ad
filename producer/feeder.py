"""The feeder: keeps queues filled from the ledger and takes back what was lost. It alone owns recovery.

Any number of feeders may run at once: every step is one guarded UPDATE, so the worst that two of them do is to
send a message twice, which the second delivery's claim makes a no-op.
"""

import logging
import os
import socket
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from db import dispatch
from db.heartbeats import record_heartbeat, remove_heartbeat
from db.migrate import check
from db.scans import open_scans
from db.session import Database
from producer.find import Source
from producer.scan import finish_abandoned_scan
from producer.transport import Transport
from xray.errors import BonescreenError, BrokerOutage, DatabaseOutage, Outage, StorageOutage
from xray.message import LEASE_SECONDS, RENEW_SECONDS
from xray.settings import Settings
from xray.vocabulary import BatchState

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0

LOW_WATER = 32
HIGH_WATER = 64
"""Messages a queue holds: enough that no worker waits a tick, few enough that a lost broker loses little."""

OVERDUE_SECONDS = 20.0
"""A message sent that long ago and not claimed, while its queue is empty, is lost or in a dead worker's hands."""

STALE_SECONDS = 600.0
"""The same while the queue is not empty."""

ABSENT_SECONDS = 15.0
"""After a round that took that long, leases are not judged at once."""


@dataclass(frozen=True)
class Tick:
    """What one round of the feeder did."""

    sent: int = 0
    expired: int = 0
    lost: int = 0


class Feeder:
    """Feeds every queue of one database.

    Parameters
    ----------
    database : Database
    transport : Transport
    settings : Settings
        Its archive roots say which abandoned scans can be finished from this host.
    """

    def __init__(self, database: Database, transport: Transport, settings: Settings) -> None:
        self._database = database
        self._transport = transport
        self._settings = settings
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._patient_until = 0.0
        self._seen_at = time.time()
        self._scanning: threading.Thread | None = None
        self._scan_problem: str | None = None
        self._adopted = 0
        self.problem: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; outages are waited out.

        Raises
        ------
        UsageError
            The database waits for ``bonescreen db upgrade``.
        """
        fits = False
        # Workers may have been kept from renewing their leases by what ended the feeder before this one.
        self._patient_until = time.monotonic() + 2 * RENEW_SECONDS
        while not stop.is_set():
            now = time.time()
            self.noticed(away_for=now - self._seen_at)
            self._seen_at = now
            try:
                if not fits:
                    check(self._database)
                    fits = True
                self.tick()
                self._report(self._scan_problem, logged="an abandoned scan cannot be finished; see: bonescreen status")
            except (DatabaseOutage, StorageOutage) as outage:
                # Workers could not renew their leases either: give them time to, before calling them dead.
                self._patient_until = time.monotonic() + LEASE_SECONDS
                self._note(str(outage))
            except BrokerOutage as outage:
                self._report(str(outage))
            stop.wait(TICK_SECONDS)
        self._end()

    def noticed(self, away_for: float) -> None:
        """Take note of the seconds since the last round: leases are not judged at once after a long absence.

        A database that was locked, or a machine that slept, kept workers from renewing them too.
        """
        if away_for > ABSENT_SECONDS:
            self._patient_until = max(self._patient_until, time.monotonic() + 2 * RENEW_SECONDS)

    def tick(self) -> Tick:
        """Do one round.

        Raises
        ------
        Outage
            The database or the broker does not answer; nothing is lost by it.
        """
        expired = 0
        if time.monotonic() >= self._patient_until:
            expired = dispatch.recover_expired(self._database)
            self._adopt_scan()
        epoch = self._transport.epoch()
        lost = dispatch.requeue_after_broker_loss(self._database, epoch)
        for queue in dispatch.queues_with_batches(self._database, BatchState.SENT):
            empty = self._transport.depth(queue) == 0
            lost += dispatch.requeue_unclaimed(self._database, queue, OVERDUE_SECONDS if empty else STALE_SECONDS)
        sent = sum(
            self._fill(queue, epoch) for queue in dispatch.queues_with_batches(self._database, BatchState.PENDING)
        )
        if sent or expired or lost:
            log.info("sent %d, leases expired %d, messages lost %d", sent, expired, lost)
        return Tick(sent, expired, lost)

    def _fill(self, queue: str, epoch: str) -> int:
        depth = self._transport.depth(queue)
        if depth >= LOW_WATER:
            return 0
        taken = dispatch.mark_sent(self._database, queue, HIGH_WATER - depth, epoch)
        for position, (run_id, batch_id) in enumerate(taken):
            try:
                self._transport.send(queue, run_id, batch_id)
            except BrokerOutage:
                dispatch.mark_unsent(self._database, [unsent for _, unsent in taken[position:]])
                raise
        return len(taken)

    def _adopt_scan(self) -> None:
        if self._scanning is not None and self._scanning.is_alive():
            return
        abandoned = [
            (scan.scan_id, root)
            for scan in open_scans(self._database)
            if scan.expired and (root := self._settings.archive_root(scan.archive, scan.root)) is not None
        ]
        if not abandoned:
            self._scan_problem = None
            return
        # In turn: one whose archive is away must not keep the others waiting.
        chosen = next((one for one in abandoned if one[0] > self._adopted), abandoned[0])
        self._adopted = chosen[0]
        self._scanning = threading.Thread(target=self._scan, args=chosen, daemon=True)
        self._scanning.start()

    def _scan(self, scan_id: int, root: Path) -> None:
        try:
            finish_abandoned_scan(self._database, scan_id, Source.configured(root, self._settings), self._name)
            self._scan_problem = None
        except Outage as outage:
            self._scan_problem = str(outage)
        except BonescreenError as error:
            # The scan is given up and in no list any more, so this line is all that tells of it.
            log.warning("scan %d cannot be finished (%s); scan the archive again", scan_id, type(error).__name__)
            self._scan_problem = f"an abandoned scan cannot be finished: {error}"
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("scan %d: %s\n%s", scan_id, type(error).__name__, where)
            self._scan_problem = f"an abandoned scan cannot be finished: {type(error).__name__}, see the feeder's log"

    def _report(self, problem: str | None, logged: str | None = None) -> None:
        self._note(problem, logged)
        try:
            record_heartbeat(self._database, self._name, "feeder", None, problem)
        except Outage as outage:
            self._note(str(outage))

    def _note(self, problem: str | None, logged: str | None = None) -> None:
        if problem is not None and problem != self.problem:
            # Where a problem names a path, which the database may know and a log may not.
            log.warning("waiting: %s", logged or problem)
        self.problem = problem

    def _end(self) -> None:
        try:
            remove_heartbeat(self._database, self._name)
        except Outage as outage:
            log.warning("ended while waiting: %s", outage)
