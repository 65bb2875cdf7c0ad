"""Count again, from the rows themselves, what `db.counts` keeps."""

from collections import Counter

from sqlalchemy import Connection, select

from db import counts
from db.counts import Changes
from db.session import Database
from db.study_results import COUNTED_AS, STATUSES_WITH_SCORE
from db.tables import archive_counts, images, outcomes, run_counts, study_results
from xray.vocabulary import StudyStatus

Counted = dict[tuple[str, int], Changes]
"""Counts by block and column, of each archive and run."""


def kept_counts(database: Database) -> Counted:
    """Return the counts that the database keeps, without zeros."""
    found: Counted = {}
    with database.read() as connection:
        for table in (archive_counts, run_counts):
            for row in connection.execute(select(table)).mappings():
                owner = table.columns[0].name
                changes = found.setdefault((owner, row[owner]), Counter())
                for column in table.columns:
                    if not column.primary_key and row[column.name]:
                        changes[row["block"], column.name] = row[column.name]
    return {owner: changes for owner, changes in found.items() if changes}


def recount(database: Database) -> Counted:
    """Return what these counts should be."""
    found: Counted = {}
    with database.read() as connection:
        _count_files(connection, found)
        _count_outcomes(connection, found)
        for row in connection.execute(select(study_results)):
            columns = [COUNTED_AS[StudyStatus(row.status)]] if row.status != StudyStatus.PENDING else []
            if row.flagged:
                assert row.status in STATUSES_WITH_SCORE
                columns += [f"flagged_{columns[0]}"]
            for column in columns:
                _one_more(found, "run_id", row.run_id, row.study_id, column)
    return found


def _count_files(connection: Connection, found: Counted) -> None:
    current = connection.execute(select(images.c.archive_id, images.c.id, images.c.study_id).where(images.c.current))
    rows = current.all()
    for row in rows:
        _one_more(found, "archive_id", row.archive_id, row.id, "images")
    for archive_id, study_id in {(row.archive_id, row.study_id) for row in rows}:
        _one_more(found, "archive_id", archive_id, study_id, "studies")


def _count_outcomes(connection: Connection, found: Counted) -> None:
    query = select(outcomes, images.c.current).join(images, images.c.id == outcomes.c.image_id)
    contents = set()
    for row in connection.execute(query):
        contents.add((row.run_id, row.content_id))
        if row.current:
            _one_more(found, "run_id", row.run_id, row.image_id, "processed")
            if row.reason is not None:
                _one_more(found, "run_id", row.run_id, row.image_id, "failed")
    for run_id, content_id in contents:
        if content_id is not None:
            _one_more(found, "run_id", run_id, content_id, "inferred")


def _one_more(found: Counted, owner: str, owner_id: int, row_id: int, column: str) -> None:
    found.setdefault((owner, owner_id), Counter())[row_id // counts.BLOCK_IDS, column] += 1
