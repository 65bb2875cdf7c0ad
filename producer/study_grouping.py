"""Group files in studies: by their paths, by a manifest, or by their DICOM headers."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import BinaryIO

from db.scan_cache import ScanCache
from producer.source import Source
from xray.archives.archive_file import ArchiveFile, Placement, Skipped
from xray.archives.files import is_single_file, open_image
from xray.archives.layouts import (
    DICOM_SUFFIXES,
    RASTER_SUFFIXES,
    check_name,
    is_utf8,
    may_be_image,
    placement_from_path,
)
from xray.body_parts import body_part_of
from xray.errors import FileFault
from xray.images.dicom.header import HEAD_BYTES, is_dicom, read_header
from xray.vocabulary import BODY_PARTS, Layout, Reason, SkipReason

_RASTER = tuple(RASTER_SUFFIXES)

HEADER_THREADS = 8
"""Threads that read DICOM headers: they mostly wait for the storage."""

Found = ArchiveFile | Skipped


def group_in_studies(
    source: Source, found: Sequence[Found], known_files: Callable[[Sequence[ArchiveFile]], ScanCache]
) -> list[Found]:
    """Set the placement of some files, or skip those that are not images of a study.

    Parameters
    ----------
    source : Source
        The archive; its layout is not ``AUTO``.
    found : sequence of ArchiveFile or Skipped
        What `find_files` yields.
    known_files : callable
        Returns what earlier scans found out about files; called for files that may be DICOM.

    Returns
    -------
    list of ArchiveFile or Skipped
        In the same order; every `ArchiveFile` has a placement.

    Raises
    ------
    Outage
        The archive or the database does not answer.
    """
    if is_single_file(source.path):
        return [_group_single_file(source, one) if isinstance(one, ArchiveFile) else one for one in found]
    if source.layout is not Layout.DICOM:
        grouped = [_group_by_path(source, one) if isinstance(one, ArchiveFile) else one for one in found]
        return _describe_by_header(source, grouped, known_files)
    known = known_files([one for one in found if isinstance(one, ArchiveFile) and is_utf8(one.path)])
    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="header") as pool:
        return list(pool.map(lambda one: _group_by_header(source, one, known), found))


def group_instance(source: Source, file: ArchiveFile, header: BinaryIO, study: str) -> Found:
    """Set the placement of an instance of a DICOMweb service from its header, or skip what is not a radiograph.

    Parameters
    ----------
    source : Source
        The archive.
    file : ArchiveFile
        The instance.
    header : BinaryIO
        Its header as a DICOM file, see `xray.images.dicom.metadata.header_file`.
    study : str
        The study in which the service has it.
    """
    try:
        return replace(file, placement=_placement(source, file, header, study))
    except FileFault as fault:
        grouped = _skip_or_fail(file, fault)
    # The study is known whatever is wrong with the header, and remembered as a whole.
    if isinstance(grouped, Skipped):
        return replace(grouped, opened=None)
    return replace(grouped, placement=Placement(study))


def _group_single_file(source: Source, file: ArchiveFile) -> Found:
    """Make the archive's only file an image, whatever its name; its name is also its study's key."""
    if file.lost is not None:
        return Skipped(file.path, file.lost)
    if source.layout is not Layout.DICOM:
        return _study_of_its_own(file)
    grouped = _read_header(source, file)
    if isinstance(grouped, ArchiveFile) and grouped.placement is not None:
        return replace(grouped, placement=replace(grouped.placement, study=file.path))
    return grouped


def _group_by_path(source: Source, file: ArchiveFile) -> Found:
    # A file that a manifest lists is an image, whatever its name.
    placement = file.placement or placement_from_path(file.path, source.layout, source.path)
    if isinstance(placement, SkipReason):
        return Skipped(file.path, placement)
    part = placement.body_part
    if part is not None and (part not in BODY_PARTS or source.site_terms):
        placement = replace(placement, body_part=body_part_of(part, source.site_terms)[0])
    # Not `dataclasses.replace`, which takes three times as long, for each file of the archive.
    return ArchiveFile(file.path, file.size, file.mtime_ns, placement, file.lost)


def _describe_by_header(
    source: Source, grouped: list[Found], known_files: Callable[[Sequence[ArchiveFile]], ScanCache]
) -> list[Found]:
    """Add what DICOM headers say to files whose study is known by their paths or a manifest, which come first."""
    dicom = [
        one
        for one in grouped
        if not one.path.endswith(_RASTER) and isinstance(one, ArchiveFile) and not one.lost and _is_not_raster(one.path)
    ]
    if not dicom:
        return grouped
    # What is known of a file would hide that its manifest no longer says it.
    known = known_files(dicom) if source.layout is not Layout.MANIFEST else ScanCache()
    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="header") as pool:
        described = {one.path: one for one in pool.map(lambda one: _with_header(source, one, known), dicom)}
    return [described.get(one.path, one) if isinstance(one, ArchiveFile) else one for one in grouped]


def _is_not_raster(path: str) -> bool:
    return path[path.rfind(".") :].lower() not in RASTER_SUFFIXES


def _with_header(source: Source, file: ArchiveFile, known: ScanCache) -> ArchiveFile:
    own = file.placement
    if own is None:
        raise ValueError("a file must have its placement before it is described")
    try:
        read = known.placements.get(file.path) or _read_placement(source, file, own.study)
    except FileFault:
        # It fails when it is screened.
        read = None
    if read is None:
        return file
    # A label or place of the path or manifest, and else what the header says.
    stated = {name: value for name, value in asdict(own).items() if value is not None}
    return replace(file, placement=replace(read, **{"human_label": None, **stated}))


def _group_by_header(source: Source, one: Found, known: ScanCache) -> Found:
    if isinstance(one, Skipped):
        return one
    if one.path in known.skipped:
        return Skipped(one.path, known.skipped[one.path])
    if one.path in known.placements:
        # As in `_group_by_path`.
        return ArchiveFile(one.path, one.size, one.mtime_ns, known.placements[one.path], one.lost)
    return _read_header(source, one)


def _read_header(source: Source, file: ArchiveFile) -> Found:
    unusable = check_name(file.path)
    if unusable is not None:
        return Skipped(file.path, unusable)
    if file.lost is not None:
        return _skip_or_lose(file, file.lost)
    try:
        placement = _read_placement(source, file)
        if placement is not None:
            return replace(file, placement=placement)
    except FileFault as fault:
        return _skip_or_fail(file, fault)
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return _study_of_its_own(file)
    reason = SkipReason.OUTSIDE_LAYOUT if suffix in RASTER_SUFFIXES else SkipReason.NOT_AN_IMAGE
    return Skipped(file.path, reason, opened=file)


def _read_placement(source: Source, file: ArchiveFile, study: str | None = None) -> Placement | None:
    """Read the header of a file, or return None if it is not DICOM; a study that is given is the file's."""
    with open_image(source.path, file.path) as stream:
        if not is_dicom(stream.read(HEAD_BYTES)):
            return None
        stream.seek(0)
        return _placement(source, file, stream, study)


def _placement(source: Source, file: ArchiveFile, stream: BinaryIO, study: str | None) -> Placement:
    header = read_header(stream, source.pseudonym_key, source.site_terms, source.keep, study)
    return Placement(
        header.study or file.path,
        header.body_part,
        view=header.view,
        laterality=header.laterality,
        series=header.series,
        modality=header.modality,
        intent=header.intent,
        patient_mark=header.patient_mark,
        patient=header.patient,
        accession=header.accession,
        study_date=header.study_date,
    )


def _skip_or_lose(file: ArchiveFile, lost: SkipReason) -> Found:
    # Its study is in the content that cannot be read.
    is_raster = PurePosixPath(file.path).suffix.lower() in RASTER_SUFFIXES
    if is_raster or not may_be_image(file.path) or lost is SkipReason.STILL_WRITTEN:
        return Skipped(file.path, lost)
    return _study_of_its_own(file)


def _skip_or_fail(file: ArchiveFile, fault: FileFault) -> Found:
    match fault.reason:
        case Reason.NOT_RADIOGRAPH:
            return Skipped(file.path, fault.detail, opened=file)
        case Reason.MULTI_FRAME | Reason.NO_PIXELS:
            return Skipped(file.path, SkipReason[fault.reason.name], opened=file)
        case Reason.VANISHED:
            return Skipped(file.path, SkipReason.VANISHED)
        case _:
            return _study_of_its_own(file)


def _study_of_its_own(file: ArchiveFile) -> ArchiveFile:
    # Whatever is wrong with the file, it becomes an image that fails, so that a report names it.
    return replace(file, placement=Placement(file.path))
