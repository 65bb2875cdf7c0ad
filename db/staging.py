"""What a scan has found so far: staged row by row, then merged into studies and images."""

from collections.abc import Sequence

from sqlalchemy import func, insert, select, tuple_, update

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


def merge(database: Database, scan: Scan) -> None:
    """Turn staging rows into studies and images, a chunk a transaction. Raises `TakenOver`."""
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
            rows = connection.execute(query).all()
            if not rows:
                return
            entries = [Entry(**{name: getattr(row, name) for name in ENTRY_FIELDS}) for row in rows]
            added = merge_entries(connection, scan.archive_id, entries)
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(added=scans.c.added + added))
            last = (entries[-1].study_key, entries[-1].path)


def sweep(database: Database, scan: Scan) -> int:
    """Make images that the scan did not see no longer current, a chunk a transaction; return how many.

    Their results stay, for when they come back. Raises `TakenOver`.
    """
    after = total = 0
    while True:
        with database.write() as connection:
            hold(connection, scan)
            dropped = drop_unseen(connection, scan.archive_id, scan.scan_id, after, MERGE_ROWS)
            if dropped is None:
                return total
            after, number = dropped
            total += number
            connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(gone=total))
