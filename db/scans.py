"""Open, renew, take over and close a scan; `db.merge` writes the files that it finds.

A scan is fenced like a batch: a process that takes over an expired scan raises its token, so the earlier holder's next
write matches no row and raises `TakenOver`. Staged rows of the expired scan are deleted; merged ones are found again.
"""

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from db.batching import FIRST_TOKENS, make_batches
from db.runs import lock_run
from db.session import Database, Now
from db.tables import (
    archive_counts,
    archives,
    batches,
    read_studies,
    run_counts,
    runs,
    scan_entries,
    scans,
    skipped_files,
    studies,
    study_results,
)
from xray.errors import TakenOver
from xray.message import LEASE_SECONDS
from xray.vocabulary import SkipReason

DELETE_ROWS = 20_000
"""Staging rows that one transaction deletes: few enough that workers on SQLite do not wait long."""


@dataclass(frozen=True)
class Scan:
    """A lease on an open scan.

    Parameters
    ----------
    scan_id, archive_id, run_id : int
    layout : str
    token : int
        Its fencing token.
    selection : str
        Which studies it looks for (`producer.selection`); empty for all.
    """

    scan_id: int
    archive_id: int
    run_id: int
    layout: str
    token: int
    selection: str = ""


@dataclass(frozen=True)
class OpenScan:
    """An open scan as other processes see it; a living holder renews `lease_expires_at` every few seconds."""

    scan_id: int
    run_id: int
    archive: str
    root: str
    holder: str
    found: int
    lease_expires_at: float
    expired: bool


@dataclass(frozen=True)
class ClosedScan:
    """What a scan that was closed has found."""

    layout: str
    found: int
    gone: int
    skipped: Mapping[str, int]


def begin_scan(database: Database, run_id: int, layout: str, holder: str, selection: str = "") -> Scan | None:
    """Open a scan for a run, or return None if another scan of the archive is open."""
    # Random, as a batch's: no scan that was deleted may be taken for this one.
    token = secrets.randbelow(FIRST_TOKENS)
    try:
        with database.write() as connection:
            archive_id = connection.execute(select(runs.c.archive_id).where(runs.c.id == run_id)).scalar_one()
            scan_id = connection.execute(
                insert(scans)
                .values(
                    archive_id=archive_id,
                    run_id=run_id,
                    layout=layout,
                    selection=selection,
                    token=token,
                    holder=holder,
                    lease_expires_at=Now() + LEASE_SECONDS,
                    found=0,
                    added=0,
                    gone=0,
                    skipped="{}",
                    started_at=Now(),
                )
                .returning(scans.c.id)
            ).scalar_one()
    except IntegrityError:
        return None
    return Scan(scan_id, archive_id, run_id, layout, token, selection)


def open_scans(database: Database, archive_id: int | None = None) -> list[OpenScan]:
    """Return the open scans of one archive, or of all."""
    query = (
        select(
            scans.c.id,
            scans.c.run_id,
            archives.c.name,
            archives.c.root,
            scans.c.holder,
            scans.c.found,
            scans.c.lease_expires_at,
            (scans.c.lease_expires_at < Now()).label("expired"),
        )
        .join(archives, archives.c.id == scans.c.archive_id)
        .where(scans.c.finished_at.is_(None))
        .order_by(scans.c.id)
    )
    if archive_id is not None:
        query = query.where(scans.c.archive_id == archive_id)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        OpenScan(row.id, row.run_id, row.name, row.root, row.holder, row.found, row.lease_expires_at, bool(row.expired))
        for row in rows
    ]


def closed_scan(database: Database, scan_id: int) -> ClosedScan | None:
    """Return what a scan has found, or None if it is not closed or was deleted."""
    query = select(scans.c.layout, scans.c.found, scans.c.gone, scans.c.skipped)
    with database.read() as connection:
        row = connection.execute(query.where(scans.c.id == scan_id, scans.c.finished_at.is_not(None))).one_or_none()
    return None if row is None else ClosedScan(row.layout, row.found, row.gone, json.loads(row.skipped))


def take_over(
    database: Database, scan_id: int, holder: str, layout: str | None = None, selection: str = ""
) -> Scan | None:
    """Take over an open scan whose lease has expired, to read its archive again from the start.

    Parameters
    ----------
    database : Database
    scan_id : int
    holder : str
        Host and process id of the new holder.
    layout : str or None
        Replaces the scan's layout and start time, when a user asks for this scan again.
    selection : str
        Replaces its selection of studies then.

    Returns
    -------
    Scan or None
        None if another process was faster.
    """
    changed = {} if layout is None else {"layout": layout, "selection": selection, "started_at": Now()}
    with database.write() as connection:
        row = connection.execute(
            update(scans)
            .where(scans.c.id == scan_id, scans.c.finished_at.is_(None), scans.c.lease_expires_at < Now())
            .values(
                token=scans.c.token + 1,
                holder=holder,
                lease_expires_at=Now() + LEASE_SECONDS,
                found=0,
                added=0,
                gone=0,
                **changed,
            )
            .returning(scans.c.archive_id, scans.c.run_id, scans.c.layout, scans.c.token, scans.c.selection)
        ).one_or_none()
    if row is None:
        return None
    taken = Scan(scan_id, row.archive_id, row.run_id, row.layout, row.token, row.selection)
    _delete_staging_rows(database, taken)
    return taken


def renew_scan(database: Database, scan: Scan) -> None:
    """Renew a scan's lease while it finds no files to stage.

    Raises
    ------
    TakenOver
        Another process has taken the scan over, or it is closed.
    """
    with database.write() as connection:
        renew_lease(connection, scan)


def release_scan(database: Database, scan: Scan) -> None:
    """Release the lease of a scan that an outage interrupted, so that any process can take it over at once."""
    with database.write() as connection:
        renew_lease(connection, scan)
        connection.execute(update(scans).where(scans.c.id == scan.scan_id).values(lease_expires_at=Now() - 1))


def had_other_layout(database: Database, scan: Scan) -> bool:
    """Tell whether the archive's layout is not decided yet, and an earlier scan used another than this scan."""
    undecided = exists().where(archives.c.id == scan.archive_id, archives.c.layout.is_(None))
    other = scans.c.archive_id == scan.archive_id, scans.c.finished_at.is_not(None), scans.c.layout != scan.layout
    with database.read() as connection:
        return bool(connection.execute(select(and_(undecided, exists().where(*other)))).scalar_one())


def close_scan(
    database: Database,
    scan: Scan,
    skipped: Mapping[str, int],
    *,
    decided: bool = True,
    emptied: Collection[str] = (),
) -> int:
    """Make the run's batches, delete the staging rows and close the scan; the last of several transactions closes it.

    Parameters
    ----------
    database : Database
    scan : Scan
        A scan whose files are merged.
    skipped : mapping of str to int
        How many files were skipped, by reason.
    decided : bool
        Whether later scans use the scan's layout too.
    emptied : collection of str
        Folders that held images and are empty, for `folders_found_empty` in the next scan.

    Returns
    -------
    int
        The number of batches made for images that the run has not processed.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    total = 0
    next_block: int | None = 0
    while next_block is not None:
        with database.write() as connection:
            renew_lease(connection, scan)
            lock_run(connection, scan.run_id)
            # A scan undoes a cancellation from before its start, and obeys one from during the scan.
            started = select(scans.c.started_at).where(scans.c.id == scan.scan_id).scalar_subquery()
            connection.execute(
                update(runs).where(runs.c.id == scan.run_id, runs.c.cancelled_at < started).values(cancelled_at=None)
            )
            made, next_block = make_batches(connection, scan.run_id, next_block)
            total += made
    _delete_staging_rows(database, scan)
    with database.write() as connection:
        renew_lease(connection, scan)
        if decided:
            connection.execute(update(archives).where(archives.c.id == scan.archive_id).values(layout=scan.layout))
        connection.execute(delete(skipped_files).where(*_found_empty(scan.archive_id)))
        if emptied:
            same = {"archive_id": scan.archive_id, "size": 0, "mtime_ns": 0, "reason": SkipReason.EMPTIED_FOLDER}
            connection.execute(insert(skipped_files), [{**same, "path": folder} for folder in emptied])
        connection.execute(
            update(scans)
            .where(scans.c.id == scan.scan_id)
            .values(finished_at=Now(), skipped=json.dumps(dict(sorted(skipped.items()))))
        )
    return total


def folders_found_empty(database: Database, archive_id: int) -> set[str]:
    """Return the folders that held images when the last scan of an archive that was closed found them empty."""
    with database.read() as connection:
        found = select(skipped_files.c.path).where(*_found_empty(archive_id))
        return set(connection.execute(found).scalars())


def _found_empty(archive_id: int) -> tuple[ColumnElement[bool], ...]:
    return skipped_files.c.archive_id == archive_id, skipped_files.c.reason == SkipReason.EMPTIED_FOLDER


def abandon_scan(database: Database, scan: Scan) -> None:
    """Delete a scan that found no images, and the run and archive that were made for it."""
    _delete_staging_rows(database, scan)
    with database.write() as connection:
        renew_lease(connection, scan)
        connection.execute(delete(scans).where(scans.c.id == scan.scan_id))
        # A scan that was interrupted while it was being closed has made batches.
        needed = or_(
            exists().where(scans.c.run_id == scan.run_id),
            exists().where(batches.c.run_id == scan.run_id),
        )
        if not connection.execute(select(needed)).scalar_one():
            connection.execute(delete(study_results).where(study_results.c.run_id == scan.run_id))
            connection.execute(delete(run_counts).where(run_counts.c.run_id == scan.run_id))
            connection.execute(delete(runs).where(runs.c.id == scan.run_id))
        # A scan that was interrupted during its merge has left studies, which the next scan finds again.
        used = or_(
            exists().where(runs.c.archive_id == scan.archive_id),
            exists().where(studies.c.archive_id == scan.archive_id),
        )
        if not connection.execute(select(used)).scalar_one():
            connection.execute(delete(skipped_files).where(skipped_files.c.archive_id == scan.archive_id))
            connection.execute(delete(read_studies).where(read_studies.c.archive_id == scan.archive_id))
            connection.execute(delete(archive_counts).where(archive_counts.c.archive_id == scan.archive_id))
            connection.execute(delete(archives).where(archives.c.id == scan.archive_id))


def renew_lease(connection: Connection, scan: Scan) -> None:
    """Renew a scan's lease within a transaction; raises `TakenOver` as `renew_scan` does."""
    renewed = connection.execute(
        update(scans)
        .where(scans.c.id == scan.scan_id, scans.c.token == scan.token, scans.c.finished_at.is_(None))
        .values(lease_expires_at=Now() + LEASE_SECONDS)
    ).rowcount
    if renewed != 1:
        raise TakenOver("another process has taken this scan over; see: bonescreen status")


def _delete_staging_rows(database: Database, scan: Scan) -> None:
    """Delete a scan's staging rows, `DELETE_ROWS` in each transaction."""
    order = tuple_(scan_entries.c.study_key, scan_entries.c.path)
    last: tuple[str, str] | None = ("", "")
    while last is not None:
        rest = scan_entries.c.scan_id == scan.scan_id, order > last
        with database.write() as connection:
            renew_lease(connection, scan)
            end = connection.execute(
                select(scan_entries.c.study_key, scan_entries.c.path)
                .where(*rest)
                .order_by(scan_entries.c.study_key, scan_entries.c.path)
                .limit(1)
                .offset(DELETE_ROWS - 1)
            ).one_or_none()
            last = None if end is None else (end.study_key, end.path)
            connection.execute(delete(scan_entries).where(*rest, *([] if last is None else [order <= last])))
