"""What the ledger keeps of a model package; reads the card, never the weights."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from db import merge, scans
from db.merge import Entry
from db.runs import ModelVersion, archive_layout, open_run, register_archive, register_model
from db.scan_cache import (
    ScanCache,
    archive_id_of,
    known_files,
    pseudonym_key_mark,
    remember_passed_over,
    remember_pseudonym_key,
)
from db.scans import OpenScan, Scan
from db.session import Database
from producer.find import Source, find
from producer.layout_detection import survey
from producer.manifest_checks import require_manifest, require_one_label, require_unlisted
from producer.scan_report import ScanReport
from producer.study_grouping import placer
from producer.walk import ArchiveFile, Skipped
from xray.archives.files import is_single_file, root_absence
from xray.archives.layouts import MANIFEST_NAME
from xray.errors import ArchiveOutage, UsageError
from xray.message import PRECISION, RENEW_SECONDS, queue_name
from xray.network.package import ModelPackage
from xray.pseudonym import key_mark
from xray.vocabulary import Layout, SkipReason


def model_version(package: ModelPackage) -> ModelVersion:
    """Describe a package to the ledger, at the precision that both engines run it in."""
    card = package.card
    return ModelVersion(
        name=card.name,
        version=card.version,
        digest=package.digest,
        precision=PRECISION,
        finding=card.finding,
        image_threshold=card.image_threshold.value,
        study_threshold=card.study_threshold.value,
        body_parts=tuple(card.body_parts),
        queue=queue_name(package.digest, PRECISION),
    )


T = TypeVar("T")

STEP = 1_000
HEADER_STEP = 200
"""Files a step where each is opened: few enough that the scan's lease is renewed in time on slow storage."""

POLL_SECONDS = 0.5


def choose_layout(name: str, source: Source, earlier: str | None) -> Source:
    """Settle an archive's layout: as asked, as it was scanned in before, or as it looks.

    Raises
    ------
    UsageError
        What is asked contradicts an earlier scan, or there is nothing to scan.
    """
    if source.layout is not Layout.AUTO and is_single_file(source.root):
        raise UsageError(f"{source.root} is one image; --layout is for folders, zips and tars")
    if earlier is None:
        chosen = survey(source.root) if source.layout is Layout.AUTO else source.layout
    elif source.layout in (Layout.AUTO, Layout(earlier)):
        chosen = Layout(earlier)
    else:
        raise UsageError(
            f"the archive {name!r} was scanned with --layout {earlier} before; "
            f"scan it so again, or give it another name in BONESCREEN_ARCHIVES"
        )
    return replace(source, layout=chosen)


def scan_archive(
    database: Database,
    name: str,
    source: Source,
    model: ModelVersion,
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda found: None,
) -> ScanReport:
    """Scan an archive for a model version, and extend their run by what is new.

    Parameters
    ----------
    database : Database
    name : str
        The archive's name.
    source : Source
        The archive on this host; the layout ``AUTO`` looks, or takes what the archive was scanned in before.
    model : ModelVersion
        The model version to screen with.
    batch_size : int
        Images a batch.
    progress : callable
        Told now and then how many images are found.

    Raises
    ------
    UsageError
        There is nothing to scan, the layout contradicts an earlier scan, the manifest is wrong, or another scan is
        under way.
    Outage
        The archive or the database went away; the scan stays open and a feeder finishes it.
    """
    before = archive_id_of(database, name)
    source = choose_layout(name, source, None if before is None else archive_layout(database, before))
    archive_id = register_archive(database, name, str(source.root))
    run_id = open_run(database, archive_id, register_model(database, model), batch_size)
    scan = _begin(database, archive_id, run_id, source)
    return _read_and_merge(database, scan, source, progress)


def finish_abandoned_scan(database: Database, scan_id: int, source: Source, holder: str) -> ScanReport | None:
    """Read a scan's archive again from its start whose holder has vanished; None when somebody else was faster.

    Raises
    ------
    ArchiveOutage
        The archive is not there: the scan stays open, and is for whoever sees it first.
    """
    absence = root_absence(source.root)
    if absence is not None:
        raise ArchiveOutage(f"the archive at {source.root} {absence}")
    scan = scans.take_over(database, scan_id, holder)
    return None if scan is None else _read_and_merge(database, scan, source, lambda found: None)


def _begin(database: Database, archive_id: int, run_id: int, source: Source) -> Scan:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    while (scan := scans.begin_scan(database, run_id, source.layout, holder)) is None:
        for other in scans.open_scans(database, archive_id):
            if not other.expired:
                _await_expiry(database, archive_id, other)
            asked = source.layout if other.run_id == run_id else None
            taken = scans.take_over(database, other.scan_id, holder, asked)
            if taken is not None and taken.run_id == run_id:
                return taken
            if taken is not None:
                _read_and_merge(database, taken, source, lambda found: None)
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


def _read_and_merge(database: Database, scan: Scan, source: Source, progress: Callable[[int], None]) -> ScanReport:
    source = replace(source, layout=Layout(scan.layout))
    report = ScanReport(source.layout, run_id=scan.run_id)
    try:
        _stage_all(database, scan, source, report, progress)
        if source.layout is Layout.MANIFEST:
            require_one_label(database, scan, source)
        if report.found == report.absent:
            raise UsageError(_nothing_found(source, report))
    except (ArchiveOutage, KeyboardInterrupt):
        scans.release_scan(database, scan)
        raise
    except UsageError:
        scans.abandon_scan(database, scan)
        raise
    added = merge.merge(database, scan)
    report.gone = merge.sweep(database, scan, report.not_looked_at)
    if source.pseudonym_key is not None:
        remember_pseudonym_key(database, scan.archive_id, key_mark(source.pseudonym_key))
    elif added:
        # Nobody knows the new ones' patients, so the next scan that has the key reads all headers again.
        remember_pseudonym_key(database, scan.archive_id, None)
    report.batches = scans.close_scan(database, scan, report.skipped)
    return report


def _stage_all(
    database: Database, scan: Scan, source: Source, report: ScanReport, progress: Callable[[int], None]
) -> None:
    def renew() -> None:
        scans.renew_scan(database, scan)

    def pause(seconds: float) -> None:
        time.sleep(seconds)
        renew()

    if source.layout is Layout.MANIFEST:
        require_manifest(source, pause)
    remembers = _remembers(database, scan, source)
    place = placer(source, lambda keys: known_files(database, scan.archive_id, keys) if remembers else ScanCache())
    for seen in steps(find(source, pause), source.layout, renew):
        report.take([one for one in seen if isinstance(one, Skipped)])
        files = [one for one in seen if isinstance(one, ArchiveFile)]
        report.note_absent(files)
        placed = place(files)
        report.take(placed)
        entries = [one for one in placed if isinstance(one, Entry)]
        if source.layout is Layout.MANIFEST:
            require_unlisted(database, scan, source, entries)
        merge.stage(database, scan, entries)
        judged = [(one.judged.key, one.reason) for one in placed if isinstance(one, Skipped) and one.judged]
        remember_passed_over(database, scan.archive_id, judged)
        progress(report.found)


def _remembers(database: Database, scan: Scan, source: Source) -> bool:
    """Tell whether headers read before still say all: with another pseudonym key they have to be read again."""
    if source.pseudonym_key is None:
        return True
    return pseudonym_key_mark(database, scan.archive_id) == key_mark(source.pseudonym_key)


def steps(seen: Iterator[T], layout: Layout, renew: Callable[[], None]) -> Iterator[list[T]]:
    """Group what is found in an archive of a layout; `renew` is called when a group takes long."""
    size = HEADER_STEP if layout is Layout.DICOM else STEP
    step: list[T] = []
    renewed = time.monotonic()
    for one in seen:
        step.append(one)
        if len(step) >= size:
            yield step
            step = []
            renewed = time.monotonic()
        elif time.monotonic() - renewed > RENEW_SECONDS:
            renew()
            renewed = time.monotonic()
    if step:
        yield step


def _nothing_found(source: Source, report: ScanReport) -> str:
    if report.absent:
        return (
            f"none of the {report.absent:,} images that {MANIFEST_NAME} lists is in {source.root}; "
            "their paths begin at the archive's root; nothing was changed"
        )
    passed = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.most_common())
    found = f"no image found in {source.root}" + (f" (passed over: {passed})" if passed else "")
    way_out = "; another --layout may fit" if SkipReason.OUTSIDE_LAYOUT in report.skipped else ""
    return f"{found}; nothing was changed{way_out}"
