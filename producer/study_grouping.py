"""Place files in their studies: by their paths, by a manifest, or by their DICOM headers."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath

from db.merge import Entry
from db.scan_cache import FileKey, ScanCache
from producer.find import Source
from producer.walk import ArchiveFile, Skipped, path_as_text
from xray.archives.files import is_single_file, open_image
from xray.archives.layouts import DICOM_SUFFIXES, RASTER_SUFFIXES, Placement, Skip, is_utf8, place, refuse_name
from xray.errors import FileFault
from xray.images.dicom.header import HEAD, is_dicom, read_header
from xray.vocabulary import Layout, Reason, SkipReason

HEADER_THREADS = 8
"""Reading a header is mostly waiting for the storage."""

Place = Callable[[Sequence[ArchiveFile]], list[Entry | Skipped]]
"""Places some files in their studies, or says why not."""

_NO_RADIOGRAPH = {Reason.MULTI_FRAME: SkipReason.MULTI_FRAME, Reason.NO_PIXELS: SkipReason.NO_PIXELS}


def placer(source: Source, known: Callable[[Sequence[FileKey]], ScanCache]) -> Place:
    """Choose how an archive's files are placed; `known` tells what earlier scans have learned of some files."""
    if is_single_file(source.root):
        return lambda files: [_by_itself(source, file) for file in files]
    if source.layout is Layout.DICOM:
        return lambda files: _by_header(source, files, known([file.key for file in files if is_utf8(file.path)]))
    return lambda files: [_by_path(source, file) for file in files]


def _by_itself(source: Source, file: ArchiveFile) -> Entry | Skipped:
    """Place an archive's only file, whatever its name: its study is called as the file."""
    if source.layout is not Layout.DICOM:
        return _entry(file, Placement(file.path))
    placed = _judge(source, file)
    return replace(placed, study_key=file.path) if isinstance(placed, Entry) else placed


def _by_path(source: Source, file: ArchiveFile) -> Entry | Skipped:
    # What a manifest lists is an image, whatever its name.
    return _entry(file, file.placed or place(file.path, source.layout, source.root))


def _by_header(source: Source, files: Sequence[ArchiveFile], known: ScanCache) -> list[Entry | Skipped]:
    with ThreadPoolExecutor(HEADER_THREADS, thread_name_prefix="header") as pool:
        return list(pool.map(lambda file: _known(file, known) or _judge(source, file), files))


def _known(file: ArchiveFile, known: ScanCache) -> Entry | Skipped | None:
    if file.path in known.passed_over:
        return Skipped(path_as_text(file.path), known.passed_over[file.path])
    return known.images.get(file.path)


def _judge(source: Source, file: ArchiveFile) -> Entry | Skipped:
    refused = refuse_name(file.path)
    if refused is not None:
        return _entry(file, refused)
    suffix = PurePosixPath(file.path).suffix.lower()
    # Whatever is wrong with it, it becomes an image that fails, by name.
    itself = Placement(file.path)
    try:
        with open_image(source.root, file.path) as opened:
            if is_dicom(opened.read(HEAD)):
                opened.seek(0)
                header = read_header(opened, source.pseudonym_key)
                return _entry(
                    file,
                    Placement(
                        header.study or file.path,
                        header.body_part,
                        view=header.view,
                        laterality=header.laterality,
                        series=header.series,
                        patient=header.patient,
                    ),
                )
    except FileFault as fault:
        if fault.reason is Reason.NOT_RADIOGRAPH:
            return Skipped(file.path, fault.detail, file)
        if fault.reason in _NO_RADIOGRAPH:
            return Skipped(file.path, _NO_RADIOGRAPH[fault.reason], file)
        if fault.reason is Reason.VANISHED:
            return Skipped(file.path, SkipReason.VANISHED)
        return _entry(file, itself)
    if suffix in DICOM_SUFFIXES:
        return _entry(file, itself)
    reason = SkipReason.OUTSIDE_LAYOUT if suffix in RASTER_SUFFIXES else SkipReason.NOT_AN_IMAGE
    return Skipped(file.path, reason, file)


def _entry(file: ArchiveFile, placed: Placement | Skip) -> Entry | Skipped:
    if isinstance(placed, Skip):
        return Skipped(path_as_text(file.path), placed.reason)
    return Entry(
        placed.study,
        file.path,
        file.size,
        file.mtime_ns,
        placed.body_part,
        placed.human_label,
        placed.view,
        placed.laterality,
        placed.series,
        placed.patient,
    )
