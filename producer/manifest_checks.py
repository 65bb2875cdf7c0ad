"""Check a manifest: every line is valid, it is completely written, and no image or label contradicts another."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from producer.source import Source, Wait
from xray.archives.files import file_version, is_same_file, open_image
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.manifest import ManifestProblem, ManifestRow, count_images, read_manifest
from xray.archives.names import stored_name
from xray.errors import FileFault, StorageOutage, UsageError


def require_manifest(source: Source, wait: Wait) -> None:
    """Read an archive's manifest to its end, after waiting until it is no longer being written.

    Raises
    ------
    UsageError
        There is no manifest, it is still being written, it lists nothing, or lines are wrong; the text names them.
    ArchiveOutage
        The storage does not answer.
    """
    try:
        _require_quiet(source, wait)
        with open_image(source.path, MANIFEST_NAME) as file:
            images = count_images(file)
    except FileFault as fault:
        raise UsageError(
            f"the layout manifest needs a {MANIFEST_NAME} in {source.path}, which cannot be read ({fault}); "
            "its columns are study,image[,label,body_part,view,patient]"
        ) from fault
    if images == 0:
        raise UsageError(f"{MANIFEST_NAME} in {source.path} lists no image; nothing was changed")


def checked_rows(source: Source) -> Iterator[ManifestRow]:
    """Yield the images that an archive's manifest lists, each once, in constant memory.

    Raises
    ------
    UsageError
        A line is wrong, an image is listed twice, or a study has two labels; the text names the lines.
    ArchiveOutage
        The storage does not answer.
    StorageOutage
        There is no space for a temporary file.
    """
    # A temporary database without a name: SQLite moves it from memory to a file when it grows. The garbage collector
    # may close it in another thread.
    connection = sqlite3.connect("", check_same_thread=False)
    with closing(connection) as index, open_image(source.path, MANIFEST_NAME) as file:
        try:
            index.execute("CREATE TABLE images (path TEXT PRIMARY KEY) WITHOUT ROWID")
            index.execute("CREATE TABLE labels (study TEXT PRIMARY KEY, label TEXT NOT NULL) WITHOUT ROWID")
            for row in read_manifest(file, source.pseudonym_key):
                if isinstance(row, ManifestProblem):
                    raise UsageError(f"{MANIFEST_NAME} {row}; correct it and scan again")
                row = replace(row, image=_stored_path(source, row.image))
                _require_consistent(index, source, row)
                yield row
        except sqlite3.OperationalError as error:
            raise StorageOutage(f"a temporary file for checking {MANIFEST_NAME} cannot be written: {error}") from error


def _require_consistent(index: sqlite3.Connection, source: Source, row: ManifestRow) -> None:
    insert = "INSERT OR IGNORE INTO images VALUES (?)"
    if index.execute(insert, (row.image,)).rowcount == 0:
        raise _listed_twice(source, row.image)
    label = row.placement.human_label
    if label is None:
        return
    study = row.placement.study
    index.execute("INSERT OR IGNORE INTO labels VALUES (?, ?)", (study, label.value))
    (first,) = index.execute("SELECT label FROM labels WHERE study = ?", (study,)).fetchone()
    if first != label:
        raise _two_labels(source, study)


def _stored_path(source: Source, image: str) -> str:
    """Return how the archive's paths write that of a listed image, which may be written in either Unicode form."""
    stored = stored_name(image)
    if stored == image:
        return image
    try:
        # If the archive holds two files whose names differ in their form only, each is meant as it is written.
        return stored if is_same_file(source.path, image, stored) else image
    except FileFault:
        return stored


def _require_quiet(source: Source, wait: Wait) -> None:
    before = _manifest_version(source)
    source.wait_until_quiet(before[1], wait)
    # With half of a manifest, the images of the other half would be marked as gone.
    if _manifest_version(source) != before:
        raise UsageError(f"{MANIFEST_NAME} in {source.path} is still being written; scan again when it is complete")


def _manifest_version(source: Source) -> tuple[int, int]:
    return file_version(source.path, "" if source.path.is_file() else MANIFEST_NAME)


def _listed_twice(source: Source, image: str) -> UsageError:
    lines = [row.line for row in _rows(source) if _stored_path(source, row.image) == image]
    return UsageError(f"{MANIFEST_NAME} lists {image!r} on lines {_joined(lines)}; an image belongs to one study, once")


def _two_labels(source: Source, study: str) -> UsageError:
    lines = {
        row.placement.human_label: row.line
        for row in _rows(source)
        if row.placement.study == study and row.placement.human_label is not None
    }
    labels = ", ".join(f"{label} on line {line}" for label, line in lines.items()) or "unknown"
    return UsageError(f"{MANIFEST_NAME} gives the study {study!r} two labels: {labels}; a study has one label")


def _rows(source: Source) -> Iterator[ManifestRow]:
    with open_image(source.path, MANIFEST_NAME) as file:
        yield from (row for row in read_manifest(file) if isinstance(row, ManifestRow))


def _joined(words: Iterable[object]) -> str:
    texts = [str(word) for word in words]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else "unknown"
