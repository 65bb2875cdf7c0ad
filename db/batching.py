"""Make batches of a run's unprocessed images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, insert, select

from db.tables import batches, images, outcomes, runs
from xray.vocabulary import OPEN_STATES, BatchState


@dataclass(frozen=True)
class IdRange:
    """A range of image ids, both ends included, and how many of them belong to the batch."""

    first: int
    last: int
    images: int


def make_batches(connection: Connection, run_id: int) -> int:
    """Make batches of a run's current images that have no outcome and are in no open batch.

    Scanning, resuming and retrying all call this; the only other source of batches is the splitting of one. A
    cancelled run gets none.

    Returns
    -------
    int
        The number of batches made.
    """
    run = connection.execute(
        select(runs.c.archive_id, runs.c.batch_size, runs.c.cancelled_at).where(runs.c.id == run_id).with_for_update()
    ).one()
    if run.cancelled_at is not None:
        return 0
    # This order matters: if a batch finishes between the two queries, the second one sees its outcomes.
    open_ranges = connection.execute(
        select(batches.c.first_image_id, batches.c.last_image_id)
        .where(batches.c.run_id == run_id, batches.c.state.in_(OPEN_STATES))
        .order_by(batches.c.first_image_id)
    ).all()
    unprocessed = connection.execute(
        select(images.c.id)
        .outerjoin(outcomes, and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id))
        .where(images.c.archive_id == run.archive_id, images.c.current, outcomes.c.image_id.is_(None))
        .order_by(images.c.id)
        .execution_options(yield_per=10_000)
    ).scalars()
    made = 0
    for id_range in id_ranges(unprocessed, [(row[0], row[1]) for row in open_ranges], run.batch_size):
        insert_batch(connection, run_id, id_range)
        made += 1
    return made


def insert_batch(connection: Connection, run_id: int, id_range: IdRange, parent_id: int | None = None) -> None:
    """Insert one pending batch."""
    connection.execute(
        insert(batches).values(
            run_id=run_id,
            parent_id=parent_id,
            first_image_id=id_range.first,
            last_image_id=id_range.last,
            images=id_range.images,
            state=BatchState.PENDING,
            token=0,
            attempts=0,
        )
    )


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
