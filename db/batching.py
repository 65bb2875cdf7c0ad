"""Cut what a run has left into batches: gather, decide, apply."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, insert, select

from db.tables import batches, images, outcomes, runs
from xray.vocabulary import OPEN_STATES, BatchState


@dataclass(frozen=True)
class IdRange:
    """An inclusive range of image ids, and how many of them are a batch's work."""

    first: int
    last: int
    images: int


def make_batches(connection: Connection, run_id: int) -> int:
    """Give every unsettled current image of a run that no open batch covers to a new batch.

    The only maker of batches besides a split, so scanning again, resuming and retrying all end here. A cancelled run
    gets none.

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
    # In this order: a batch that ends in between has settled its images by the time they are listed.
    covered = connection.execute(
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
    for span in id_ranges(unprocessed, [(row[0], row[1]) for row in covered], run.batch_size):
        add_batch(connection, run_id, span)
        made += 1
    return made


def add_batch(connection: Connection, run_id: int, span: IdRange, parent_id: int | None = None) -> None:
    """Write one pending batch."""
    connection.execute(
        insert(batches).values(
            run_id=run_id,
            parent_id=parent_id,
            first_image_id=span.first,
            last_image_id=span.last,
            images=span.images,
            state=BatchState.PENDING,
            token=0,
            attempts=0,
        )
    )


def id_ranges(ids: Iterable[int], covered: Sequence[tuple[int, int]], size: int) -> Iterator[IdRange]:
    """Group ascending ids into id_ranges of at most `size`, none of which reaches over a covered range.

    A span may reach over ids that are not in `ids`: those are settled and no batch will touch them.

    Parameters
    ----------
    ids : iterable of int
        Image ids, ascending.
    covered : sequence of (int, int)
        Inclusive ranges of open batches, ascending and disjoint.
    size : int
        The most ids a span may hold, at least 1.
    """
    position = 0
    group: list[int] = []
    for image_id in ids:
        passed = position
        while position < len(covered) and covered[position][1] < image_id:
            position += 1
        inside = position < len(covered) and covered[position][0] <= image_id
        if group and (position > passed or inside or len(group) == size):
            yield IdRange(group[0], group[-1], len(group))
            group = []
        if not inside:
            group.append(image_id)
    if group:
        yield IdRange(group[0], group[-1], len(group))
