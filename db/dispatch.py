"""The feeder's half of the ledger: what to send, and what to take back from the broker and from the dead.

Every step is one guarded UPDATE or a short transaction around one, so any number of feeders may take it at once.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, select, update

from db.batching import add_batch, id_ranges
from db.ledger import select_unprocessed
from db.session import Database, Now
from db.store import ImageOutcome, record_outcomes
from db.tables import batches, models, runs
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import BatchState, Reason

SPLIT_AFTER = 2
"""Workers that may vanish on a batch of several images before it is split."""

SPLIT_INTO = 16


def queues_with_batches(database: Database, state: BatchState) -> list[str]:
    """Name the queues that have batches in a state."""
    query = (
        select(models.c.queue)
        .join_from(batches, runs, runs.c.id == batches.c.run_id)
        .join(models, models.c.id == runs.c.model_id)
        .where(batches.c.state == state)
        .distinct()
    )
    with database.read() as connection:
        return sorted(connection.execute(query).scalars())


def mark_sent(database: Database, queue: str, limit: int, epoch: str) -> list[tuple[int, int]]:
    """Mark up to `limit` pending batches of a queue as sent, shared out among its runs, the oldest first.

    Returns
    -------
    list of (int, int)
        Run id and batch id of each; the caller must send a message for each or call `mark_unsent`.
    """
    waiting = (
        select(batches.c.run_id)
        .join(runs, runs.c.id == batches.c.run_id)
        .join(models, models.c.id == runs.c.model_id)
        .where(batches.c.state == BatchState.PENDING, models.c.queue == queue)
        .distinct()
    )
    taken: list[tuple[int, int]] = []
    with database.write() as connection:
        run_ids = sorted(connection.execute(waiting).scalars())
        for position, run_id in enumerate(run_ids):
            # Shared out, so that a run whose archive is away does not keep the others waiting.
            share = -(-(limit - len(taken)) // (len(run_ids) - position))
            taken += _take_of_run(connection, run_id, share, epoch)
    return sorted(taken)


def _take_of_run(connection: Connection, run_id: int, limit: int, epoch: str) -> list[tuple[int, int]]:
    # Two statements: PostgreSQL may evaluate a locking subquery with a limit more than once.
    chosen = connection.execute(
        select(batches.c.id)
        .where(batches.c.run_id == run_id, batches.c.state == BatchState.PENDING)
        # What was handed back goes behind what was never tried.
        .order_by(batches.c.sent_at.asc().nulls_first(), batches.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        update(batches)
        .where(batches.c.id.in_(list(chosen.scalars())))
        .values(state=BatchState.SENT, sent_at=Now(), epoch=epoch)
        .returning(batches.c.run_id, batches.c.id)
    )
    return [(row[0], row[1]) for row in rows]


def mark_unsent(database: Database, batch_ids: Sequence[int]) -> None:
    """Take back batches whose message could not be sent."""
    _return_sent(database, batches.c.id.in_(batch_ids))


def requeue_after_broker_loss(database: Database, epoch: str) -> int:
    """Take back batches sent in another life of the broker, which has forgotten their messages."""
    return _return_sent(database, batches.c.epoch.is_distinct_from(epoch))


def requeue_unclaimed(database: Database, queue: str, seconds: float) -> int:
    """Take back batches of a queue that were sent more than `seconds` ago and that nobody has claimed.

    A message too many does no harm: a batch that is not claimable makes it a no-op.
    """
    of_queue = select(runs.c.id).join(models, models.c.id == runs.c.model_id).where(models.c.queue == queue)
    return _return_sent(database, and_(batches.c.run_id.in_(of_queue), batches.c.sent_at < Now() - seconds))


def _return_sent(database: Database, condition: object) -> int:
    with database.write() as connection:
        return connection.execute(
            update(batches)
            .where(batches.c.state == BatchState.SENT, condition)  # type: ignore[arg-type]
            .values(state=BatchState.PENDING)
        ).rowcount


def recover_expired(database: Database) -> int:
    """Take back every claimed batch whose lease ran out: requeue it, split it, or quarantine its one image.

    Returns
    -------
    int
        The number of batches taken back.
    """
    expired = (
        select(batches.c.id)
        .where(batches.c.state == BatchState.CLAIMED, batches.c.lease_expires_at < Now())
        .order_by(batches.c.id)
    )
    with database.read() as connection:
        candidates = list(connection.execute(expired).scalars())
    return sum(_recover(database, batch_id) for batch_id in candidates)


def _recover(database: Database, batch_id: int) -> bool:
    of_batch = select(batches.c.run_id).where(batches.c.id == batch_id).scalar_subquery()
    with database.write() as connection:
        # The run first, as cancelling takes it first too: a split must not slip new batches into a cancelled run.
        run = connection.execute(
            select(runs.c.id, runs.c.cancelled_at).where(runs.c.id == of_batch).with_for_update()
        ).one()
        taken = connection.execute(
            update(batches)
            .where(
                batches.c.id == batch_id,
                batches.c.state == BatchState.CLAIMED,
                batches.c.lease_expires_at < Now(),
            )
            .values(
                state=BatchState.PENDING if run.cancelled_at is None else BatchState.CANCELLED,
                attempts=batches.c.attempts + 1,
                worker=None,
                lease_expires_at=None,
            )
            .returning(batches.c.run_id, batches.c.attempts)
        ).one_or_none()
        if taken is None or run.cancelled_at is not None:
            return taken is not None
        left = [image.id for image in connection.execute(select_unprocessed(connection, taken.run_id, batch_id))]
        decided = state_after_worker_loss(len(left), taken.attempts)
        if decided is BatchState.SPLIT:
            for span in id_ranges(left, [], -(-len(left) // SPLIT_INTO)):
                add_batch(connection, taken.run_id, span, parent_id=batch_id)
        if decided is BatchState.QUARANTINED:
            detail = f"{taken.attempts} workers were lost on it"
            lost = ImageOutcome(left[0], reason=Reason.QUARANTINED, detail=detail, attempts=taken.attempts)
            record_outcomes(connection, taken.run_id, [lost])
        connection.execute(update(batches).where(batches.c.id == batch_id).values(state=decided))
    return True


def state_after_worker_loss(images_left: int, attempts: int) -> BatchState:
    """Decide what becomes of a batch whose worker vanished for the `attempts`-th time."""
    if images_left == 0:
        return BatchState.DONE
    if images_left == 1:
        return BatchState.QUARANTINED if attempts >= MAX_ATTEMPTS else BatchState.PENDING
    return BatchState.SPLIT if attempts >= SPLIT_AFTER else BatchState.PENDING
