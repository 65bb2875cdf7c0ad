"""Stage the files that a scan finds, and merge them into studies and images: gather, decide, apply."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)

from db.counts import BLOCK_IDS, add, block_of, change_archive_counts, change_run_counts, tally
from db.counts import Changes as RunChanges
from db.describe_studies import describe_results, describe_studies
from db.moved_times import DigestOf, Shift, is_shift, keep_unchanged
from db.passing_failures import PASSING
from db.runs import lock_run
from db.scans import Scan, renew_lease
from db.session import Database, chunks, insert_into, insert_many, one_of
from db.study_results import refresh_study_results
from db.tables import archive_counts, images, outcomes, runs, scan_entries, scans, studies
from xray.archives.archive_file import ArchiveFile, Placement

MERGE_ROWS = 2_000
"""Staging rows that one transaction merges: few enough that workers do not wait long, even if all files changed."""

IMAGE_ATTRIBUTES = ("body_part", "view", "laterality", "series", "modality", "intent", "patient_mark")
"""The columns of `images` that describe an image; the other attributes of a `Placement` belong to its study."""

STUDY_ATTRIBUTES = ("human_label", "patient", "accession", "study_date")
"""The columns of `studies` that describe a study: what any of its images names."""

StagingRow = tuple[str | int | None, ...]
"""The columns of `scan_entries`, in their order."""

Position = tuple[str, str]
"""Study key and path of a staging row: a merge takes them in this order."""


def stage(database: Database, scan: Scan, files: Sequence[ArchiveFile]) -> None:
    """Add files, each with its placement, to a scan's staging rows; paths must not repeat.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    rows = [_staging_row(scan, file) for file in files]
    with database.write() as connection:
        renew_lease(connection, scan)
        if rows:
            _insert_staging_rows(connection, rows)
        connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(found=scans.c.found + len(files)))


def merge(database: Database, scan: Scan, digest_of: DigestOf) -> int:
    """Turn staging rows into studies and images, a chunk in each transaction.

    A file whose time moved by whole hours, with the same size and content, has not changed: only its time is updated.

    Parameters
    ----------
    database : Database
    scan : Scan
    digest_of : callable
        Returns the SHA-256 of a file of the archive by its path, or None if it cannot be read.

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
    after = ("", "")
    compared: set[int] = set()
    while True:
        try:
            with database.write() as connection:
                renew_lease(connection, scan)
                upto = _end_of_chunk(connection, scan, after)
                if upto is None:
                    return total
                added = _merge_chunk(connection, scan, after, upto, compared)
                connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(added=scans.c.added + added))
        except _TimesMoved as moved:
            # Files are not read while a transaction locks the archive's runs.
            keep_unchanged(database, scan, moved.shifts, digest_of)
            compared.update(shift.image_id for shift in moved.shifts)
            continue
        total += added
        after = upto
        compared.clear()


def mark_gone(database: Database, scan: Scan, unread: Collection[str] = frozenset()) -> int:
    """Mark images that the scan did not find as no longer current, `MERGE_ROWS` ids in each transaction.

    Their results are kept, in case the files come back. A scan that looked for some studies only says nothing of
    others: only images of the studies that it found are marked.

    Parameters
    ----------
    database : Database
    scan : Scan
        A scan whose files are merged.
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
    for first, last in _searched_ranges(database, scan):
        with database.write() as connection:
            renew_lease(connection, scan)
            total += _mark_chunk_gone(connection, scan, first, last, unread)
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(gone=total))
    return total


def paths_not_found(database: Database, scan: Scan) -> Iterator[str]:
    """Yield the paths of the current images that a scan did not find, once its files are merged."""
    for first, last in _searched_ranges(database, scan):
        with database.write() as connection:
            renew_lease(connection, scan)
            rows = connection.execute(_select_not_found(scan, first, last)).all()
        yield from (row.path for row in rows)


def _searched_ranges(database: Database, scan: Scan) -> Iterator[tuple[int, int]]:
    """Yield the ranges of ids, at most `MERGE_ROWS` each, that hold an archive's current images, if some are lost."""
    with database.read() as connection:
        held = select(archive_counts.c.block, archive_counts.c.images).where(
            archive_counts.c.archive_id == scan.archive_id, archive_counts.c.images > 0
        )
        blocks = {row.block: row.images for row in connection.execute(held.order_by(archive_counts.c.block))}
        found = connection.execute(select(scans.c.found).where(scans.c.id == scan.scan_id)).scalar_one()
    # All files that were found are current images now.
    if sum(blocks.values()) == found:
        return
    for block in blocks:
        # Other archives may have most of a block's ids.
        ends = select(func.min(images.c.id), func.max(images.c.id)).where(
            images.c.id.between(block * BLOCK_IDS, (block + 1) * BLOCK_IDS - 1),
            images.c.archive_id + 0 == scan.archive_id,
            images.c.current,
        )
        with database.read() as connection:
            lowest, highest = connection.execute(ends).one()
        # None if they were forgotten meanwhile.
        if lowest is not None:
            for first in range(lowest, highest + 1, MERGE_ROWS):
                yield first, min(first + MERGE_ROWS - 1, highest)


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


class _TimesMoved(Exception):
    """Files of a chunk must be compared with their images before it is merged."""

    def __init__(self, shifts: Sequence[Shift]) -> None:
        super().__init__()
        self.shifts = shifts


def find_shifts(files: Iterable[ArchiveFile], rows: Mapping[str, Sequence[ImageRow]]) -> list[Shift]:
    """Find the files of which no row has the version, but a current row the size and nearly the time."""
    return [
        Shift(row.image_id, file.path, file.mtime_ns)
        for file in files
        if all((row.size, row.mtime_ns) != file.version for row in rows.get(file.path, ()))
        for row in rows.get(file.path, ())
        if row.current and row.size == file.size and is_shift(row.mtime_ns, file.mtime_ns)
    ]


def _end_of_chunk(connection: Connection, scan: Scan, after: Position) -> Position | None:
    """Return the position of the last of the next `MERGE_ROWS` staging rows, or None if there are no more."""
    order = scan_entries.c.study_key, scan_entries.c.path
    rest = select(*order).where(scan_entries.c.scan_id == scan.scan_id, tuple_(*order) > after)
    chunk = rest.order_by(*order).limit(1).offset(MERGE_ROWS - 1)
    remainder = rest.order_by(*(column.desc() for column in order)).limit(1)
    row = connection.execute(chunk).one_or_none() or connection.execute(remainder).one_or_none()
    return None if row is None else (row.study_key, row.path)


def _merge_chunk(connection: Connection, scan: Scan, after: Position, upto: Position, compared: Collection[int]) -> int:
    """Merge the staging rows after one position, up to another; return how many images are new.

    Raises `_TimesMoved` if files have to be compared first with images other than those in `compared`.

    Statements of the database insert what is new. Only files of which a version is known and which have changed in any
    way become Python objects.
    """
    run_ids = _lock_runs(connection, scan.archive_id)
    described = _upsert_studies(connection, scan, after[0], upto[0])
    order = tuple_(scan_entries.c.study_key, scan_entries.c.path)
    in_chunk = and_(scan_entries.c.scan_id == scan.scan_id, order > after, order <= upto)
    inserted = _insert_new_images(connection, scan, in_chunk)
    grown = set(inserted.values())
    rows = connection.execute(_select_changed(scan, in_chunk)).mappings().all()
    files = [_staged_file(row) for row in rows]
    study_ids = {row["study_key"]: row["study_id"] for row in rows}
    known = _image_rows(connection, scan.archive_id, [file.path for file in files])
    if shifts := [shift for shift in find_shifts(files, known) if shift.image_id not in compared]:
        raise _TimesMoved(shifts)
    changes = compare(files, known, study_ids)
    # The new images have the highest ids.
    held = _with_images(connection, grown, images.c.id < min(inserted)) if inserted else set()
    touched = {row.study_id for row in changes.superseded} | {row.study_id for row, _ in changes.corrected}
    touched = touched.union(study_ids.values()) - grown
    held |= _with_images(connection, touched)
    come = [*inserted, *_apply(connection, scan.archive_id, study_ids, changes)]
    gone = [row.image_id for row in changes.superseded]
    _count_images(connection, scan.archive_id, come, gone)
    _count_studies(connection, scan.archive_id, held, grown | _with_images(connection, touched))
    _count_outcomes(connection, [row.image_id for row, _ in changes.restored], 1)
    _count_outcomes(connection, gone, -1)
    describe_results(connection, described)
    _refresh_results(connection, run_ids, grown, study_ids, changes)
    return len(inserted) + len(changes.new)


def _upsert_studies(connection: Connection, scan: Scan, after: str, upto: str) -> Sequence[int]:
    """Insert or update the studies that begin after one key, up to another, with all their staging rows.

    Returns those that it inserted or updated.
    """
    # The body part is corrected once the images are inserted.
    staged = (
        select(
            scan_entries.c.study_key,
            *(func.max(scan_entries.c[name]).label(name) for name in STUDY_ATTRIBUTES),
            func.min(scan_entries.c.body_part).label("body_part"),
        )
        .where(
            scan_entries.c.scan_id == scan.scan_id,
            scan_entries.c.study_key > after,
            scan_entries.c.study_key <= upto,
        )
        .group_by(scan_entries.c.study_key)
        .subquery()
    )
    # A scan without the pseudonym key does not know the patients, and keeps those that are known.
    is_different = or_(
        studies.c.id.is_(None),
        *(studies.c[name].is_distinct_from(staged.c[name]) for name in STUDY_ATTRIBUTES if name != "patient"),
        staged.c.patient != func.coalesce(studies.c.patient, ""),
    )
    # The range is also that of the studies, so that PostgreSQL does not read all of them for each chunk.
    same = and_(
        studies.c.archive_id == scan.archive_id,
        studies.c.key == staged.c.study_key,
        studies.c.key > after,
        studies.c.key <= upto,
    )
    fresh = (
        select(
            literal(scan.archive_id),
            staged.c.study_key,
            staged.c.body_part,
            *(staged.c[name] for name in STUDY_ATTRIBUTES),
        )
        .outerjoin_from(staged, studies, same)
        .where(is_different)
        .order_by(staged.c.study_key)
    )
    upsert = insert_into(connection, studies).from_select(["archive_id", "key", "body_parts", *STUDY_ATTRIBUTES], fresh)
    patient = func.coalesce(upsert.excluded.patient, studies.c.patient)
    set_ = {**{name: upsert.excluded[name] for name in STUDY_ATTRIBUTES}, "patient": patient}
    complete = upsert.on_conflict_do_update(index_elements=["archive_id", "key"], set_=set_).returning(studies.c.id)
    return connection.execute(complete).scalars().all()


def _insert_new_images(connection: Connection, scan: Scan, in_chunk: ColumnElement[bool]) -> dict[int, int]:
    """Insert the images of paths that the archive never had; return the study of each, by image."""
    columns = [scan_entries.c[name] for name in ("path", "size", "mtime_ns", *IMAGE_ATTRIBUTES)]
    fresh = (
        select(literal(scan.archive_id), _study_id(scan), true(), *columns)
        .where(in_chunk, _matching_images(scan) == 0)
        .order_by(scan_entries.c.study_key, scan_entries.c.path)
    )
    names = ["archive_id", "study_id", "current", *(column.name for column in columns)]
    rows = connection.execute(insert(images).from_select(names, fresh).returning(images.c.id, images.c.study_id))
    return {row[0]: row[1] for row in rows}


def _select_changed(scan: Scan, in_chunk: ColumnElement[bool]) -> Select[Any]:
    """Select the staging rows that have no current image of the same version, study and attributes."""
    attributes = (images.c[name].is_not_distinct_from(scan_entries.c[name]) for name in IMAGE_ATTRIBUTES)
    same = _matching_images(
        scan,
        images.c.size == scan_entries.c.size,
        images.c.mtime_ns == scan_entries.c.mtime_ns,
        images.c.current,
        images.c.study_id == _study_id(scan),
        *attributes,
    )
    return select(scan_entries, _study_id(scan).label("study_id")).where(in_chunk, same == 0)


def _study_id(scan: Scan) -> ScalarSelect[int]:
    is_study = studies.c.archive_id == scan.archive_id, studies.c.key == scan_entries.c.study_key
    return select(studies.c.id).where(*is_study).correlate(scan_entries).scalar_subquery()


def _matching_images(scan: Scan, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    """Count the images at a staging row's path that meet conditions.

    PostgreSQL looks a counting subquery up in the index, row by row, whatever it knows of the sizes of the tables; NOT
    EXISTS may become a join that reads all images for each chunk.
    """
    at_path = images.c.archive_id == scan.archive_id, images.c.path == scan_entries.c.path
    return select(func.count()).where(*at_path, *conditions).correlate(scan_entries).scalar_subquery()


def _apply(connection: Connection, archive_id: int, study_ids: Mapping[str, int], changes: Changes) -> list[int]:
    """Write changes; return the images that have become current."""
    come = [row.image_id for row, _ in changes.restored]
    for ids in chunks([row.image_id for row in changes.superseded]):
        connection.execute(update(images).where(one_of(connection, images.c.id, ids)).values(current=False))
    for ids in chunks(come):
        failed = outcomes.c.reason.in_(PASSING)
        connection.execute(delete(outcomes).where(one_of(connection, outcomes.c.image_id, ids), failed))
        connection.execute(update(images).where(one_of(connection, images.c.id, ids)).values(current=True))
    if changes.corrected:
        names = ("study_id", *IMAGE_ATTRIBUTES)
        correct = update(images).where(images.c.id == bindparam("image_id"))
        connection.execute(
            correct.values({name: bindparam(f"new_{name}") for name in names}),
            [
                {"image_id": row.image_id, "new_study_id": study_ids[_placement(file).study]}
                | {f"new_{name}": value for name, value in zip(IMAGE_ATTRIBUTES, _attributes(file), strict=True)}
                for row, file in changes.corrected
            ],
        )
    for new in chunks(changes.new):
        rows = [_new_row(archive_id, study_ids, file) for file in new]
        come += insert_many(connection, images, rows, _returning_id).scalars()
    return come


def _returning_id(statement: Any) -> Any:
    return statement.returning(images.c.id)


def _with_images(connection: Connection, study_ids: Iterable[int], *conditions: ColumnElement[bool]) -> set[int]:
    """Return those of some studies that have a current image that meets conditions."""
    found: set[int] = set()
    for chunk in chunks(sorted(study_ids)):
        these = one_of(connection, images.c.study_id, chunk), images.c.current, *conditions
        found.update(connection.execute(select(images.c.study_id).where(*these).distinct()).scalars())
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
        query = select(outcomes.c.run_id, outcomes.c.image_id, outcomes.c.reason)
        for row in connection.execute(query.where(one_of(connection, outcomes.c.image_id, chunk))):
            of_run = changes.setdefault(row.run_id, RunChanges())
            of_run[block_of(row.image_id), "processed"] += by
            of_run[block_of(row.image_id), "failed"] += by if row.reason else 0
    for run_id, of_run in changes.items():
        change_run_counts(connection, run_id, of_run)


def _refresh_results(
    connection: Connection,
    run_ids: Iterable[int],
    grown: Iterable[int],
    study_ids: Mapping[str, int],
    changes: Changes,
) -> None:
    """Update the studies that got the new images `grown`, or that others of their images changed."""
    changed = {*grown, *(study_ids[_placement(file).study] for file in changes.new)}
    # A study that was gone has no result to update, and all its images may have been processed.
    back = {study_ids[_placement(file).study] for _, file in changes.restored + changes.corrected}
    left = {row.study_id for row, _ in changes.corrected} | {row.study_id for row in changes.superseded}
    describe_studies(connection, changed | back | left)
    for run_id in run_ids:
        known = refresh_study_results(connection, run_id, sorted((changed | left) - back), only_known=True)
        change_run_counts(connection, run_id, add(known, refresh_study_results(connection, run_id, sorted(back))))


def _mark_chunk_gone(connection: Connection, scan: Scan, first: int, last: int, unread: Collection[str]) -> int:
    """Mark those of a range of image ids that were not found; return how many."""
    run_ids = _lock_runs(connection, scan.archive_id)
    rows = connection.execute(_select_not_found(scan, first, last)).all()
    gone = [row for row in rows if not _is_at_or_below(row.path, unread)]
    image_ids = [row.id for row in gone]
    for ids in chunks(image_ids):
        connection.execute(update(images).where(one_of(connection, images.c.id, ids)).values(current=False))
    study_ids = {row.study_id for row in gone}
    describe_studies(connection, study_ids)
    _count_images(connection, scan.archive_id, [], image_ids)
    _count_studies(connection, scan.archive_id, study_ids, _with_images(connection, study_ids))
    _count_outcomes(connection, image_ids, -1)
    for run_id in run_ids:
        changes = refresh_study_results(connection, run_id, sorted(study_ids), only_known=True)
        change_run_counts(connection, run_id, changes)
    return len(gone)


def _select_not_found(scan: Scan, first: int, last: int) -> Select[Any]:
    """Select id, study_id and path of those current images of a range of ids that a scan did not find."""
    study_key = select(studies.c.key).where(studies.c.id == images.c.study_id).correlate(images).scalar_subquery()
    of_study = scan_entries.c.scan_id == scan.scan_id, scan_entries.c.study_key == study_key
    # Counts for the reason of `_matching_images`.
    found, of_found_study = (
        select(func.count()).where(*of_study, *condition).correlate(images).scalar_subquery()
        for condition in ([scan_entries.c.path == images.c.path], [])
    )
    # The sum keeps planners from reading the whole archive through the index on archive_id.
    in_chunk = images.c.archive_id + 0 == scan.archive_id, images.c.id.between(first, last)
    lost = select(images.c.id, images.c.study_id, images.c.path).where(*in_chunk, images.c.current, found == 0)
    return lost.where(of_found_study > 0) if scan.selection else lost


def _is_at_or_below(path: str, paths: Collection[str]) -> bool:
    return path in paths or any(parent.as_posix() in paths for parent in PurePosixPath(path).parents)


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


def _insert_staging_rows(connection: Connection, rows: Sequence[StagingRow]) -> None:
    # As fast as each driver can, as it is done for each file of each scan, and without columns that no row fills.
    by_name = zip(scan_entries.c.keys(), zip(*rows, strict=True), strict=True)
    filled = {name: values for name, values in by_name if values.count(None) < len(values)}
    filled_rows = zip(*filled.values(), strict=True)
    if connection.dialect.name == "sqlite":
        statement = insert(scan_entries).compile(dialect=connection.dialect, column_keys=list(filled))
        connection.exec_driver_sql(str(statement), list(filled_rows))
        return
    insert_many(connection, scan_entries, [dict(zip(filled, row, strict=True)) for row in filled_rows])


def _staging_row(scan: Scan, file: ArchiveFile) -> StagingRow:
    placement = _placement(file)
    return (
        scan.scan_id,
        placement.study,
        file.path,
        file.size,
        file.mtime_ns,
        placement.body_part,
        placement.human_label,
        placement.view,
        placement.laterality,
        placement.series,
        placement.modality,
        placement.intent,
        placement.patient_mark,
        placement.patient,
        placement.accession,
        placement.study_date,
    )


def _staged_file(row: RowMapping) -> ArchiveFile:
    placement = Placement(row["study_key"], **{name: row[name] for name in IMAGE_ATTRIBUTES})
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
    return tuple(getattr(placement, name) for name in IMAGE_ATTRIBUTES)


def _placement(file: ArchiveFile) -> Placement:
    if file.placement is None:
        raise ValueError("a file must have its placement before it is staged")
    return file.placement
