"""Read an archive group by group and send each group to a sink: a scan writes it, a dry run only counts."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from db.scan_cache import ScanCache
from producer.find_files import find_files
from producer.manifest_checks import require_manifest
from producer.read_service import StudySink, read_service
from producer.scan_summary import ScanSummary
from producer.source import Source, Wait
from producer.study_grouping import Found, group_in_studies
from xray.archives.archive_file import ArchiveFile, Skipped
from xray.dicomweb import DicomWebService
from xray.vocabulary import Layout, SkipReason

T = TypeVar("T")

GROUP_FILES = 1_000
GROUP_HEADERS = 200
"""Files of a group whose headers are read: few enough that the lease is renewed in time on slow storage."""
GROUP_SECONDS = 1.0
"""After this time a group is complete, however few files it has: a sink renews the lease, and progress is shown."""

KEPT = frozenset({SkipReason.STILL_WRITTEN, SkipReason.UNREADABLE})
"""Reasons that a file cannot be read that mostly pass."""


class ScanSink(StudySink, Protocol):
    """What happens to the files that are found."""

    def known_files(self, files: Sequence[ArchiveFile]) -> ScanCache:
        """Return what earlier scans found out about files, so that they need not be opened."""

    def current_paths(self, paths: Sequence[str]) -> set[str]:
        """Return those of some paths that earlier scans found and that are still current images."""

    def add(self, images: Sequence[ArchiveFile], skipped: Sequence[Skipped]) -> None:
        """Take the images and the skipped files of a group."""


def read_archive(
    source: Source, sink: ScanSink, summary: ScanSummary, progress: Callable[[int], None] = lambda found: None
) -> None:
    """Find an archive's files, group them in studies, and send them to a sink; memory is constant.

    Parameters
    ----------
    source : Source
        The archive; its layout is not ``AUTO``.
    sink : ScanSink
        Takes the files.
    summary : ScanSummary
        Counts them.
    progress : callable
        Called after each group with the number of images found so far.

    Raises
    ------
    UsageError
        There is nothing to read, or the manifest is wrong.
    Outage
        The archive or the database does not answer.
    """

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        sink.keep_alive()

    if isinstance(source.root, DicomWebService):
        groups = read_service(source, source.root, sink)
    else:
        groups = _read_files(source, sink, wait)
    for grouped in groups:
        summary.add(grouped)
        sink.add(
            [one for one in grouped if isinstance(one, ArchiveFile)],
            [one for one in grouped if isinstance(one, Skipped)],
        )
        progress(summary.found)


def _read_files(source: Source, sink: ScanSink, wait: Wait) -> Iterator[list[Found]]:
    if source.layout is Layout.MANIFEST:
        require_manifest(source, wait)
    size = GROUP_HEADERS if source.layout is Layout.DICOM else GROUP_FILES
    for found in _groups(find_files(source, wait), size):
        yield _keep_earlier(group_in_studies(source, found, sink.known_files), sink)


def _keep_earlier(grouped: list[Found], sink: ScanSink) -> list[Found]:
    """Skip files that cannot be read at the moment where an earlier version of them is known: its results are kept."""
    lost = [one.path for one in grouped if isinstance(one, ArchiveFile) and one.lost in KEPT]
    known = sink.current_paths(lost) if lost else set()
    return (
        [
            Skipped(one.path, one.lost) if isinstance(one, ArchiveFile) and one.lost and one.path in known else one
            for one in grouped
        ]
        if known
        else grouped
    )


def _groups(found: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size`, at least one every `GROUP_SECONDS` while something is found."""
    group: list[T] = []
    started = time.monotonic()
    for one in found:
        group.append(one)
        if len(group) >= size or time.monotonic() - started >= GROUP_SECONDS:
            yield group
            group = []
            started = time.monotonic()
    if group:
        yield group
