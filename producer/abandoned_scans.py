"""Finish the scans whose process died or was stopped: each archive in a thread of its own, as one may not answer."""

import logging
import threading
import time
import traceback
from datetime import datetime

from db.scans import OpenScan, open_scans
from db.session import Database
from producer.scan import finish_abandoned_scan
from producer.source import Source
from xray.archive_root import Root
from xray.errors import BonescreenError, Outage, TakenOver, UsageError
from xray.message import LEASE_SECONDS
from xray.settings import Settings

log = logging.getLogger(__name__)


class AbandonedScans:
    """The abandoned scans of the archives that this host has.

    Parameters
    ----------
    database : Database
    settings : Settings
        With the archive roots.
    holder : str
        Host and process id, stored with the scans that are taken over.
    """

    def __init__(self, database: Database, settings: Settings, holder: str) -> None:
        self._database = database
        self._settings = settings
        self._holder = holder
        self._threads: dict[str, threading.Thread] = {}
        self._started_at: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why scans are not finished, a text for each; None if all are, or soon will be."""
        return "; ".join(text for _, text in sorted(self._problems.items())) or None

    def finish(self) -> None:
        """Begin to finish every scan that nobody reads, within this host's hours; nothing is waited for.

        Raises
        ------
        Outage
            The database does not answer.
        """
        if self._settings.hours is not None and not self._settings.hours.includes(datetime.now()):
            return
        abandoned = {scan.archive: scan for scan in open_scans(self._database) if scan.expired}
        for archive in self._problems.keys() - abandoned.keys():
            self._problems.pop(archive)
        for archive, scan in abandoned.items():
            try:
                root = self._settings.archive_root(archive, scan.root)
            except UsageError as error:
                self._problems[archive] = str(error)
                continue
            if root is None:
                continue
            thread = self._threads.get(archive)
            if thread is None or not thread.is_alive():
                self._threads[archive] = threading.Thread(target=self._finish, args=(scan, root), daemon=True)
                self._started_at[archive] = time.monotonic()
                self._threads[archive].start()
            elif time.monotonic() - self._started_at[archive] > LEASE_SECONDS:
                # It would have renewed the scan's lease.
                self._problems[archive] = f"the archive at {root} does not answer: its scan waits"

    def _finish(self, scan: OpenScan, root: Root) -> None:
        source = Source.configured(root, self._settings)
        try:
            finish_abandoned_scan(self._database, scan.scan_id, source, self._holder)
        except TakenOver:
            # Whoever has it finishes it.
            return
        except Outage as outage:
            self._problems[scan.archive] = str(outage)
        except BonescreenError as error:
            # The scan is deleted, so no command shows it: this line is the only trace.
            log.warning("scan %d cannot be finished (%s); scan the archive again", scan.scan_id, type(error).__name__)
            self._problems[scan.archive] = f"an abandoned scan cannot be finished: {error}"
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("scan %d: %s\n%s", scan.scan_id, type(error).__name__, where)
            self._problems[scan.archive] = (
                f"an abandoned scan cannot be finished: {type(error).__name__}, see the feeder's log"
            )
