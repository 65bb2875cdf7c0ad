"""Stage the files that a scan finds, and merge them into studies and images: gather, decide, apply."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, func, insert, or_, select, tuple_, update

from db.counts import BLOCK_IDS, add, block_of, change_archive_counts, change_run_counts, tally
from db.counts import Changes as RunChanges
from db.runs import lock_run
from db.scans import Scan, renew_lease
from db.session import Database, chunks, insert_many, one_of
from db.study_results import refresh_study_results
from db.tables import archive_counts, images, outcomes, runs, scan_entries, scans, studies
from xray.archives.archive_file import ArchiveFile, Placement
from xray.vocabulary import Label, Reason

MERGE_ROWS = 2_000
"""Staging rows that one transaction merges: few enough that workers on SQLite do not wait long."""

TEMPORARY_FAILURES = (Reason.VANISHED, Reason.CHANGED, Reason.BROKEN_LINK)
"""Failures of a file that was missing or changed: when the file is back, it is read again."""

IMAGE_ATTRIBUTES = ("body_part", "view", "laterality", "series")
"""The columns of `images` that describe an image; the other attributes of a `Placement` belong to its study."""


def stage(database: Database, scan: Scan, files: Sequence[ArchiveFile]) -> None:
    """Add files, each with its placement, to a scan's staging rows; paths must not repeat.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    with database.write() as connection:
        renew_lease(connection, scan)
        for chunk in chunks(files):
            connection.execute(insert(scan_entries), [_staging_row(scan, file) for file in chunk])
        connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(found=scans.c.found + len(files)))


def merge(database: Database, scan: Scan) -> int:
    """Turn staging rows into studies and images, a chunk in each transaction.

    Returns
    -------
    int
        How many images are new.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    total = 0
    last: tuple[str, str] | None = None
    while True:
        with database.write() as connection:
            renew_lease(connection, scan)
            query = (
                select(scan_entries)
                .where(scan_entries.c.scan_id == scan.scan_id)
                .order_by(scan_entries.c.study_key, scan_entries.c.path)
                .limit(MERGE_ROWS)
            )
            if last is not None:
                query = query.where(tuple_(scan_entries.c.study_key, scan_entries.c.path) > last)
            rows = connection.execute(query).mappings().all()
            if not rows:
                return total
            attributes = _study_attributes(connection, scan, {row["study_key"] for row in rows})
            files = [_staged_file(row, attributes[row["study_key"]]) for row in rows]
            added = _merge_files(connection, scan.archive_id, files)
            total += added
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(added=scans.c.added + added))
            last = (rows[-1]["study_key"], rows[-1]["path"])


def mark_gone(database: Database, scan: Scan, unread: Collection[str] = frozenset()) -> int:
    """Mark images that the scan did not find as no longer current, a chunk in each transaction.

    Their results are kept, in case the files come back.

    Parameters
    ----------
    database : Database
    scan : Scan
        A scan whose files are staged.
    unread : collection of str
        Paths that the scan could not read: images at and below these stay current.

    Returns
    -------
    int
        How many images were marked.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    total = 0
    after: int | None = -1
    while after is not None:
        with database.write() as connection:
            renew_lease(connection, scan)
            after, number = _mark_chunk_gone(connection, scan, after, unread)
            total += number
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(gone=total))
    return total


@dataclass(frozen=True)
class ImageRow:
    """A row of `images`: one version of one file; `attributes` in the order of `IMAGE_ATTRIBUTES`."""

    image_id: int
    study_id: int
    size: int
    mtime_ns: int
    current: bool
    attributes: tuple[str | None, ...]


@dataclass(frozen=True)
class Changes:
    """What a scan's files change.

    Parameters
    ----------
    new : list of ArchiveFile
        Files that are new or changed.
    restored : list of (ImageRow, ArchiveFile)
        Rows that become current again.
    superseded : list of ImageRow
        Rows that are no longer current, as their file changed.
    corrected : list of (ImageRow, ArchiveFile)
        Rows whose study or attributes change.
    """

    new: list[ArchiveFile]
    restored: list[tuple[ImageRow, ArchiveFile]]
    superseded: list[ImageRow]
    corrected: list[tuple[ImageRow, ArchiveFile]]


def compare(
    files: Sequence[ArchiveFile], rows: Mapping[str, Sequence[ImageRow]], study_ids: Mapping[str, int]
) -> Changes:
    """Compare files with the image rows of their paths; `study_ids` has the study of every file, by key."""
    changes = Changes([], [], [], [])
    for file in files:
        versions = rows.get(file.path, ())
        same = [row for row in versions if (row.size, row.mtime_ns) == file.version]
        changes.superseded.extend(row for row in versions if row not in same and row.current)
        changes.restored.extend((row, file) for row in same if not row.current)
        described = study_ids[_placement(file).study], _attributes(file)
        changes.corrected.extend((row, file) for row in same if (row.study_id, row.attributes) != described)
        if not same:
            changes.new.append(file)
    return changes


def _merge_files(connection: Connection, archive_id: int, files: Sequence[ArchiveFile]) -> int:
    """Update the rows of these files; return how many images are new."""
    run_ids = _lock_runs(connection, archive_id)
    study_ids = _study_ids(connection, archive_id, files)
    changes = compare(files, _image_rows(connection, archive_id, [file.path for file in files]), study_ids)
    superseded = [row.image_id for row in changes.superseded]
    restored = [row.image_id for row, _ in changes.restored]
    touched = set(study_ids.values()) | {row.study_id for row, _ in changes.corrected}
    touched |= {row.study_id for row in changes.superseded}
    before = _studies_with_images(connection, touched)
    for ids in chunks(superseded):
        connection.execute(update(images).where(images.c.id.in_(ids)).values(current=False))
    for ids in chunks(restored):
        failed = outcomes.c.reason.in_(TEMPORARY_FAILURES)
        connection.execute(delete(outcomes).where(outcomes.c.image_id.in_(ids), failed))
        connection.execute(update(images).where(images.c.id.in_(ids)).values(current=True))
    for row, file in changes.corrected:
        attributes = dict(zip(IMAGE_ATTRIBUTES, _attributes(file), strict=True))
        correct = update(images).where(images.c.id == row.image_id)
        connection.execute(correct.values(study_id=study_ids[_placement(file).study], **attributes))
    added: list[int] = []
    for new in chunks(changes.new):
        rows = [_new_row(archive_id, study_ids, file) for file in new]
        added += insert_many(connection, images, rows, _returning_id).scalars()
    _count_images(connection, archive_id, added + restored, superseded)
    _count_studies(connection, archive_id, before, _studies_with_images(connection, touched))
    _count_outcomes(connection, restored, 1)
    _count_outcomes(connection, superseded, -1)
    _refresh_results(connection, run_ids, study_ids, changes)
    return len(changes.new)


def _returning_id(statement: Any) -> Any:
    return statement.returning(images.c.id)


def _studies_with_images(connection: Connection, study_ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for chunk in chunks(sorted(study_ids)):
        these = (one_of(connection, images.c.study_id, chunk), images.c.current)
        query = select(images.c.study_id).where(*these).distinct()
        found.update(connection.execute(query).scalars())
    return found


def _count_images(connection: Connection, archive_id: int, come: Iterable[int], gone: Iterable[int]) -> None:
    change_archive_counts(connection, archive_id, add(tally(come, "images"), tally(gone, "images", -1)))


def _count_studies(connection: Connection, archive_id: int, before: set[int], after: set[int]) -> None:
    changes = add(tally(after - before, "studies"), tally(before - after, "studies", -1))
    change_archive_counts(connection, archive_id, changes)


def _count_outcomes(connection: Connection, image_ids: Sequence[int], by: int) -> None:
    """Count the outcomes, in any run, of images that are current since now, or no longer."""
    changes: dict[int, RunChanges] = {}
    for chunk in chunks(image_ids):
        rows = connection.execute(
            select(outcomes.c.run_id, outcomes.c.image_id, outcomes.c.reason).where(outcomes.c.image_id.in_(chunk))
        )
        for row in rows:
            of_run = changes.setdefault(row.run_id, RunChanges())
            of_run[block_of(row.image_id), "processed"] += by
            of_run[block_of(row.image_id), "failed"] += by if row.reason else 0
    for run_id, of_run in changes.items():
        change_run_counts(connection, run_id, of_run)


def _refresh_results(
    connection: Connection, run_ids: Iterable[int], study_ids: Mapping[str, int], changes: Changes
) -> None:
    grown = {study_ids[_placement(file).study] for file in changes.new}
    # A study that was gone has no result to update, and all its images may have been processed.
    back = {study_ids[_placement(file).study] for _, file in changes.restored + changes.corrected}
    left = {row.study_id for row, _ in changes.corrected} | {row.study_id for row in changes.superseded}
    _update_body_parts(connection, grown | back | left)
    for run_id in run_ids:
        known = refresh_study_results(connection, run_id, sorted((grown | left) - back), only_known=True)
        change_run_counts(connection, run_id, add(known, refresh_study_results(connection, run_id, sorted(back))))


def _mark_chunk_gone(connection: Connection, scan: Scan, after: int, unread: Collection[str]) -> tuple[int | None, int]:
    """Mark images of a block of ids; return the last id looked at, None at the end, and how many were marked."""
    run_ids = _lock_runs(connection, scan.archive_id)
    of_archive = (archive_counts.c.archive_id == scan.archive_id, archive_counts.c.images > 0)
    next_block = select(func.min(archive_counts.c.block)).where(
        *of_archive, archive_counts.c.block >= block_of(after + 1)
    )
    block = connection.execute(next_block).scalar_one()
    if block is None:
        return None, 0
    last = (block + 1) * BLOCK_IDS - 1
    found = exists().where(scan_entries.c.scan_id == scan.scan_id, scan_entries.c.path == images.c.path)
    rows = connection.execute(
        select(images.c.id, images.c.study_id, images.c.path)
        # The sum keeps planners from reading the whole archive through the index on archive_id.
        .where(images.c.archive_id + 0 == scan.archive_id, images.c.current, ~found)
        .where(images.c.id > after, images.c.id.between(block * BLOCK_IDS, last))
        .order_by(images.c.id)
        .limit(MERGE_ROWS)
    ).all()
    if len(rows) == MERGE_ROWS:
        last = rows[-1].id
    gone = [row for row in rows if not _is_at_or_below(row.path, unread)]
    for chunk in chunks(gone):
        connection.execute(update(images).where(images.c.id.in_([row.id for row in chunk])).values(current=False))
    study_ids = {row.study_id for row in gone}
    gone_ids = [row.id for row in gone]
    _update_body_parts(connection, study_ids)
    _count_images(connection, scan.archive_id, [], gone_ids)
    _count_studies(connection, scan.archive_id, study_ids, _studies_with_images(connection, study_ids))
    _count_outcomes(connection, gone_ids, -1)
    for run_id in run_ids:
        changes = refresh_study_results(connection, run_id, sorted(study_ids), only_known=True)
        change_run_counts(connection, run_id, changes)
    return last, len(gone)


def _is_at_or_below(path: str, paths: Collection[str]) -> bool:
    return path in paths or any(parent.as_posix() in paths for parent in PurePosixPath(path).parents)


def _update_body_parts(connection: Connection, study_ids: Iterable[int]) -> None:
    """Set the body parts of studies to those of their current images; a study without images keeps what it has."""
    for chunk in chunks(sorted(study_ids)):
        rows = connection.execute(
            select(images.c.study_id, images.c.body_part)
            .where(images.c.study_id.in_(chunk), images.c.current)
            .distinct()
            .order_by(images.c.study_id, images.c.body_part)
        ).all()
        parts: dict[int, list[str]] = {}
        for row in rows:
            parts.setdefault(row.study_id, []).extend([row.body_part] if row.body_part else [])
        known = connection.execute(select(studies.c.id, studies.c.body_parts).where(studies.c.id.in_(list(parts))))
        for study in known.all():
            body_parts = ",".join(parts[study.id]) or None
            if body_parts != study.body_parts:
                connection.execute(update(studies).where(studies.c.id == study.id).values(body_parts=body_parts))


def _lock_runs(connection: Connection, archive_id: int) -> list[int]:
    # A batch that is being stored locks its run against this; it would otherwise count a study's images as they were.
    query = select(runs.c.id).where(runs.c.archive_id == archive_id).order_by(runs.c.id)
    run_ids = list(connection.execute(query).scalars())
    for run_id in run_ids:
        lock_run(connection, run_id)
    return run_ids


def _image_rows(connection: Connection, archive_id: int, paths: Sequence[str]) -> dict[str, list[ImageRow]]:
    found: dict[str, list[ImageRow]] = {}
    for chunk in chunks(paths):
        for row in connection.execute(
            select(images).where(images.c.archive_id == archive_id, one_of(connection, images.c.path, chunk))
        ).mappings():
            image = ImageRow(
                image_id=row["id"],
                study_id=row["study_id"],
                size=row["size"],
                mtime_ns=row["mtime_ns"],
                current=row["current"],
                attributes=tuple(row[name] for name in IMAGE_ATTRIBUTES),
            )
            found.setdefault(row["path"], []).append(image)
    return found


def _study_ids(connection: Connection, archive_id: int, files: Sequence[ArchiveFile]) -> dict[str, int]:
    """Insert or update the studies of these files; return their ids by key."""
    placements = {placement.study: placement for placement in map(_placement, files)}
    ids: dict[str, int] = {}
    for keys in chunks(sorted(placements)):
        rows = [
            {
                "archive_id": archive_id,
                "key": key,
                "human_label": placements[key].human_label,
                "patient": placements[key].patient,
            }
            for key in keys
        ]
        insert_many(connection, studies, rows, _or_refresh)
        these = (studies.c.archive_id == archive_id, one_of(connection, studies.c.key, keys))
        ids.update({row.key: row.id for row in connection.execute(select(studies.c.key, studies.c.id).where(*these))})
    return ids


def _or_refresh(statement: Any) -> Any:
    human_label = statement.excluded.human_label
    # A scan without the pseudonym key does not know the patients, and keeps those that are known.
    patient = func.coalesce(statement.excluded.patient, studies.c.patient)
    changed = or_(human_label.is_distinct_from(studies.c.human_label), patient.is_distinct_from(studies.c.patient))
    fresh = {"human_label": human_label, "patient": patient}
    return statement.on_conflict_do_update(index_elements=["archive_id", "key"], set_=fresh, where=changed)


def _study_attributes(connection: Connection, scan: Scan, keys: Collection[str]) -> dict[str, dict[str, str | None]]:
    """Return label and patient of staged studies, by key: not every image of a study need name them."""
    attributes: dict[str, dict[str, str | None]] = {}
    columns = [func.max(scan_entries.c[name]).label(name) for name in ("human_label", "patient")]
    for chunk in chunks(sorted(keys)):
        query = (
            select(scan_entries.c.study_key, *columns)
            .where(scan_entries.c.scan_id == scan.scan_id, scan_entries.c.study_key.in_(chunk))
            .group_by(scan_entries.c.study_key)
        )
        for row in connection.execute(query):
            attributes[row.study_key] = {"human_label": row.human_label, "patient": row.patient}
    return attributes


def _staging_row(scan: Scan, file: ArchiveFile) -> dict[str, Any]:
    placement = _placement(file)
    return {
        "scan_id": scan.scan_id,
        "study_key": placement.study,
        "path": file.path,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "human_label": placement.human_label,
        "patient": placement.patient,
        **dict(zip(IMAGE_ATTRIBUTES, _attributes(file), strict=True)),
    }


def _staged_file(row: RowMapping, study: Mapping[str, str | None]) -> ArchiveFile:
    label = study["human_label"]
    placement = Placement(
        row["study_key"],
        human_label=Label(label) if label else None,
        patient=study["patient"],
        **{name: row[name] for name in IMAGE_ATTRIBUTES},
    )
    return ArchiveFile(row["path"], row["size"], row["mtime_ns"], placement)


def _new_row(archive_id: int, study_ids: Mapping[str, int], file: ArchiveFile) -> dict[str, Any]:
    return {
        "archive_id": archive_id,
        "study_id": study_ids[_placement(file).study],
        "path": file.path,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "current": True,
        **dict(zip(IMAGE_ATTRIBUTES, _attributes(file), strict=True)),
    }


def _attributes(file: ArchiveFile) -> tuple[str | None, ...]:
    placement = _placement(file)
    return placement.body_part, placement.view, placement.laterality, placement.series


def _placement(file: ArchiveFile) -> Placement:
    if file.placement is None:
        raise ValueError("a file must have its placement before it is staged")
    return file.placement
