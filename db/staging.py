"""What a scan has found so far: staged row by row, then merged into studies and images."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, func, insert, select, tuple_, update

from db.merge import ENTRY_FIELDS, Entry, drop_unseen, merge_entries
from db.scans import Scan, hold
from db.session import Database
from db.tables import scan_entries, scans
from db.upsert import chunks

MERGE_ROWS = 5_000
"""Staging rows a merge transaction takes: short enough that workers on SQLite are not kept waiting."""


def stage(database: Database, scan: Scan, entries: Sequence[Entry]) -> None:
    """Add found files to a scan's staging rows; paths must not repeat. Raises `TakenOver`."""
    with database.write() as connection:
        hold(connection, scan)
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
            hold(connection, scan)
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
            hold(connection, scan)
            after, number = drop_unseen(connection, scan, after, MERGE_ROWS, not_looked_at)
            total += number
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(gone=total))
    return total
