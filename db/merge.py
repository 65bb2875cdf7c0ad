"""Merge what a scan found, and what it did not find, into studies and images: gather, decide, apply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, exists, insert, select, update

from db.store import refresh_studies
from db.tables import images, outcomes, runs, scan_entries, studies
from db.upsert import chunks, insert_into
from xray.vocabulary import Reason

PASSING = (Reason.VANISHED, Reason.CHANGED, Reason.BROKEN_LINK)
"""Failures of a file that was away or another one: when it is back, it is read again."""


@dataclass(frozen=True)
class Entry:
    """One file that a scan found, placed in its study."""

    study_key: str
    path: str
    size: int
    mtime_ns: int
    body_part: str | None
    human_label: str | None


@dataclass(frozen=True)
class Version:
    """An image row as it stands: one version of one file."""

    image_id: int
    size: int
    mtime_ns: int
    current: bool


@dataclass(frozen=True)
class Changes:
    """What a scan's entries change: files new or changed, rows to make current again, rows no longer current."""

    new: list[Entry]
    restored: list[tuple[int, Entry]]
    superseded: list[int]


def changes(entries: Sequence[Entry], known: Mapping[str, Sequence[Version]]) -> Changes:
    """Compare found files with the image rows of their paths."""
    decided = Changes([], [], [])
    for entry in entries:
        versions = known.get(entry.path, ())
        same = [v for v in versions if (v.size, v.mtime_ns) == (entry.size, entry.mtime_ns)]
        decided.superseded.extend(v.image_id for v in versions if v not in same)
        decided.restored.extend((v.image_id, entry) for v in same if not v.current)
        if not same:
            decided.new.append(entry)
    return decided


def merge_entries(connection: Connection, archive_id: int, entries: Sequence[Entry]) -> int:
    """Bring the rows of these files up to date; return how many images are new."""
    run_ids = _hold_runs(connection, archive_id)
    study_ids = _study_ids(connection, archive_id, entries)
    decided = changes(entries, _versions(connection, archive_id, [entry.path for entry in entries]))
    for ids in chunks(decided.superseded):
        connection.execute(update(images).where(images.c.id.in_(ids), images.c.current).values(current=False))
    for ids in chunks([image_id for image_id, _ in decided.restored]):
        connection.execute(delete(outcomes).where(outcomes.c.image_id.in_(ids), outcomes.c.reason.in_(PASSING)))
        connection.execute(update(images).where(images.c.id.in_(ids)).values(current=True))
    for rows in chunks(decided.new):
        connection.execute(insert(images), [_image_row(archive_id, study_ids, entry) for entry in rows])
    grown = {study_ids[entry.study_key] for entry in decided.new}
    # What was gone altogether has no result to bring up to date, and may have all its images settled.
    back = {study_ids[entry.study_key] for _, entry in decided.restored}
    for run_id in run_ids:
        refresh_studies(connection, run_id, sorted(grown - back), only_known=True)
        refresh_studies(connection, run_id, sorted(back))
    return len(decided.new)


def drop_unseen(
    connection: Connection, archive_id: int, scan_id: int, after: int, limit: int
) -> tuple[int, int] | None:
    """Make images that a scan did not see no longer current, a chunk at a time in id order.

    Returns
    -------
    tuple of (int, int), or None
        The last id dropped, to go on after, and how many there were; None when there are no more.
    """
    run_ids = _hold_runs(connection, archive_id)
    seen = exists().where(scan_entries.c.scan_id == scan_id, scan_entries.c.path == images.c.path)
    rows = connection.execute(
        select(images.c.id, images.c.study_id)
        .where(images.c.archive_id == archive_id, images.c.current, images.c.id > after, ~seen)
        .order_by(images.c.id)
        .limit(limit)
    ).all()
    if not rows:
        return None
    for chunk in chunks(rows):
        connection.execute(update(images).where(images.c.id.in_([row.id for row in chunk])).values(current=False))
    for run_id in run_ids:
        refresh_studies(connection, run_id, sorted({row.study_id for row in rows}), only_known=True)
    return rows[-1].id, len(rows)


def _hold_runs(connection: Connection, archive_id: int) -> list[int]:
    # A batch that is being stored locks its run against this: it would else count a study's images as they were.
    query = select(runs.c.id).where(runs.c.archive_id == archive_id).order_by(runs.c.id).with_for_update()
    return list(connection.execute(query).scalars())


def _versions(connection: Connection, archive_id: int, paths: Sequence[str]) -> dict[str, list[Version]]:
    known: dict[str, list[Version]] = {}
    for chunk in chunks(paths):
        for row in connection.execute(
            select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns, images.c.current).where(
                images.c.archive_id == archive_id, images.c.path.in_(chunk)
            )
        ):
            known.setdefault(row.path, []).append(Version(row.id, row.size, row.mtime_ns, row.current))
    return known


def _study_ids(connection: Connection, archive_id: int, entries: Sequence[Entry]) -> dict[str, int]:
    found = {entry.study_key: entry for entry in entries}
    ids: dict[str, int] = {}
    for keys in chunks(sorted(found)):
        upsert = insert_into(connection, studies)
        fresh = {name: upsert.excluded[name] for name in ("body_part", "human_label")}
        connection.execute(
            upsert.on_conflict_do_update(index_elements=["archive_id", "key"], set_=fresh),
            [
                {
                    "archive_id": archive_id,
                    "key": key,
                    "body_part": found[key].body_part,
                    "human_label": found[key].human_label,
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
    }
