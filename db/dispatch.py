"""The feeder's queries: which batches to send, and how to recover those whose message or worker was lost.

Each function is one guarded UPDATE or a short transaction around one, so any number of feeders may run at once.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, exists, select, update

from db.batching import id_ranges, insert_batch, is_in, is_open
from db.ledger import select_unprocessed_of
from db.runs import lock_run
from db.session import Database, Now
from db.store import ImageOutcome, record_outcomes
from db.tables import batches, models, runs
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import BatchState, Reason

SPLIT_AFTER = 2
"""A batch of several images is split after it was lost with this many workers."""

SPLIT_INTO = 16
"""The most parts that a batch is split into."""


def queues_with_batches(database: Database, state: BatchState) -> list[str]:
    """List the queues that have batches in a state, which is an open one."""
    in_state = exists().where(batches.c.run_id == runs.c.id, is_open(), batches.c.state == state)
    query = select(models.c.queue).join(runs, runs.c.model_id == models.c.id).where(in_state).distinct()
    with database.read() as connection:
        return sorted(connection.execute(query).scalars())


# -- sending -----------------------------------------------------------------------------------------------------


def mark_sent(database: Database, queue: str, limit: int, epoch: str) -> list[tuple[int, int]]:
    """Mark up to `limit` pending batches of a queue as sent: an equal share of each run, the oldest batches first.

    Parameters
    ----------
    database : Database
    queue : str
        The queue of one model version.
    limit : int
        The most batches to mark.
    epoch : str
        Identifies the broker's data: a different epoch means that the messages are lost.

    Returns
    -------
    list of (int, int)
        Run id and batch id of each; the caller must send a message for each or call `mark_unsent`.
    """
    pending = exists().where(batches.c.run_id == runs.c.id, is_open(), batches.c.state == BatchState.PENDING)
    runs_with_pending = (
        select(runs.c.id).join(models, models.c.id == runs.c.model_id).where(models.c.queue == queue, pending)
    )
    sent: list[tuple[int, int]] = []
    with database.write() as connection:
        run_ids = sorted(connection.execute(runs_with_pending).scalars())
        for position, run_id in enumerate(run_ids):
            # Shared equally, so that a run whose archive is unavailable does not block the other runs.
            share = -(-(limit - len(sent)) // (len(run_ids) - position))
            sent += _mark_sent_in_run(connection, run_id, share, epoch)
    return sorted(sent)


def _mark_sent_in_run(connection: Connection, run_id: int, limit: int, epoch: str) -> list[tuple[int, int]]:
    # Two statements: PostgreSQL may evaluate a locking subquery with a limit more than once.
    chosen = connection.execute(
        select(batches.c.id)
        .where(batches.c.run_id == run_id, is_open(), batches.c.state == BatchState.PENDING)
        # Batches that were sent before come after those that were never sent.
        .order_by(batches.c.sent_at, batches.c.id)
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
    """Make batches pending again whose message could not be sent."""
    _requeue_sent(database, batches.c.id.in_(batch_ids))


# -- lost messages -----------------------------------------------------------------------------------------------


def requeue_after_broker_loss(database: Database, epoch: str) -> int:
    """Make batches pending again that were sent in a different epoch: the broker has lost its data since."""
    return _requeue_sent(database, batches.c.epoch.is_distinct_from(epoch))


def requeue_unclaimed(database: Database, queue: str, seconds: float) -> int:
    """Make batches of a queue pending again that were sent more than `seconds` ago and are still not claimed.

    A duplicate message does no harm: a worker ignores a message whose batch cannot be claimed.
    """
    of_queue = select(runs.c.id).join(models, models.c.id == runs.c.model_id).where(models.c.queue == queue)
    return _requeue_sent(database, and_(batches.c.run_id.in_(of_queue), batches.c.sent_at < Now() - seconds))


def _requeue_sent(database: Database, condition: object) -> int:
    with database.write() as connection:
        return connection.execute(
            update(batches)
            .where(is_in(BatchState.SENT), condition)  # type: ignore[arg-type]
            .values(state=BatchState.PENDING)
        ).rowcount


# -- lost workers ------------------------------------------------------------------------------------------------


def recover_expired(database: Database) -> int:
    """Recover every claimed batch whose lease has expired: requeue it, split it, or quarantine its one image.

    Returns
    -------
    int
        The number of batches recovered.
    """
    expired = (
        select(batches.c.id).where(is_in(BatchState.CLAIMED), batches.c.lease_expires_at < Now()).order_by(batches.c.id)
    )
    with database.read() as connection:
        candidates = list(connection.execute(expired).scalars())
    return sum(_recover(database, batch_id) for batch_id in candidates)


def _recover(database: Database, batch_id: int) -> bool:
    with database.write() as connection:
        # The run first, as `ledger.cancel` locks it first too: a split must not add batches to a cancelled run.
        run_id = connection.execute(select(batches.c.run_id).where(batches.c.id == batch_id)).scalar_one()
        lock_run(connection, run_id)
        run = connection.execute(select(runs.c.id, runs.c.cancelled_at).where(runs.c.id == run_id)).one()
        lost = connection.execute(
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
        if lost is None or run.cancelled_at is not None:
            return lost is not None
        left = [image.id for image in connection.execute(select_unprocessed_of(connection, batch_id))]
        state = state_after_worker_loss(len(left), lost.attempts)
        if state is BatchState.SPLIT:
            for id_range in id_ranges(left, [], -(-len(left) // SPLIT_INTO)):
                insert_batch(connection, lost.run_id, id_range, parent_id=batch_id)
        if state is BatchState.QUARANTINED:
            detail = f"{lost.attempts} workers were lost on it"
            failure = ImageOutcome(left[0], reason=Reason.QUARANTINED, detail=detail, attempts=lost.attempts)
            record_outcomes(connection, lost.run_id, [failure])
        connection.execute(update(batches).where(batches.c.id == batch_id).values(state=state))
    return True


def state_after_worker_loss(images_left: int, attempts: int) -> BatchState:
    """Decide the state of a batch that was lost with its worker for the `attempts`-th time."""
    if images_left == 0:
        return BatchState.DONE
    if images_left == 1:
        return BatchState.QUARANTINED if attempts >= MAX_ATTEMPTS else BatchState.PENDING
    return BatchState.SPLIT if attempts >= SPLIT_AFTER else BatchState.PENDING
