"""Scan an archive into the ledger: walk, place, stage, merge, cut. Memory does not grow with the archive."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from db import scans
from db.merge import Entry
from db.runs import ModelVersion, archive_layout, open_run, register_archive, register_model
from db.scans import OpenScan, Scan
from db.session import Database
from producer.walk import FileEntry, survey, walk
from xray.errors import ArchiveOutage, UsageError
from xray.files import root_absence
from xray.message import RENEW_SECONDS
from xray.studies import Layout, Skip, SkipReason, place

STAGE_ROWS = 1_000
POLL_SECONDS = 0.5
SHOWN_PATHS = 10

WORTH_A_LOOK = frozenset(SkipReason) - {SkipReason.HIDDEN, SkipReason.NOT_AN_IMAGE}
"""Reasons behind which images may lie that somebody wants screened."""


@dataclass
class ScanReport:
    """What a scan found.

    Parameters
    ----------
    run_id : int
        The run that it extends.
    layout : Layout
        The layout used.
    found : int
        Images found.
    gone : int
        Images that were there before and are not any more.
    batches : int
        Batches cut for what the run has not settled.
    skipped : Counter of str
        Files and folders passed over, by reason.
    look_at : list of str
        What was passed over and somebody should look at, the first few, relative to the root.
    """

    run_id: int
    layout: Layout
    found: int = 0
    gone: int = 0
    batches: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    look_at: list[str] = field(default_factory=list)

    def pass_over(self, reason: SkipReason, path: str) -> None:
        """Count a file or folder that is passed over, and name it if images may lie behind it."""
        self.skipped[reason] += 1
        if reason in WORTH_A_LOOK and len(self.look_at) < SHOWN_PATHS:
            self.look_at.append(f"{path} ({reason})")


def scan_archive(
    database: Database,
    name: str,
    root: Path,
    model: ModelVersion,
    *,
    batch_size: int,
    layout: Layout = Layout.AUTO,
    progress: Callable[[int], None] = lambda found: None,
) -> ScanReport:
    """Scan an archive for a model version, and extend their run by what is new.

    Parameters
    ----------
    database : Database
    name : str
        The archive's name.
    root : Path
        Its root on this host.
    model : ModelVersion
        The model version to screen with.
    batch_size : int
        Images a batch.
    layout : Layout
        How files make studies; ``AUTO`` looks, or takes what the archive was scanned in before.
    progress : callable
        Told now and then how many images are found.

    Raises
    ------
    UsageError
        There is nothing to scan at `root`, the layout contradicts an earlier scan, or another scan is under way.
    Outage
        The archive or the database went away; the scan stays open and a feeder finishes it.
    """
    chosen = survey(root) if layout is Layout.AUTO else layout
    archive_id = register_archive(database, name, str(root))
    earlier = archive_layout(database, archive_id)
    if earlier is not None:
        if layout not in (Layout.AUTO, Layout(earlier)):
            raise UsageError(
                f"the archive {name!r} was scanned with --layout {earlier} before; "
                f"scan it so again, or give it another name in BONESCREEN_ARCHIVES"
            )
        chosen = Layout(earlier)
    run_id = open_run(database, archive_id, register_model(database, model), batch_size)
    scan = _begin(database, archive_id, run_id, chosen, root)
    return _walk_and_merge(database, scan, root, progress)


def finish_abandoned_scan(database: Database, scan_id: int, root: Path, holder: str) -> ScanReport | None:
    """Walk a scan again from its start whose holder has vanished; None when somebody else was faster.

    Raises
    ------
    ArchiveOutage
        The archive is not there: the scan stays open, and is for whoever sees it first.
    """
    absence = root_absence(root)
    if absence is not None:
        raise ArchiveOutage(f"the archive at {root} {absence}")
    scan = scans.take_over(database, scan_id, holder)
    return None if scan is None else _walk_and_merge(database, scan, root, lambda found: None)


def _begin(database: Database, archive_id: int, run_id: int, layout: Layout, root: Path) -> Scan:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    while (scan := scans.begin_scan(database, run_id, layout, holder)) is None:
        for other in scans.open_scans(database, archive_id):
            if not other.expired:
                _await_expiry(database, archive_id, other)
            asked = layout if other.run_id == run_id else None
            taken = scans.take_over(database, other.scan_id, holder, asked)
            if taken is not None and taken.run_id == run_id:
                return taken
            if taken is not None:
                _walk_and_merge(database, taken, root, lambda found: None)
    return scan


def _await_expiry(database: Database, archive_id: int, scan: OpenScan) -> None:
    """Wait for a scan's lease to run out or its end; raise `UsageError` as soon as its holder is seen to live."""
    while True:
        still = (other for other in scans.open_scans(database, archive_id) if other.scan_id == scan.scan_id)
        now = next(still, None)
        if now is None or now.expired:
            return
        if now.lease_expires_at != scan.lease_expires_at:
            raise UsageError(
                f"the archive {now.archive!r} is being scanned by {now.holder} "
                f"({now.found:,} images so far); wait for it to end"
            )
        time.sleep(POLL_SECONDS)


def _walk_and_merge(database: Database, scan: Scan, root: Path, progress: Callable[[int], None]) -> ScanReport:
    report = ScanReport(scan.run_id, Layout(scan.layout))
    try:
        for entries in _staged_rows(root, report, lambda: scans.renew_scan(database, scan)):
            scans.stage(database, scan, entries)
            progress(report.found)
    except (ArchiveOutage, KeyboardInterrupt):
        scans.release_scan(database, scan)
        raise
    except UsageError:
        scans.abandon_scan(database, scan)
        raise
    if report.found == 0:
        scans.abandon_scan(database, scan)
        raise UsageError(_nothing_found(root, report))
    scans.merge(database, scan)
    report.gone = scans.sweep(database, scan)
    report.batches = scans.close_scan(database, scan, report.skipped)
    return report


def _staged_rows(root: Path, report: ScanReport, renew: Callable[[], None]) -> Iterator[list[Entry]]:
    rows: list[Entry] = []
    renewed = time.monotonic()
    for seen in walk(root):
        if isinstance(seen, FileEntry):
            placed = place(seen.path, report.layout, root)
            if isinstance(placed, Skip):
                report.pass_over(placed.reason, seen.path)
            else:
                report.found += 1
                rows.append(
                    Entry(placed.study, seen.path, seen.size, seen.mtime_ns, placed.body_part, placed.human_label)
                )
        else:
            report.pass_over(seen.reason, seen.path)
        if len(rows) >= STAGE_ROWS:
            yield rows
            rows = []
            renewed = time.monotonic()
        elif time.monotonic() - renewed > RENEW_SECONDS:
            renew()
            renewed = time.monotonic()
    if rows:
        yield rows


def _nothing_found(root: Path, report: ScanReport) -> str:
    passed = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.most_common())
    return f"no image found in {root}" + (f" (passed over: {passed})" if passed else "") + "; nothing was changed"
