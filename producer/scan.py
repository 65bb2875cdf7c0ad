"""Scan an archive into the database: find its files, merge them into studies, and make the run's batches."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial

from db import merge, scans
from db.describe_studies import studies_of_several_patients
from db.ledger import count_open_batches
from db.passing_failures import forget_passing_failures
from db.read_studies import ReadStudy, known_studies, remember_studies, staged_studies
from db.runs import ModelVersion, archive_layout, open_run, register_archive, register_model, set_priority
from db.scan_cache import (
    HeaderMarks,
    ScanCache,
    archive_id_of,
    current_paths,
    header_marks,
    known_files,
    remember_header_marks,
    remember_skipped,
)
from db.scans import OpenScan, Scan
from db.session import Database
from producer.emptied_folders import emptied_folders
from producer.layout_detection import choose_layout
from producer.read_archive import read_archive
from producer.scan_summary import MAX_WARNINGS, ScanReport
from producer.selection import ALL, Selection
from producer.source import Source
from xray.archive_root import Root
from xray.archives.archive_file import ArchiveFile, Skipped
from xray.archives.files import file_digest, is_readable
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.storage_errors import require_root
from xray.errors import ArchiveOutage, TakenOver, UsageError
from xray.message import RENEW_SECONDS, queue_name
from xray.network.package import ModelPackage
from xray.pseudonym import key_mark
from xray.vocabulary import SKIP_REMEDY, UNSEEN, Layout, Precision, SkipReason, count, describe_skipped

POLL_SECONDS = 0.5

HIDING = frozenset(
    {
        SkipReason.ENCRYPTED_CONTAINER,
        SkipReason.UNKNOWN_PACKING,
        SkipReason.DAMAGED_CONTAINER,
        SkipReason.CONTAINER_TOO_LARGE,
    }
)
"""Reasons that hide what a container holds: a layout that was detected without it is not kept."""


def scan_archive(
    database: Database,
    name: str,
    source: Source,
    model: ModelVersion,
    *,
    batch_size: int,
    priority: int | None = None,
    progress: Callable[[int], None] = lambda found: None,
) -> ScanReport:
    """Scan an archive for a model version, and add new and changed images to their run.

    If this process is too slow to renew the scan's lease, and another one takes the scan over, that one is followed to
    the scan's end.

    Parameters
    ----------
    database : Database
    name : str
        The archive's name.
    source : Source
        The archive on this host; the layout ``AUTO`` means that of an earlier scan, or the one detected.
    model : ModelVersion
        The model version to screen with.
    batch_size : int
        Images in a batch.
    priority : int, optional
        The run's new priority; by default it keeps the one that it has.
    progress : callable
        Called now and then with the number of images found so far.

    Raises
    ------
    UsageError
        There is nothing to scan, the layout is not that of an earlier scan, the manifest is wrong, or another process
        is scanning the archive.
    Outage
        The archive or the database does not answer; the scan stays open and a feeder finishes it.
    """
    report = None
    while report is None:
        known = archive_id_of(database, name)
        decided = None if known is None else archive_layout(database, known)
        detected = decided is None and source.layout is Layout.AUTO
        chosen = choose_layout(name, source, decided)
        archive_id = register_archive(database, name, str(source.root))
        run_id = open_run(database, archive_id, register_model(database, model), batch_size)
        if priority is not None:
            set_priority(database, run_id, priority)
        scan = _begin(database, archive_id, run_id, chosen)
        try:
            report = _read_and_merge(database, scan, chosen, progress, detected=detected)
        except TakenOver:
            report = _follow(database, scan, progress)
    return report


def finish_abandoned_scan(database: Database, scan_id: int, source: Source, holder: str) -> ScanReport | None:
    """Take over a scan whose holder has vanished, and read its archive again from the start.

    Returns
    -------
    ScanReport or None
        None if another process was faster.

    Raises
    ------
    UsageError
        The archive cannot be scanned; the scan is closed.
    ArchiveOutage
        The archive is unavailable; the scan stays open.
    """
    require_root(source.root)
    scan = scans.take_over(database, scan_id, holder)
    return None if scan is None else _read_and_merge(database, scan, source, lambda found: None)


def model_version(package: ModelPackage, precision: Precision) -> ModelVersion:
    """Describe a model package in a precision for the database."""
    card = package.card
    return ModelVersion(
        name=card.name,
        version=card.version,
        digest=package.digest,
        precision=precision,
        finding=card.finding,
        image_threshold=card.image_threshold.value,
        study_threshold=card.study_threshold.value,
        body_parts=card.body_parts,
        modalities=card.modalities,
        queue=queue_name(package.digest, precision),
        distance_threshold=card.distance_threshold,
    )


class LedgerSink:
    """Stage the images of a scan in the database.

    Parameters
    ----------
    database : Database
    scan : Scan
        The scan, whose lease each write renews.
    source : Source
        If its headers were read otherwise in earlier scans, all are read again.
    """

    def __init__(self, database: Database, scan: Scan, source: Source) -> None:
        self._database = database
        self._scan = scan
        same_headers = source.reads_like(header_marks(database, scan.archive_id))
        self._use_cache = same_headers and not scans.had_other_layout(database, scan)

    def known_files(self, files: Sequence[ArchiveFile]) -> ScanCache:
        """Return what earlier scans found out about files."""
        return known_files(self._database, self._scan.archive_id, files) if self._use_cache else ScanCache()

    def current_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of some paths that are current images."""
        return current_paths(self._database, self._scan.archive_id, paths)

    def known_studies(self, marks: dict[str, str]) -> dict[str, ReadStudy]:
        """Return those of some studies that earlier scans read, if the service says the same of them."""
        return known_studies(self._database, self._scan.archive_id, marks)

    def staged_studies(self, keys: Sequence[str]) -> set[str]:
        """Return those of some studies of which this scan has images already."""
        return staged_studies(self._database, self._scan.scan_id, keys)

    def remember_studies(self, read: Sequence[ReadStudy]) -> None:
        """Save how studies were read."""
        remember_studies(self._database, self._scan.archive_id, read)

    def add(self, images: Sequence[ArchiveFile], skipped: Sequence[Skipped]) -> None:
        """Stage images, and save why files were skipped that had to be opened."""
        merge.stage(self._database, self._scan, images)
        remember_skipped(self._database, self._scan.archive_id, skipped)

    def keep_alive(self) -> None:
        """Renew the scan's lease."""
        scans.renew_scan(self._database, self._scan)


def _begin(database: Database, archive_id: int, run_id: int, source: Source) -> Scan:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    while (scan := scans.begin_scan(database, run_id, source.layout, holder, str(source.selection))) is None:
        for other in scans.open_scans(database, archive_id):
            if not other.expired:
                _await_expiry(database, archive_id, other)
            asked = source.layout if other.run_id == run_id else None
            taken = scans.take_over(database, other.scan_id, holder, asked, str(source.selection))
            if taken is not None and taken.run_id == run_id:
                return taken
            if taken is not None:
                with suppress(TakenOver):
                    _read_and_merge(database, taken, source, lambda found: None)
    return scan


def _await_expiry(database: Database, archive_id: int, scan: OpenScan) -> None:
    """Wait until a scan's lease expires or the scan ends; raise `UsageError` once its holder renews the lease."""
    while True:
        open_now = (other for other in scans.open_scans(database, archive_id) if other.scan_id == scan.scan_id)
        now = next(open_now, None)
        if now is None or now.expired:
            return
        if now.lease_expires_at != scan.lease_expires_at:
            raise UsageError(
                f"the archive {now.archive!r} is being scanned by {now.holder} "
                f"({count(now.found, 'image')} so far); wait for it to end"
            )
        time.sleep(POLL_SECONDS)


def _follow(database: Database, scan: Scan, progress: Callable[[int], None]) -> ScanReport | None:
    """Wait until another process has closed a scan; return None if it deletes the scan, or vanishes too."""
    while True:
        now = next((one for one in scans.open_scans(database, scan.archive_id) if one.scan_id == scan.scan_id), None)
        if now is None:
            break
        if now.expired:
            return None
        progress(now.found)
        time.sleep(POLL_SECONDS)
    closed = scans.closed_scan(database, scan.scan_id)
    if closed is None:
        return None
    report = ScanReport(Layout(closed.layout), found=closed.found, gone=closed.gone, run_id=scan.run_id)
    report.skipped.update(closed.skipped)
    report.batches = count_open_batches(database, scan.run_id)
    _add_several_patients(database, scan, report)
    return report


def _read_and_merge(
    database: Database, scan: Scan, source: Source, progress: Callable[[int], None], *, detected: bool = False
) -> ScanReport:
    source = replace(source, layout=Layout(scan.layout), selection=Selection.parse(scan.selection))
    report = ScanReport(source.layout, run_id=scan.run_id)
    try:
        read_archive(source, LedgerSink(database, scan, source), report, progress)
        # That a service has no new study is nothing unusual.
        if report.found == report.missing and source.selection == ALL:
            raise UsageError(_nothing_found(source, report))
    except KeyboardInterrupt:
        # Of a scan that another process has taken over, too, it is the user who wants no more of it.
        with suppress(TakenOver):
            scans.release_scan(database, scan)
        raise
    except ArchiveOutage:
        scans.release_scan(database, scan)
        raise
    except UsageError:
        scans.abandon_scan(database, scan)
        raise
    added = merge.merge(database, scan, partial(file_digest, source.root))
    _forget_passing_failures(database, scan, source.root)
    emptied = emptied_folders(database, scan, source.root)
    report.add(Skipped(folder, SkipReason.EMPTIED_FOLDER) for folder in sorted(emptied))
    report.gone = merge.mark_gone(database, scan, report.unread)
    mark = None if source.pseudonym_key is None else key_mark(source.pseudonym_key)
    if mark is None and not added:
        # The patients of new images are unknown without the key, so the next scan that has it reads all headers again.
        mark = header_marks(database, scan.archive_id).pseudonym_key
    remember_header_marks(database, scan.archive_id, HeaderMarks(mark, source.header_mark))
    _add_several_patients(database, scan, report)
    # What a closed container holds may be most of the archive: the layout is detected again once it can be read.
    decided = not detected or HIDING.isdisjoint(report.skipped)
    report.batches = scans.close_scan(database, scan, report.skipped, decided=decided, emptied=emptied)
    return report


def _forget_passing_failures(database: Database, scan: Scan, root: Root) -> None:
    """Forget what can be read again; a service may take longer to answer than a lease lasts, so it is renewed."""
    renewed = time.monotonic()

    def readable(path: str, version: tuple[int, int]) -> bool:
        nonlocal renewed
        reading = reader.submit(is_readable, root, path, version)
        while wait([reading], RENEW_SECONDS).not_done or time.monotonic() - renewed > RENEW_SECONDS:
            scans.renew_scan(database, scan)
            renewed = time.monotonic()
        return reading.result()

    with ThreadPoolExecutor(1, thread_name_prefix="readable") as reader:
        forget_passing_failures(database, scan, readable)


def _add_several_patients(database: Database, scan: Scan, report: ScanReport) -> None:
    report.several_patients, report.of_several_patients = studies_of_several_patients(
        database, scan.archive_id, MAX_WARNINGS
    )


def _nothing_found(source: Source, report: ScanReport) -> str:
    if report.missing:
        return (
            f"no image that {MANIFEST_NAME} lists ({report.missing:,}) is in {source.root}; "
            "their paths begin at the archive's root; nothing was changed"
        )
    text = f"no image found in {source.root}"
    if report.skipped:
        text += f" (skipped {', '.join(describe_skipped(*item) for item in report.skipped.most_common())})"
    hint = "; a different --layout may fit" if SkipReason.OUTSIDE_LAYOUT in report.skipped else ""
    for reason in sorted(UNSEEN.intersection(report.skipped)):
        hint += f"; {reason}: {SKIP_REMEDY[SkipReason(reason)]}"
    return f"{text}; nothing was changed{hint}"
