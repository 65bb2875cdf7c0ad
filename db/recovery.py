"""Recover batches whose worker was lost, and images that a worker could not load: try again, split, quarantine.

Each function is a short transaction, so any number of feeders and workers may call them at once.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from db.batching import IdRange, id_ranges, insert_batch, is_in
from db.ledger import Claim, select_unprocessed_of, update_claimed
from db.runs import lock_run
from db.session import Database, Now
from db.store import ImageOutcome, record_outcomes
from db.tables import batches, runs
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import BatchState, Reason

SPLIT_AFTER = 2
"""A batch of several images is split after it was lost with this many workers."""

SPLIT_INTO = 16
"""The most parts that a batch is split into."""


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
        found = select(batches.c.run_id).where(batches.c.id == batch_id)
        run_id = connection.execute(found).scalar_one_or_none()
        if run_id is None:
            # `bonescreen forget` has deleted it.
            return False
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
            .returning(batches.c.attempts)
        ).one_or_none()
        if lost is None or run.cancelled_at is not None:
            return lost is not None
        left = _unprocessed_ids(connection, batch_id)
        state = state_after_worker_loss(len(left), lost.attempts)
        if state is BatchState.SPLIT:
            for id_range in id_ranges(left, [], -(-len(left) // SPLIT_INTO)):
                insert_batch(connection, run_id, id_range, parent_id=batch_id)
        if state is BatchState.QUARANTINED:
            _quarantine(
                connection,
                run_id,
                left[0],
                lost.attempts,
                f"{lost.attempts} workers crashed or were killed on it, perhaps for lack of memory",
            )
        connection.execute(update(batches).where(batches.c.id == batch_id).values(state=state))
    return True


def state_after_worker_loss(images_left: int, attempts: int) -> BatchState:
    """Decide the state of a batch that was lost with its worker for the `attempts`-th time."""
    if images_left == 0:
        return BatchState.DONE
    if images_left == 1:
        return BatchState.QUARANTINED if attempts >= MAX_ATTEMPTS else BatchState.PENDING
    return BatchState.SPLIT if attempts >= SPLIT_AFTER else BatchState.PENDING


def set_apart(database: Database, claim: Claim, image_id: int, cause: str) -> bool:
    """Count a failed attempt of one image of a claimed batch, and release the others.

    The image becomes a batch of its own, so that it is tried again alone. After `MAX_ATTEMPTS` it is quarantined.

    Parameters
    ----------
    database : Database
    claim : Claim
        The claim on the batch; it ends.
    image_id : int
        An image of the batch.
    cause : str
        Why it could not be loaded, for people.

    Returns
    -------
    bool
        False if the claim is no longer valid; nothing has changed then.
    """
    with database.write() as connection:
        lock_run(connection, claim.run_id)
        attempts = claim.attempts + 1
        if not update_claimed(
            connection, claim, state=BatchState.SPLIT, attempts=attempts, worker=None, lease_expires_at=None
        ):
            return False
        left = _unprocessed_ids(connection, claim.batch_id)
        if image_id not in left:
            state = BatchState.PENDING if left else BatchState.DONE
        elif left != [image_id]:
            state = BatchState.SPLIT
            _insert_parts(connection, claim, left, image_id)
        else:
            state = state_after_worker_loss(1, attempts)
            if state is BatchState.QUARANTINED:
                _quarantine(connection, claim.run_id, image_id, attempts, f"{cause}, {attempts} times")
        connection.execute(update(batches).where(batches.c.id == claim.batch_id).values(state=state))
    return True


def _insert_parts(connection: Connection, claim: Claim, left: Sequence[int], image_id: int) -> None:
    """Make a batch of one image, with an attempt, and batches of those before and after it, without."""
    for part in ([i for i in left if i < image_id], [i for i in left if i > image_id]):
        if part:
            insert_batch(connection, claim.run_id, IdRange(part[0], part[-1], len(part)), parent_id=claim.batch_id)
    insert_batch(connection, claim.run_id, IdRange(image_id, image_id, 1), parent_id=claim.batch_id, attempts=1)


def _unprocessed_ids(connection: Connection, batch_id: int) -> list[int]:
    return [image.id for image in connection.execute(select_unprocessed_of(connection, batch_id))]


def _quarantine(connection: Connection, run_id: int, image_id: int, attempts: int, detail: str) -> None:
    failure = ImageOutcome(image_id, reason=Reason.QUARANTINED, detail=detail, attempts=attempts)
    record_outcomes(connection, run_id, [failure])
