"""A dry run: read an archive as a scan would, and compare it with what the database knows."""

from collections.abc import Sequence
from functools import partial

from db.read_studies import ReadStudy, known_studies
from db.runs import archive_layout
from db.scan_cache import (
    ScanCache,
    ScanDifference,
    archive_id_of,
    compare_with_run,
    current_images,
    current_paths,
    header_marks,
    known_files,
)
from db.session import Database
from producer.layout_detection import choose_layout
from producer.read_archive import read_archive
from producer.scan_summary import DryRunReport
from producer.selection import ALL
from producer.source import Source
from xray.archives.archive_file import ArchiveFile, Skipped
from xray.archives.files import file_digest, is_readable


def dry_run(database: Database | None, name: str, source: Source, queue: str) -> DryRunReport:
    """Count what a scan would find and what would have to be screened; change nothing.

    Parameters
    ----------
    database : Database or None
        None if nothing was screened yet.
    name : str
        The archive's name.
    source : Source
        The archive on this host.
    queue : str
        The model version's queue.

    Raises
    ------
    UsageError
        A scan would refuse the archive.
    Outage
        The archive or the database does not answer.
    """
    archive_id = None if database is None else archive_id_of(database, name)
    known = None if database is None or archive_id is None else (database, archive_id)
    source = choose_layout(name, source, archive_layout(*known) if known else None)
    report = DryRunReport(source.layout)
    sink = CountingSink(known, queue, report, source)
    read_archive(source, sink, report)
    if known and source.selection == ALL:
        unread = sum(current_images(*known, path) for path in report.unread)
        report.gone = current_images(*known) - sink.current - unread
    return report


class CountingSink:
    """Compare images with what the database knows, and write nothing.

    Parameters
    ----------
    known : tuple of (Database, int) or None
        Database and id of an archive that was scanned before.
    queue : str
        The model version's queue.
    report : DryRunReport
        Gets the counts.
    source : Source
        If its headers would be read otherwise than in earlier scans, all are read again, as a scan does.

    Attributes
    ----------
    current : int
        How many of the images that were current before are found.
    """

    def __init__(self, known: tuple[Database, int] | None, queue: str, report: DryRunReport, source: Source) -> None:
        self.current = 0
        self._known = known
        self._queue = queue
        self._report = report
        self._root = source.root
        self._use_cache = known is not None and source.reads_like(header_marks(*known))

    def known_files(self, files: Sequence[ArchiveFile]) -> ScanCache:
        """Return what earlier scans found out about files."""
        return known_files(*self._known, files) if self._known and self._use_cache else ScanCache()

    def current_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of some paths that are current images."""
        return current_paths(*self._known, paths) if self._known else set()

    def known_studies(self, marks: dict[str, str]) -> dict[str, ReadStudy]:
        """Return those of some studies that earlier scans read, if the service says the same of them."""
        return known_studies(*self._known, marks) if self._known else {}

    def staged_studies(self, keys: Sequence[str]) -> set[str]:
        """Return none: a dry run keeps nothing, and counts a study twice that comes twice."""
        return set()

    def remember_studies(self, read: Sequence[ReadStudy]) -> None:
        """Do nothing: a dry run writes nothing."""

    def add(self, images: Sequence[ArchiveFile], skipped: Sequence[Skipped]) -> None:
        """Count new, changed, unprocessed and processed images."""
        digest_of = partial(file_digest, self._root)
        difference = ScanDifference()
        if self._known:
            readable = partial(is_readable, self._root)
            difference = compare_with_run(*self._known, self._queue, images, digest_of, readable)
        self._report.processed += difference.processed
        self._report.unprocessed += difference.unprocessed
        self._report.changed += difference.changed
        self._report.new += len(images) - difference.processed - difference.unprocessed - difference.changed
        self.current += difference.current

    def keep_alive(self) -> None:
        """Do nothing: a dry run holds no lease."""
