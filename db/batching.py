"""Make batches of a run's unprocessed images."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, insert, select

from db.counts import BLOCK_IDS
from db.runs import lock_run
from db.tables import archive_counts, batches, images, outcomes, run_counts, runs
from xray.vocabulary import OPEN_STATES, BatchState

BLOCKS_AT_ONCE = 5
"""Blocks of ids that one transaction searches for unprocessed images: it then lasts well below a second."""

FIRST_TOKENS = 2**30
"""A batch's fencing token begins below this, half of what its column stores."""


@dataclass(frozen=True)
class IdRange:
    """A range of image ids, both ends included, and how many of them belong to the batch."""

    first: int
    last: int
    images: int


def is_open() -> ColumnElement[bool]:
    """Select open batches; as the index on them says it, as SQLite does not use that index otherwise."""
    return batches.c.state.in_(bindparam("open_states", OPEN_STATES, expanding=True, literal_execute=True))


def is_pending() -> ColumnElement[bool]:
    """Select batches that wait for a worker."""
    return and_(is_open(), batches.c.state == BatchState.PENDING)


def is_in(state: BatchState) -> ColumnElement[bool]:
    """Select the batches of all runs that are in a state, which is an open one."""
    # By run, as the index on open batches begins with it.
    return and_(batches.c.run_id.in_(select(runs.c.id)), is_open(), batches.c.state == state)


def make_batches(connection: Connection, run_id: int, block: int = 0) -> tuple[int, int | None]:
    """Make batches of a run's current images that have no outcome and are in no open batch.

    Scanning, resuming and retrying all call this; the only other source of batches is the splitting of one. A
    cancelled run gets none. One call makes batches of some blocks of ids, and the caller commits before it goes on
    with the next ones, so that nobody waits long.

    Parameters
    ----------
    connection : Connection
    run_id : int
    block : int
        Begin at this block of ids.

    Returns
    -------
    tuple of (int, int or None)
        The number of batches made, and the block to go on with; None at the end.
    """
    lock_run(connection, run_id)
    run = connection.execute(
        select(runs.c.archive_id, runs.c.batch_size, runs.c.cancelled_at).where(runs.c.id == run_id)
    ).one()
    if run.cancelled_at is not None:
        return 0, None
    blocks = _unprocessed_blocks(connection, run_id, run.archive_id, block)
    if not blocks:
        return 0, None
    open_ranges = _open_ranges(connection, run_id, blocks[0] * BLOCK_IDS)
    searched = list(_blocks_with_gaps(blocks, open_ranges))[: BLOCKS_AT_ONCE + 1]
    rows = []
    for first, last in _successive(searched[:BLOCKS_AT_ONCE]):
        unprocessed = select_unprocessed(run_id, run.archive_id, first * BLOCK_IDS, (last + 1) * BLOCK_IDS - 1)
        ids = connection.execute(unprocessed.with_only_columns(images.c.id)).scalars()
        rows += [_batch_row(run_id, id_range) for id_range in id_ranges(ids, open_ranges, run.batch_size)]
    if rows:
        connection.execute(insert(batches), rows)
    return len(rows), searched[BLOCKS_AT_ONCE] if len(searched) > BLOCKS_AT_ONCE else None


def _unprocessed_blocks(connection: Connection, run_id: int, archive_id: int, start: int) -> list[int]:
    counted = and_(run_counts.c.run_id == run_id, run_counts.c.block == archive_counts.c.block)
    query = (
        select(archive_counts.c.block)
        .outerjoin(run_counts, counted)
        .where(archive_counts.c.archive_id == archive_id, archive_counts.c.block >= start)
        .where(archive_counts.c.images > func.coalesce(run_counts.c.processed, 0))
        .order_by(archive_counts.c.block)
    )
    return list(connection.execute(query).scalars())


def _open_ranges(connection: Connection, run_id: int, first_id: int) -> list[tuple[int, int]]:
    query = (
        select(batches.c.first_image_id, batches.c.last_image_id)
        .where(batches.c.run_id == run_id, is_open(), batches.c.last_image_id >= first_id)
        .order_by(batches.c.first_image_id)
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def _blocks_with_gaps(blocks: Sequence[int], open_ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the blocks, ascending, that have an id which no range covers."""
    position = 0
    for block in blocks:
        uncovered, end = block * BLOCK_IDS, (block + 1) * BLOCK_IDS
        while position < len(open_ranges) and open_ranges[position][1] < uncovered:
            position += 1
        covering = position
        while covering < len(open_ranges) and open_ranges[covering][0] <= uncovered < end:
            uncovered = open_ranges[covering][1] + 1
            covering += 1
        if uncovered < end:
            yield block


def _successive(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each series of successive blocks."""
    start = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or blocks[end] != blocks[end - 1] + 1:
            yield blocks[start], blocks[end - 1]
            start = end


def select_unprocessed(run_id: int, archive_id: int, first: int, last: int) -> Select[Any]:
    """Select id, path, size and mtime_ns of a range of images that are current and have no outcome, by id."""
    # A subquery that yields a value is looked up by key for each image. Of a join, PostgreSQL may read every outcome of
    # a run that it has no statistics of yet.
    outcome = select(outcomes.c.image_id).where(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id)
    return (
        select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
        # The sum keeps planners from reading the whole archive through the index on archive_id.
        .where(images.c.id.between(first, last), images.c.archive_id + 0 == archive_id, images.c.current)
        .where(outcome.scalar_subquery().is_(None))
        .order_by(images.c.id)
    )


def insert_batch(
    connection: Connection, run_id: int, id_range: IdRange, parent_id: int | None = None, attempts: int = 0
) -> None:
    """Insert one pending batch; `attempts` is how many workers could not process it, of a batch of one image."""
    connection.execute(insert(batches), [_batch_row(run_id, id_range, parent_id, attempts)])


def _batch_row(run_id: int, id_range: IdRange, parent_id: int | None = None, attempts: int = 0) -> dict[str, object]:
    return {
        "run_id": run_id,
        "parent_id": parent_id,
        "first_image_id": id_range.first,
        "last_image_id": id_range.last,
        "images": id_range.images,
        "state": BatchState.PENDING,
        # Random: SQLite gives the number of a deleted batch again, and no claim on that one may fit the new one.
        "token": secrets.randbelow(FIRST_TOKENS),
        "attempts": attempts,
        "released_at": 0.0,
    }


def id_ranges(ids: Iterable[int], open_ranges: Sequence[tuple[int, int]], size: int) -> Iterator[IdRange]:
    """Group ascending ids into ranges of at most `size` ids that do not overlap the ranges of open batches.

    A range may also span ids that are not in `ids`; those images have outcomes, and a worker skips them.

    Parameters
    ----------
    ids : iterable of int
        Image ids, ascending.
    open_ranges : sequence of (int, int)
        First and last image id of each open batch, ascending and disjoint.
    size : int
        The most ids in one range, at least 1.
    """
    position = 0
    group: list[int] = []
    for image_id in ids:
        previous = position
        while position < len(open_ranges) and open_ranges[position][1] < image_id:
            position += 1
        in_open_batch = position < len(open_ranges) and open_ranges[position][0] <= image_id
        if group and (position > previous or in_open_batch or len(group) == size):
            yield IdRange(group[0], group[-1], len(group))
            group = []
        if not in_open_batch:
            group.append(image_id)
    if group:
        yield IdRange(group[0], group[-1], len(group))
