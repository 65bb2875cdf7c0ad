"""The job ledger: the state of every batch, and which worker has claimed it. Redis only carries messages.

``pending -> sent -> claimed -> done | split | quarantined | cancelled``, and back to ``pending`` when a message or a
worker is lost. A claim has a fencing token and a lease, which runs on the database's clock. Every claim of a batch
increments its token, and results are stored only under the current token (Kleppmann, Designing Data-Intensive
Applications, chapter 8).

This module has what workers and users do with batches; what the feeder does with them is in `db.dispatch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, update

from db.batching import IdRange, insert_batch, is_in, is_open, make_batches, select_unprocessed
from db.counts import block_of
from db.runs import lock_run, share_run
from db.session import Database, Now
from db.store import ImageOutcome, delete_failures, record_outcomes, without_stored
from db.tables import archives, batches, images, models, outcomes, runs
from xray.message import LEASE_SECONDS
from xray.vocabulary import BatchState

WAITING_STATES = (BatchState.PENDING, BatchState.SENT)
"""A batch in one of these states may be claimed."""


@dataclass(frozen=True)
class Claim:
    """One worker's claim on one batch.

    Parameters
    ----------
    attempts : int
        How many workers were lost on the batch.
    scanned_at : str
        The archive's root on the host that scanned it.
    """

    run_id: int
    batch_id: int
    token: int
    attempts: int
    model_id: int
    archive: str
    scanned_at: str


@dataclass(frozen=True)
class BatchImage:
    """One image of a claimed batch; `size` and `mtime_ns` are its file's as the scan saw them."""

    image_id: int
    path: str
    size: int
    mtime_ns: int


# -- workers -----------------------------------------------------------------------------------------------------


def claim(database: Database, run_id: int, batch_id: int, worker: str, images: int | None = None) -> Claim | None:
    """Claim a sent or pending batch for a worker.

    Parameters
    ----------
    database : Database
    run_id, batch_id : int
        As the message names them.
    worker : str
        Stored with the claim.
    images : int, optional
        The most images to take. If more are unprocessed, the others become a new pending batch. A batch that was lost
        with a worker before is taken whole, as `db.dispatch` splits such a batch.

    Returns
    -------
    Claim or None
        None if the batch is in a different state or does not exist.
    """
    with database.write() as connection:
        share_run(connection, run_id)
        return _claim(connection, run_id, batch_id, worker, images)


def claim_next(database: Database, queue: str, worker: str, images: int | None = None) -> Claim | None:
    """Claim the next batch of a queue without a message, which does nothing when it arrives later.

    A batch that was lost with a worker before is left to its message: a worker that takes it beside another batch would
    lose both.

    Of the runs, the one whose next batch was never sent or was sent longest ago comes first.

    Parameters
    ----------
    database : Database
    queue : str
        The queue of one model version.
    worker : str
        Stored with the claim.
    images : int, optional
        The most images to take, as in `claim`.

    Returns
    -------
    Claim or None
        None if no batch waits that no other worker is just claiming.
    """
    runs_of_queue = select(runs.c.id).join(models, models.c.id == runs.c.model_id).where(models.c.queue == queue)
    with database.write() as connection:
        run_ids = connection.execute(runs_of_queue).scalars().all()
        if len(run_ids) > 1:
            firsts = [connection.execute(_select_waiting(run_id)).one_or_none() for run_id in run_ids]
            run_ids = [row.run_id for row in sorted(filter(None, firsts), key=lambda row: (row.sent_at, row.id))]
        for run_id in run_ids:
            share_run(connection, run_id)
            chosen = connection.execute(_select_waiting(run_id).with_for_update(skip_locked=True)).one_or_none()
            if chosen is not None:
                # As if sent now: should an outage release it, the batches of other runs come first.
                return _claim(connection, run_id, chosen.id, worker, images, sent_at=Now())
    return None


def _select_waiting(run_id: int) -> Select[Any]:
    """Select a run's next batch: of those to be sent, then of those sent, the one sent longest ago."""
    # Pending and sent are the open states that come after claimed, so this is the order of the index on open batches.
    return (
        select(batches.c.sent_at, batches.c.id, batches.c.run_id)
        .where(batches.c.run_id == run_id, is_open(), batches.c.state > BatchState.CLAIMED, batches.c.attempts == 0)
        .order_by(batches.c.state, batches.c.sent_at, batches.c.id)
        .limit(1)
    )


def _claim(
    connection: Connection, run_id: int, batch_id: int, worker: str, size: int | None, **sent: object
) -> Claim | None:
    row = connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, batches.c.run_id == run_id, batches.c.state.in_(WAITING_STATES))
        .values(
            state=BatchState.CLAIMED,
            token=batches.c.token + 1,
            worker=worker,
            lease_expires_at=Now() + LEASE_SECONDS,
            **sent,
        )
        .returning(*(batches.c[name] for name in ("token", "attempts", "parent_id", "first_image_id", "last_image_id")))
    ).one_or_none()
    if row is None:
        return None
    run = connection.execute(
        select(runs.c.model_id, runs.c.archive_id, archives.c.name, archives.c.root)
        .join(archives, archives.c.id == runs.c.archive_id)
        .where(runs.c.id == run_id)
    ).one()
    if size is not None and row.attempts == 0:
        unprocessed = select_unprocessed(run_id, run.archive_id, row.first_image_id, row.last_image_id)
        ids = connection.execute(unprocessed.with_only_columns(images.c.id)).scalars().all()
        _shrink(connection, run_id, batch_id, row, ids, size)
    return Claim(run_id, batch_id, row.token, row.attempts, run.model_id, run.name, run.root)


def _shrink(
    connection: Connection, run_id: int, batch_id: int, batch: Row[Any], unprocessed: Sequence[int], size: int
) -> None:
    """Leave a batch its first `size` unprocessed images, and make a pending batch of the rest of its range."""
    if len(unprocessed) <= size:
        return
    first = unprocessed[size]
    connection.execute(update(batches).where(batches.c.id == batch_id).values(last_image_id=first - 1, images=size))
    rest = IdRange(first, batch.last_image_id, len(unprocessed) - size)
    insert_batch(connection, run_id, rest, parent_id=batch.parent_id)


def unprocessed_images(database: Database, claim: Claim) -> list[BatchImage]:
    """List the images of a claimed batch that are current and have no outcome, by id."""
    with database.read() as connection:
        rows = connection.execute(select_unprocessed_of(connection, claim.batch_id))
        return [BatchImage(*row) for row in rows]


def latest_read_image(database: Database, claim: Claim) -> BatchImage | None:
    """Return the image with the highest id that a worker has read in the claim's run, or None."""
    query = (
        select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
        .join(outcomes, outcomes.c.image_id == images.c.id)
        .where(outcomes.c.run_id == claim.run_id, outcomes.c.content_id.is_not(None), images.c.current)
        # The order of the primary key.
        .order_by(outcomes.c.image_id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else BatchImage(*row)


def renew_lease(database: Database, claim: Claim) -> bool:
    """Extend the lease of a claimed batch; return False if the claim is no longer valid."""
    with database.write() as connection:
        return _update_claimed(connection, claim, lease_expires_at=Now() + LEASE_SECONDS)


def release_claim(database: Database, claim: Claim) -> bool:
    """Make a claimed batch pending again because of an outage; this does not count as an attempt."""
    with database.write() as connection:
        return _update_claimed(connection, claim, state=BatchState.PENDING, worker=None, lease_expires_at=None)


def release_claims(database: Database, worker: str | None = None) -> int:
    """Make claimed batches pending again after workers were stopped on purpose; this does not count as an attempt.

    Parameters
    ----------
    database : Database
    worker : str, optional
        Release only the batches of this worker, whose processes claim as ``worker:process id``.

    Returns
    -------
    int
        The number of batches released.
    """
    claimed = update(batches).where(is_in(BatchState.CLAIMED))
    if worker is not None:
        claimed = claimed.where(batches.c.worker.startswith(f"{worker}:", autoescape=True))
    with database.write() as connection:
        return connection.execute(claimed.values(state=BatchState.PENDING, worker=None, lease_expires_at=None)).rowcount


def store(database: Database, claim: Claim, results: Sequence[ImageOutcome]) -> bool:
    """Store outcomes of some images of a claimed batch and renew its lease, in one transaction.

    Outcomes that are stored already are left out, so that a worker may repeat this when it does not know whether the
    database had committed. Store nothing and return False if fenced off.
    """
    with database.write() as connection:
        share_run(connection, claim.run_id)
        if not _update_claimed(connection, claim, lease_expires_at=Now() + LEASE_SECONDS):
            return False
        record_outcomes(connection, claim.run_id, without_stored(connection, claim.run_id, results))
    return True


def finish(database: Database, claim: Claim, results: Sequence[ImageOutcome]) -> bool:
    """Store a batch's remaining outcomes and mark it done, in one transaction; as `store` if fenced off."""
    with database.write() as connection:
        # Otherwise `make_batches` could still count the images as covered by this batch while it is being closed.
        share_run(connection, claim.run_id)
        if not _update_claimed(connection, claim, state=BatchState.DONE, lease_expires_at=None):
            return False
        record_outcomes(connection, claim.run_id, without_stored(connection, claim.run_id, results))
        # If a scan has meanwhile made an earlier version of a file current again, the batch is not done.
        if connection.execute(select_unprocessed_of(connection, claim.batch_id).limit(1)).first() is not None:
            connection.execute(
                update(batches).where(batches.c.id == claim.batch_id).values(state=BatchState.PENDING, worker=None)
            )
    return True


def _update_claimed(connection: Connection, claim: Claim, **values: object) -> bool:
    updated = connection.execute(
        update(batches)
        .where(batches.c.id == claim.batch_id, batches.c.token == claim.token, batches.c.state == BatchState.CLAIMED)
        .values(**values)
    ).rowcount
    return updated == 1


def select_unprocessed_of(connection: Connection, batch_id: int) -> Select[Any]:
    """Select the images of a batch that are current and have no outcome, as `select_unprocessed` does."""
    batch = connection.execute(
        select(batches.c.run_id, batches.c.first_image_id, batches.c.last_image_id, runs.c.archive_id)
        .join(runs, runs.c.id == batches.c.run_id)
        .where(batches.c.id == batch_id)
    ).one()
    return select_unprocessed(batch.run_id, batch.archive_id, batch.first_image_id, batch.last_image_id)


# -- users -------------------------------------------------------------------------------------------------------


def cancel(database: Database, run_id: int) -> int:
    """Cancel a run's open batches and return how many they were; stored results stay."""
    with database.write() as connection:
        # Locked first, so that neither a scan that is closing nor a worker that shrinks its batch makes more batches.
        lock_run(connection, run_id)
        connection.execute(
            update(runs).where(runs.c.id == run_id, runs.c.cancelled_at.is_(None)).values(cancelled_at=Now())
        )
        return connection.execute(
            update(batches)
            .where(batches.c.run_id == run_id, is_open())
            .values(state=BatchState.CANCELLED, worker=None, lease_expires_at=None)
        ).rowcount


def resume(database: Database, run_id: int) -> int:
    """Undo a run's cancellation and make batches of its unprocessed images; return how many batches."""
    with database.write() as connection:
        lock_run(connection, run_id)
        connection.execute(update(runs).where(runs.c.id == run_id).values(cancelled_at=None))
        total, block = make_batches(connection, run_id)
    while block is not None:
        with database.write() as connection:
            made, block = make_batches(connection, run_id, block)
        total += made
    return total


def retry(database: Database, run_id: int) -> int:
    """Delete a run's failures and make batches of their images, some in each transaction; return how many images."""
    total = last = 0
    while True:
        with database.write() as connection:
            lock_run(connection, run_id)
            deleted = delete_failures(connection, run_id, after=last)
            if not deleted:
                return total
            make_batches(connection, run_id, block_of(deleted[0]))
        total, last = total + len(deleted), deleted[-1]


def count_open_batches(database: Database, run_id: int) -> int:
    """Count a run's batches that are pending, sent or claimed."""
    query = select(func.count()).where(batches.c.run_id == run_id, is_open())
    with database.read() as connection:
        return connection.execute(query).scalar_one()
