"""Read the studies of a DICOMweb service: known ones as the database has them, the others from their metadata."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from db.read_studies import ReadStudy
from producer.find_studies import INSTANCES_IN_STUDY, STUDY_UID, Query, find_studies, modalities_of
from producer.source import Source
from producer.study_grouping import HEADER_THREADS, Found, group_instance
from xray.archives.archive_file import ArchiveFile, Skipped
from xray.archives.dicomweb import VERSION, Metadata, first_text, is_uid, read_metadata, search
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, FileFault
from xray.images.dicom.header import OTHER_MODALITIES
from xray.vocabulary import Reason, SkipReason

T = TypeVar("T")

GROUP_IMAGES = 200
GROUP_SECONDS = 1.0
"""After this time a group is complete, however few images it has: a sink renews the lease, and progress is shown."""

SERIES_UID, INSTANCE_UID, MODALITY, INSTANCES_IN_SERIES = "0020000E", "00080018", "00080060", "00201209"

_VARIABLE = frozenset({"00080054", "00080056", "00081190"})
"""What a service says of where a study is, which may change though the study does not: AE title, availability, URL."""


class StudySink(Protocol):
    """What is known of studies, and what happens to those that are read."""

    def known_studies(self, marks: dict[str, str]) -> dict[str, ReadStudy]:
        """Return those of some studies that earlier scans read, if the service says the same of them (their marks)."""

    def staged_studies(self, keys: Sequence[str]) -> set[str]:
        """Return those of some studies of which this scan has images already."""

    def remember_studies(self, read: Sequence[ReadStudy]) -> None:
        """Save how studies were read."""

    def keep_alive(self) -> None:
        """Do what must be done every few seconds while nothing is found."""


def read_service(source: Source, service: DicomWebService, sink: StudySink) -> Iterator[list[Found]]:
    """Yield the images of a service's studies and what is skipped, in groups, at least one a second.

    Raises
    ------
    ArchiveOutage
        The service does not answer: what was yielded is not all.
    """
    pool = ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="metadata")

    def awaited(future: "Future[T]") -> T:
        while wait([future], GROUP_SECONDS).not_done:
            sink.keep_alive()
        return future.result()

    def search_studies(query: Query) -> list[Metadata]:
        return awaited(pool.submit(_search, service, query))

    def read(study: Metadata) -> "Future[list[Found]]":
        return pool.submit(_read_study, source, service, study)

    try:
        for page in find_studies(search_studies, source.selection):
            yield from _in_groups(_read_page(page, source.read_mark, sink, awaited, read), sink)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _search(service: DicomWebService, query: Query) -> list[Metadata]:
    try:
        return search(service, "studies", query)
    except FileFault as fault:
        raise ArchiveOutage(f"the archive at {service} cannot be searched: {fault.detail or fault.reason}") from None


def _read_page(
    page: Sequence[Metadata],
    read_mark: str,
    sink: StudySink,
    awaited: Callable[["Future[list[Found]]"], list[Found]],
    read: Callable[[Metadata], "Future[list[Found]]"],
) -> Iterator[tuple[list[Found], ReadStudy | None]]:
    """Yield what is found in each study of a page, and what is to be remembered of it."""
    studies = {first_text(study, STUDY_UID): study for study in page}
    for key in [key for key in studies if not is_uid(key)]:
        del studies[key]
        yield [Skipped(_ascii(key) or "a study without a UID", SkipReason.IMPOSSIBLE_NAME)], None
    for key in sink.staged_studies(list(studies)):
        del studies[key]
    for key, study in list(studies.items()):
        if (modalities := modalities_of(study)) and modalities <= OTHER_MODALITIES:
            del studies[key]
            yield [Skipped(key, SkipReason.NO_RADIOGRAPHS)], None
    marks = {key: mark for key, study in studies.items() if (mark := _mark(study, read_mark)) is not None}
    known = sink.known_studies(marks)
    # All at once: the pool reads some at a time.
    reading = {key: read(study) for key, study in studies.items() if key not in known}
    for key, unchanged in known.items():
        skipped = [Skipped(key, reason) for reason in unchanged.skipped.elements()]
        yield [*unchanged.images, *skipped], None
    for key, future in reading.items():
        found = awaited(future)
        images = [one for one in found if isinstance(one, ArchiveFile)]
        reasons = Counter(one.reason for one in found if isinstance(one, Skipped))
        whole = key in marks and _PASSING.isdisjoint(reasons)
        yield found, ReadStudy(key, marks[key], images, reasons) if whole else None


_PASSING = frozenset({SkipReason.UNREADABLE, SkipReason.VANISHED, SkipReason.STILL_WRITTEN})
"""Reasons for which a study is read again by the next scan, whatever the service says of it then."""


def _in_groups(read: Iterator[tuple[list[Found], ReadStudy | None]], sink: StudySink) -> Iterator[list[Found]]:
    group: list[Found] = []
    studies: list[ReadStudy] = []
    started = time.monotonic()
    for found, study in read:
        group += found
        studies += [study] if study else []
        if len(group) >= GROUP_IMAGES or time.monotonic() - started >= GROUP_SECONDS:
            sink.remember_studies(studies)
            yield group
            group, studies, started = [], [], time.monotonic()
    sink.remember_studies(studies)
    yield group


def _mark(study: Metadata, read_mark: str) -> str | None:
    """Identify what a service says of a study, and how its headers are read.

    None if that does not tell how many instances the study has.
    """
    if not first_text(study, INSTANCES_IN_STUDY):
        return None
    said = {tag: element for tag, element in study.items() if tag not in _VARIABLE}
    return hashlib.sha256(json.dumps([read_mark, said], sort_keys=True).encode()).hexdigest()[:32]


def _read_study(source: Source, service: DicomWebService, study: Metadata) -> list[Found]:
    """Read the headers of a study's images."""
    key = first_text(study, STUDY_UID)
    try:
        instances, skipped, count = _instances(service, key, modalities_of(study))
    except FileFault as fault:
        gone = fault.reason is Reason.VANISHED
        return [Skipped(key, SkipReason.VANISHED if gone else SkipReason.UNREADABLE)]
    # Each path once, though a service may list an instance twice.
    found = {one.path: one for one in (_read_instance(source, key, metadata) for metadata in instances)}
    if count < _number(study, INSTANCES_IN_STUDY):
        skipped.append(Skipped(key, SkipReason.STILL_WRITTEN))
    return [*found.values(), *skipped]


def _instances(service: DicomWebService, key: str, modalities: set[str]) -> tuple[list[Metadata], list[Found], int]:
    """Return the metadata of a study's instances, the series that are skipped, and how many instances these make."""
    if modalities and modalities.isdisjoint(OTHER_MODALITIES):
        instances = read_metadata(service, key)
        return instances, [], len(instances)
    instances, skipped, count = [], list[Found](), 0
    for series in search(service, f"studies/{key}/series"):
        uid = first_text(series, SERIES_UID)
        if not is_uid(uid):
            skipped.append(Skipped(key, SkipReason.IMPOSSIBLE_NAME))
        elif first_text(series, MODALITY).upper() in OTHER_MODALITIES:
            skipped.append(Skipped(f"{key}/{uid}", SkipReason.NO_RADIOGRAPHS))
            count += _number(series, INSTANCES_IN_SERIES)
        else:
            of_series = read_metadata(service, key, uid)
            instances += of_series
            count += len(of_series)
    return instances, skipped, count


def _ascii(text: str) -> str:
    """Write what is no UID so that it can be printed: JSON may have half of a character, which no encoding has."""
    return text.encode("ascii", "backslashreplace").decode()


def _number(metadata: Metadata, tag: str) -> int:
    text = first_text(metadata, tag)
    # An Integer String has 12 characters at most (PS3.5 6.2).
    return int(text) if text.isdecimal() and len(text) <= 12 else 0


def _read_instance(source: Source, study: str, metadata: Metadata) -> Found:
    # Imported here, as pydicom takes time that a scan of a folder does not need.
    from xray.images.dicom.metadata import header_file

    uids = first_text(metadata, SERIES_UID), first_text(metadata, INSTANCE_UID)
    path = "/".join((study, *uids))
    if not all(map(is_uid, uids)):
        return Skipped(_ascii(path), SkipReason.IMPOSSIBLE_NAME)
    return group_instance(source, ArchiveFile(path, *VERSION), header_file(metadata), study)
