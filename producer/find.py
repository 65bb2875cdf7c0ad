"""Find an archive's files: in its tree, in its containers, or in its manifest; what was just written waits."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from producer.walk import ArchiveFile, Skipped, path_as_text, trouble, walk
from xray.archives.containers import Member, list_members
from xray.archives.files import image_status, is_single_file, lies_below, mtime_ns, open_image
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.manifest import Problem, read_manifest
from xray.archives.members import is_compressed_tar, is_container
from xray.errors import ArchiveOutage, ContainerFault, FileFault, UsageError
from xray.settings import Settings
from xray.vocabulary import Layout, SkipReason

MOST_WAITING = 10_000
"""Files just written that are kept in memory before they are waited for."""

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Source:
    """An archive as this host reads it.

    Parameters
    ----------
    root : Path
        Its root: a folder, a container, or a single image.
    layout : Layout
        How its files make studies.
    quiet_seconds : float
        A file that changed less than so long ago may still be written.
    pseudonym_key : bytes or None
        Turns patients into keyed hashes.
    """

    root: Path
    layout: Layout = Layout.AUTO
    quiet_seconds: float = 0.0
    pseudonym_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def configured(cls, root: Path, settings: Settings, layout: Layout = Layout.AUTO) -> "Source":
        """Return an archive at a root as the settings say it is to be read."""
        return cls(root, layout, settings.quiet_seconds, settings.pseudonym_key)


def find(source: Source, pause: Callable[[float], None]) -> Iterator[ArchiveFile | Skipped]:
    """Yield every file of an archive, in no particular order, and what is passed over.

    A container (zip, tar) is read like a folder: its members' paths go on from its own. A file that changed less than
    the quiet period ago comes last, when it has not changed since; one that has is left for the next scan.

    Parameters
    ----------
    source : Source
        Its layout settled, not ``AUTO``.
    pause : callable
        Told to wait so many seconds, as files were just written.

    Raises
    ------
    UsageError
        There is nothing to read at the root, or its manifest is wrong.
    ArchiveOutage
        The storage does not answer, or went away meanwhile: what was yielded is not the whole archive.
    """
    if source.layout is Layout.MANIFEST:
        yield from _quiet(_listed(source), source, pause)
        return
    for seen in _quiet(_tree(source.root), source, pause):
        if isinstance(seen, ArchiveFile):
            yield from _members(source.root, seen)
        else:
            yield seen


def _tree(root: Path) -> Iterator[ArchiveFile | Skipped]:
    if is_single_file(root):
        yield ArchiveFile(root.name, *root_status(root))
        return
    if not is_container(root.name) or not root.is_file():
        yield from walk(root)
        return
    # Its members' paths go on from the root itself.
    yield ArchiveFile("", *root_status(root))


def _listed(source: Source) -> Iterator[ArchiveFile]:
    with open_image(source.root, MANIFEST_NAME) as file:
        for row in read_manifest(file, source.pseudonym_key):
            if isinstance(row, Problem):
                raise UsageError(f"{MANIFEST_NAME} {row}; correct it and scan again")
            try:
                size, changed_at = image_status(source.root, row.image)
            except FileFault:
                # It becomes an image that fails, by name, and its study is not taken for complete without it.
                size, changed_at = ArchiveFile.ABSENT
            yield ArchiveFile(row.image, size, changed_at, row.placed)


def _quiet(
    files: Iterable[ArchiveFile | Skipped], source: Source, pause: Callable[[float], None]
) -> Iterator[ArchiveFile | Skipped]:
    waiting: list[ArchiveFile] = []
    for seen in files:
        if isinstance(seen, ArchiveFile) and _quiet_in(seen.mtime_ns, source) > 0:
            waiting.append(seen)
        else:
            yield seen
        if len(waiting) == MOST_WAITING:
            yield from _settled(waiting, source, pause)
            waiting = []
    yield from _settled(waiting, source, pause)


def await_quiet(changed_at: int, source: Source, pause: Callable[[float], None]) -> None:
    """Wait, in pauses, until what changed then (ns) has been quiet for long enough."""
    deadline = time.monotonic() + _quiet_in(changed_at, source)
    while (left := deadline - time.monotonic()) > 0:
        pause(min(left, PAUSE_SECONDS))


def _quiet_in(changed_at: int, source: Source) -> float:
    """Say in how many seconds that will be.

    A time far in the future says nothing, and asks for no wait; one a little ahead asks for no more than one period.
    """
    quiet = source.quiet_seconds
    age = time.time() - changed_at / 1e9
    return min(quiet - age, quiet) if abs(age) < quiet else 0.0


def _settled(
    waiting: list[ArchiveFile], source: Source, pause: Callable[[float], None]
) -> Iterator[ArchiveFile | Skipped]:
    await_quiet(max((file.mtime_ns for file in waiting), default=0), source, pause)
    for file in waiting:
        # What a manifest lists becomes an image that fails as changed, so that its study is not taken for complete.
        if file.placed is not None or _look(source.root, file.path) == (file.size, file.mtime_ns):
            yield file
        else:
            yield Skipped(path_as_text(file.path or source.root.name), SkipReason.STILL_WRITTEN)


def _look(root: Path, path: str) -> tuple[int, int] | None:
    if not path:
        return root_status(root)
    try:
        return image_status(root, path)
    except FileFault:
        return None


def root_status(root: Path) -> tuple[int, int]:
    """Return the size (bytes) and the time of the last change (ns) of a root that is a file.

    Raises
    ------
    ArchiveOutage
        It is not there.
    """
    try:
        status = root.stat()
    except OSError as error:
        trouble(root, error)
        raise ArchiveOutage(f"the archive at {root} cannot be looked at: {error.strerror}") from error
    return status.st_size, mtime_ns(status)


def _members(root: Path, file: ArchiveFile) -> Iterator[ArchiveFile | Skipped]:
    name = file.path or root.name
    if is_compressed_tar(name):
        yield Skipped(file.path, SkipReason.COMPRESSED_TAR)
        return
    if not is_container(name):
        yield file
        return
    prefix = f"{file.path}/" if file.path else ""
    try:
        if file.path and not lies_below(root, file.path):
            yield Skipped(file.path, SkipReason.OUTSIDE_ARCHIVE)
            return
        for member in list_members(root / file.path):
            if not isinstance(member, Member):
                yield Skipped(prefix + member.path, member.reason)
            else:
                yield ArchiveFile(prefix + member.path, member.size, member.stamp_ns)
    except ContainerFault as fault:
        if not file.path:
            raise UsageError(f"{root} cannot be read: {fault.detail}") from fault
        yield Skipped(file.path, fault.reason)
    except FileFault:
        # It was a file a moment ago.
        yield Skipped(file.path or root.name, SkipReason.VANISHED)
    except OSError as error:
        reason = trouble(root, error)
        yield Skipped(file.path, SkipReason.BROKEN_LINK if (root / file.path).is_symlink() else reason)
