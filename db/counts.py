"""Counts of images and studies, so that nobody counts a million rows to show how far a run is.

They change in the transaction that changes the rows they count, so a crash leaves them right. They are kept by blocks
of ids: workers on different blocks do not wait for each other, and `db.batching` finds unprocessed images by comparing
an archive's blocks with a run's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table

from db.session import insert_many
from db.tables import archive_counts, run_counts

BLOCK_IDS = 10_000
"""How many successive ids one row counts; a migration must count anew if this changes."""

Changes = Counter[tuple[int, str]]
"""By how much counts change, by block and column."""


def block_of(row_id: int) -> int:
    """Return the block that an id belongs to."""
    return row_id // BLOCK_IDS


def tally(row_ids: Iterable[int], column: str, by: int = 1) -> Changes:
    """Change the count of each id's block by `by`."""
    changes: Changes = Counter()
    for row_id in row_ids:
        changes[block_of(row_id), column] += by
    return changes


def add(first: Changes, second: Changes) -> Changes:
    """Add up changes; unlike ``+`` of counters, this keeps negative ones."""
    total = first.copy()
    total.update(second)
    return total


def change_archive_counts(connection: Connection, archive_id: int, changes: Changes) -> None:
    """Change the counts of an archive, whose scan is the only one that does."""
    _change(connection, archive_counts, {"archive_id": archive_id}, changes)


def change_run_counts(connection: Connection, run_id: int, changes: Changes) -> None:
    """Change the counts of a run.

    The last lock that a transaction takes, so that other workers wait for no more than its commit, and never for each
    other in a circle.
    """
    _change(connection, run_counts, {"run_id": run_id}, changes)


def _change(connection: Connection, table: Table, key: Mapping[str, int], changes: Changes) -> None:
    columns = [column.name for column in table.columns if not column.primary_key]
    blocks = sorted({block for (block, _), number in changes.items() if number})
    rows: list[dict[str, Any]] = [
        {**key, "block": block, **{column: changes[block, column] for column in columns}} for block in blocks
    ]
    if rows:
        insert_many(connection, table, rows, _or_add)


def _or_add(statement: Any) -> Any:
    keys = [column.name for column in statement.table.primary_key]
    summed = {
        column.name: column + statement.excluded[column.name]
        for column in statement.table.columns
        if not column.primary_key
    }
    return statement.on_conflict_do_update(index_elements=keys, set_=summed)
