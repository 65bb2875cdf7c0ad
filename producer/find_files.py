"""Find an archive's files: in its folders, in its containers or in its manifest; recently written files come last."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from producer.manifest_checks import checked_rows
from producer.source import Source, Wait
from producer.walk import walk
from xray.archives.archive_file import MISSING, ArchiveFile, Skipped
from xray.archives.containers import list_members
from xray.archives.files import file_version, is_below_root, is_single_file, path_on_disk
from xray.archives.members import is_compressed_tar, is_container
from xray.archives.names import stored_name
from xray.archives.storage_errors import skip_reason
from xray.errors import ContainerFault, FileFault, UsageError
from xray.vocabulary import SKIP_REMEDY, Layout, SkipReason

MAX_POSTPONED = 10_000
"""Maximum number of recently written files that are kept in memory before they are waited for."""


def find_files(source: Source, wait: Wait) -> Iterator[ArchiveFile | Skipped]:
    """Yield every file of an archive, in no particular order, and every file or folder that is skipped.

    A container (zip, tar) is read like a folder: its members' paths continue its own. A file that changed less than
    `quiet_seconds` ago comes last, if it has not changed since; otherwise it is left to the next scan.

    Parameters
    ----------
    source : Source
        Its layout is not ``AUTO``.
    wait : callable
        Called with seconds to wait, while files may still be written.

    Raises
    ------
    UsageError
        There is nothing to read at the root, or its manifest is wrong.
    ArchiveOutage
        The storage does not answer, or the root became unavailable: the files yielded are not the whole archive.
    """
    if source.layout is Layout.MANIFEST:
        yield from _postpone_recent(_listed(source), source, wait)
        return
    for found in _postpone_recent(_tree(source.path), source, wait):
        if isinstance(found, ArchiveFile):
            yield from _members(source.path, found)
        else:
            yield found


def _tree(root: Path) -> Iterator[ArchiveFile | Skipped]:
    if is_single_file(root):
        yield ArchiveFile(stored_name(root.name), *file_version(root, root.name))
    elif is_container(root.name) and root.is_file():
        # An empty path: the members' paths begin at the root itself.
        yield ArchiveFile("", *file_version(root, ""))
    else:
        yield from walk(root)


def _listed(source: Source) -> Iterator[ArchiveFile]:
    for row in checked_rows(source):
        try:
            version = file_version(source.path, row.image)
        except FileFault:
            # It becomes an image that fails, so that its study is incomplete.
            version = MISSING
        yield ArchiveFile(row.image, *version, row.placement)


def _postpone_recent(
    files: Iterable[ArchiveFile | Skipped], source: Source, wait: Wait
) -> Iterator[ArchiveFile | Skipped]:
    recent: list[ArchiveFile] = []
    for found in files:
        if isinstance(found, ArchiveFile) and not found.lost and source.seconds_until_quiet(found.mtime_ns) > 0:
            recent.append(found)
        else:
            yield found
        if len(recent) == MAX_POSTPONED:
            yield from _unchanged(recent, source, wait)
            recent = []
    yield from _unchanged(recent, source, wait)


def _unchanged(files: list[ArchiveFile], source: Source, wait: Wait) -> Iterator[ArchiveFile | Skipped]:
    source.wait_until_quiet(max((file.mtime_ns for file in files), default=0), wait)
    for file in files:
        version = _version_now(source.path, file.path)
        if file.placement is not None or version == file.version:
            yield file
        elif version is None:
            yield Skipped(file.path or source.path.name, SkipReason.STILL_WRITTEN)
        else:
            # With the version that it had before, it fails as changed if it is screened.
            yield replace(file, lost=SkipReason.STILL_WRITTEN)


def _version_now(root: Path, path: str) -> tuple[int, int] | None:
    try:
        return file_version(root, path)
    except FileFault:
        return None


def _members(root: Path, file: ArchiveFile) -> Iterator[ArchiveFile | Skipped]:
    name = file.path or root.name
    if not (is_container(name) or is_compressed_tar(name)):
        yield file
        return
    if file.lost or is_compressed_tar(name):
        yield Skipped(name, file.lost or SkipReason.COMPRESSED_TAR)
        return
    try:
        if file.path and not is_below_root(root, file.path):
            yield Skipped(file.path, SkipReason.OUTSIDE_ARCHIVE)
            return
        yield from list_members(path_on_disk(root, file.path), f"{file.path}/" if file.path else "")
    except ContainerFault as fault:
        if not file.path:
            text = f"{root} cannot be read: {fault.detail}; {SKIP_REMEDY[fault.reason]}"
            raise UsageError(text) from fault
        yield Skipped(file.path, fault.reason)
    except FileFault:
        # It was a regular file a moment ago.
        yield Skipped(name, SkipReason.VANISHED)
    except OSError as error:
        yield Skipped(name, skip_reason(root, file.path, error))
