"""Merge what a scan found, and what it did not find, into studies and images: gather, decide, apply."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath

from sqlalchemy import Connection, delete, exists, func, insert, select, tuple_, update

from db.scans import Scan, renew_lease
from db.session import Database, chunks, insert_into
from db.study_results import refresh_study_results
from db.tables import images, outcomes, runs, scan_entries, scans, studies
from xray.vocabulary import Reason

PASSING = (Reason.VANISHED, Reason.CHANGED, Reason.BROKEN_LINK)
"""Failures of a file that was away or another one: when it is back, it is read again."""

DESCRIPTION = ("body_part", "view", "laterality", "series")
"""What an image's row says of it besides its file."""


@dataclass(frozen=True)
class Entry:
    """One file that a scan found, placed in its study."""

    study_key: str
    path: str
    size: int
    mtime_ns: int
    body_part: str | None = None
    human_label: str | None = None
    view: str | None = None
    laterality: str | None = None
    series: str | None = None
    patient: str | None = None


ENTRY_FIELDS = tuple(field.name for field in fields(Entry))


@dataclass(frozen=True)
class Version:
    """An image row as it stands: one version of one file, `description` in the order of `DESCRIPTION`."""

    image_id: int
    study_id: int
    size: int
    mtime_ns: int
    current: bool
    description: tuple[str | None, ...]


@dataclass(frozen=True)
class Changes:
    """What a scan's entries change.

    Files that are new or changed, rows to make current again, rows no longer current, and rows that are placed in
    another study or described otherwise.
    """

    new: list[Entry]
    restored: list[tuple[Version, Entry]]
    superseded: list[Version]
    corrected: list[tuple[Version, Entry]]


def changes(entries: Sequence[Entry], known: Mapping[str, Sequence[Version]], study_ids: Mapping[str, int]) -> Changes:
    """Compare found files with the image rows of their paths; `study_ids` holds the study of every entry, by key."""
    decided = Changes([], [], [], [])
    for entry in entries:
        versions = known.get(entry.path, ())
        same = [v for v in versions if (v.size, v.mtime_ns) == (entry.size, entry.mtime_ns)]
        decided.superseded.extend(v for v in versions if v not in same and v.current)
        decided.restored.extend((v, entry) for v in same if not v.current)
        placed = study_ids[entry.study_key], _description(entry)
        decided.corrected.extend((v, entry) for v in same if (v.study_id, v.description) != placed)
        if not same:
            decided.new.append(entry)
    return decided


def merge_entries(connection: Connection, archive_id: int, entries: Sequence[Entry]) -> int:
    """Bring the rows of these files up to date; return how many images are new."""
    run_ids = _hold_runs(connection, archive_id)
    study_ids = _study_ids(connection, archive_id, entries)
    decided = changes(entries, _versions(connection, archive_id, [entry.path for entry in entries]), study_ids)
    for ids in chunks([version.image_id for version in decided.superseded]):
        connection.execute(update(images).where(images.c.id.in_(ids)).values(current=False))
    for ids in chunks([version.image_id for version, _ in decided.restored]):
        connection.execute(delete(outcomes).where(outcomes.c.image_id.in_(ids), outcomes.c.reason.in_(PASSING)))
        connection.execute(update(images).where(images.c.id.in_(ids)).values(current=True))
    for version, entry in decided.corrected:
        described = dict(zip(DESCRIPTION, _description(entry), strict=True))
        correct = update(images).where(images.c.id == version.image_id)
        connection.execute(correct.values(study_id=study_ids[entry.study_key], **described))
    for rows in chunks(decided.new):
        connection.execute(insert(images), [_image_row(archive_id, study_ids, entry) for entry in rows])
    _refresh(connection, run_ids, study_ids, decided)
    return len(decided.new)


def _refresh(connection: Connection, run_ids: Iterable[int], study_ids: Mapping[str, int], decided: Changes) -> None:
    grown = {study_ids[entry.study_key] for entry in decided.new}
    # What was gone altogether has no result to bring up to date, and may have all its images settled.
    back = {study_ids[entry.study_key] for _, entry in decided.restored + decided.corrected}
    left = {version.study_id for version, _ in decided.corrected} | {version.study_id for version in decided.superseded}
    describe_studies(connection, grown | back | left)
    for run_id in run_ids:
        refresh_study_results(connection, run_id, sorted((grown | left) - back), only_known=True)
        refresh_study_results(connection, run_id, sorted(back))


def drop_unseen(
    connection: Connection, scan: Scan, after: int, limit: int, not_looked_at: Collection[str]
) -> tuple[int | None, int]:
    """Make images that a scan did not see no longer current, a chunk at a time in id order.

    Returns
    -------
    tuple of (int or None, int)
        The last id looked at, to go on after, None at the end; and how many were dropped.
    """
    run_ids = _hold_runs(connection, scan.archive_id)
    seen = exists().where(scan_entries.c.scan_id == scan.scan_id, scan_entries.c.path == images.c.path)
    rows = connection.execute(
        select(images.c.id, images.c.study_id, images.c.path)
        .where(images.c.archive_id == scan.archive_id, images.c.current, images.c.id > after, ~seen)
        .order_by(images.c.id)
        .limit(limit)
    ).all()
    if not rows:
        return None, 0
    gone = [row for row in rows if not _is_below(row.path, not_looked_at)]
    for chunk in chunks(gone):
        connection.execute(update(images).where(images.c.id.in_([row.id for row in chunk])).values(current=False))
    dropped = {row.study_id for row in gone}
    describe_studies(connection, dropped)
    for run_id in run_ids:
        refresh_study_results(connection, run_id, sorted(dropped), only_known=True)
    return rows[-1].id, len(gone)


def _is_below(path: str, places: Collection[str]) -> bool:
    """Tell whether a path is one of some places, or lies below one."""
    return path in places or any(parent.as_posix() in places for parent in PurePosixPath(path).parents)


def describe_studies(connection: Connection, study_ids: Iterable[int]) -> None:
    """Name the body parts of studies anew, after their current images; a study without any keeps what it says."""
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
            named = ",".join(parts[study.id]) or None
            if named != study.body_parts:
                connection.execute(update(studies).where(studies.c.id == study.id).values(body_parts=named))


def _hold_runs(connection: Connection, archive_id: int) -> list[int]:
    # A batch that is being stored locks its run against this: it would else count a study's images as they were.
    query = select(runs.c.id).where(runs.c.archive_id == archive_id).order_by(runs.c.id).with_for_update()
    return list(connection.execute(query).scalars())


def _versions(connection: Connection, archive_id: int, paths: Sequence[str]) -> dict[str, list[Version]]:
    known: dict[str, list[Version]] = {}
    for chunk in chunks(paths):
        for row in connection.execute(
            select(images).where(images.c.archive_id == archive_id, images.c.path.in_(chunk))
        ).mappings():
            version = Version(
                image_id=row["id"],
                study_id=row["study_id"],
                size=row["size"],
                mtime_ns=row["mtime_ns"],
                current=row["current"],
                description=tuple(row[name] for name in DESCRIPTION),
            )
            known.setdefault(row["path"], []).append(version)
    return known


def _study_ids(connection: Connection, archive_id: int, entries: Sequence[Entry]) -> dict[str, int]:
    found = {entry.study_key: entry for entry in entries}
    ids: dict[str, int] = {}
    for keys in chunks(sorted(found)):
        upsert = insert_into(connection, studies)
        # A scan without the pseudonym key knows no patient, and takes none away.
        patient = func.coalesce(upsert.excluded.patient, studies.c.patient)
        fresh = {"human_label": upsert.excluded.human_label, "patient": patient}
        connection.execute(
            upsert.on_conflict_do_update(index_elements=["archive_id", "key"], set_=fresh),
            [
                {
                    "archive_id": archive_id,
                    "key": key,
                    "human_label": found[key].human_label,
                    "patient": found[key].patient,
                }
                for key in keys
            ],
        )
        rows = connection.execute(
            select(studies.c.key, studies.c.id).where(studies.c.archive_id == archive_id, studies.c.key.in_(keys))
        )
        ids.update({row.key: row.id for row in rows})
    return ids


def _image_row(archive_id: int, study_ids: Mapping[str, int], entry: Entry) -> dict[str, object]:
    return {
        "archive_id": archive_id,
        "study_id": study_ids[entry.study_key],
        "path": entry.path,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "current": True,
        **dict(zip(DESCRIPTION, _description(entry), strict=True)),
    }


def _description(entry: Entry) -> tuple[str | None, ...]:
    return entry.body_part, entry.view, entry.laterality, entry.series


MERGE_ROWS = 5_000
"""Staging rows a merge transaction takes: short enough that workers on SQLite are not kept waiting."""


def stage(database: Database, scan: Scan, entries: Sequence[Entry]) -> None:
    """Add found files to a scan's staging rows; paths must not repeat. Raises `TakenOver`."""
    with database.write() as connection:
        renew_lease(connection, scan)
        for chunk in chunks(entries):
            connection.execute(insert(scan_entries), [{"scan_id": scan.scan_id, **vars(entry)} for entry in chunk])
        connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(found=scans.c.found + len(entries)))


def staged_paths(database: Database, scan: Scan, paths: Sequence[str]) -> set[str]:
    """Tell which paths a scan has staged already."""
    found: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(paths):
            query = select(scan_entries.c.path).where(
                scan_entries.c.scan_id == scan.scan_id, scan_entries.c.path.in_(chunk)
            )
            found.update(connection.execute(query).scalars())
    return found


def studies_of_two_labels(database: Database, scan: Scan, limit: int) -> list[str]:
    """Name studies, at most `limit`, whose staged images carry different human labels."""
    label = scan_entries.c.human_label
    query = (
        select(scan_entries.c.study_key)
        .where(scan_entries.c.scan_id == scan.scan_id)
        .group_by(scan_entries.c.study_key)
        .having(func.min(label) != func.max(label))
        .order_by(scan_entries.c.study_key)
        .limit(limit)
    )
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def merge(database: Database, scan: Scan) -> int:
    """Turn staging rows into studies and images, a chunk a transaction; return how many images are new.

    Raises `TakenOver`.
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
            told = _told_of_studies(connection, scan, {row["study_key"] for row in rows})
            entries = [Entry(**{name: row[name] for name in ENTRY_FIELDS} | told[row["study_key"]]) for row in rows]
            added = merge_entries(connection, scan.archive_id, entries)
            total += added
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(added=scans.c.added + added))
            last = (entries[-1].study_key, entries[-1].path)


def _told_of_studies(connection: Connection, scan: Scan, keys: Collection[str]) -> dict[str, dict[str, str | None]]:
    """Say what any of a study's images tells of the whole study: one may be silent."""
    told: dict[str, dict[str, str | None]] = {}
    columns = [func.max(scan_entries.c[name]).label(name) for name in ("human_label", "patient")]
    for chunk in chunks(sorted(keys)):
        query = (
            select(scan_entries.c.study_key, *columns)
            .where(scan_entries.c.scan_id == scan.scan_id, scan_entries.c.study_key.in_(chunk))
            .group_by(scan_entries.c.study_key)
        )
        for row in connection.execute(query):
            told[row.study_key] = {"human_label": row.human_label, "patient": row.patient}
    return told


def sweep(database: Database, scan: Scan, not_looked_at: Collection[str] = frozenset()) -> int:
    """Make images that the scan did not see no longer current, a chunk a transaction; return how many.

    Their results stay, for when they come back. Images at or below the paths `not_looked_at` stay as they are, as
    nothing is known of them. Raises `TakenOver`.
    """
    total = 0
    after: int | None = 0
    while after is not None:
        with database.write() as connection:
            renew_lease(connection, scan)
            after, number = drop_unseen(connection, scan, after, MERGE_ROWS, not_looked_at)
            total += number
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(gone=total))
    return total
