"""The job ledger: the state of every batch, and which worker has claimed it. Redis only carries wake-up calls.

``pending -> claimed -> done | split | quarantined | cancelled``, and back to ``pending`` when a worker is lost or
releases its batch. A claim has a fencing token and a lease, which runs on the database's clock. Every claim of a batch
increments its token, and results are stored only under the current token (Kleppmann, Designing Data-Intensive
Applications, chapter 8).

This module has what workers and users do with batches; `db.recovery` has what becomes of a lost worker's batches.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, select, update

from db.batching import IdRange, insert_batch, is_in, is_open, is_pending, make_batches, select_unprocessed
from db.counts import block_of
from db.runs import lock_run, share_run
from db.session import Database, Now
from db.store import ImageOutcome, delete_failures, record_outcomes, without_stored
from db.tables import archives, batches, images, models, runs
from xray.message import LEASE_SECONDS
from xray.vocabulary import BatchState


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
class QueueWork:
    """A queue that has work: the run whose batch comes next, and how many batches wait."""

    queue: str
    run_id: int
    batches: int


@dataclass(frozen=True)
class BatchImage:
    """One image of a claimed batch; `size` and `mtime_ns` are its file's as the scan saw them."""

    image_id: int
    path: str
    size: int
    mtime_ns: int


# -- workers -----------------------------------------------------------------------------------------------------


def queues_with_work(database: Database, limit: int) -> list[QueueWork]:
    """List the queues that have pending batches; at most `limit` batches of each are counted."""
    with database.read() as connection:
        found: dict[str, QueueWork] = {}
        for run in _waiting_runs(connection):
            before = found.get(run.queue, QueueWork(run.queue, run.id, 0))
            pending = select(batches.c.id).where(batches.c.run_id == run.id, is_pending()).limit(limit - before.batches)
            counted = connection.execute(select(func.count()).select_from(pending.subquery())).scalar_one()
            found[run.queue] = replace(before, batches=before.batches + counted)
    return list(found.values())


def next_queue(database: Database, queues: Collection[str], last: Collection[int] = ()) -> str | None:
    """Return the queue whose batch is to be claimed next, or None if no batch waits; parameters as `claim_next`."""
    with database.read() as connection:
        waiting = _waiting_runs(connection, queues, last)
    return waiting[0].queue if waiting else None


def claim_next(
    database: Database, queue: str, worker: str, images: int | None = None, last: Collection[int] = ()
) -> Claim | None:
    """Claim the next batch of a queue for a worker that has no other batch.

    The run with the highest priority comes first, then the oldest run. Of a run, the batches that were released in an
    outage come after the others, by when they were released.

    Parameters
    ----------
    database : Database
    queue : str
        The queue of one model version.
    worker : str
        Stored with the claim.
    images : int, optional
        The most images to take. If more are unprocessed, the others become a new pending batch. A batch that was lost
        with a worker before is taken whole, as `db.recovery` splits such a batch.
    last : collection of int
        Runs that come after all others, as this worker could not read their archives a moment ago.

    Returns
    -------
    Claim or None
        None if no batch waits that no other worker is just claiming.
    """
    with database.write() as connection:
        for run in _waiting_runs(connection, [queue], last):
            if (claim := _claim_in_run(connection, run.id, worker, images)) is not None:
                return claim
    return None


def claim_more(database: Database, run_id: int, worker: str, images: int) -> Claim | None:
    """Claim a further batch of a run for a worker that has one of it; parameters and result as for `claim_next`.

    A batch that was lost with a worker before is left alone: a worker that has it beside another could lose both.
    """
    with database.write() as connection:
        return _claim_in_run(connection, run_id, worker, images, batches.c.attempts == 0)


def _waiting_runs(
    connection: Connection, queues: Collection[str] | None = None, last: Collection[int] = ()
) -> list[Row[Any]]:
    """List the runs that have pending batches, as id and queue, in the order of their turn; of some queues, or all."""
    query = (
        select(runs.c.id, models.c.queue)
        .join(models, models.c.id == runs.c.model_id)
        .where(exists().where(batches.c.run_id == runs.c.id, is_pending()))
        .order_by(runs.c.priority.desc(), runs.c.id)
    )
    if queues is not None:
        query = query.where(models.c.queue.in_(queues))
    return sorted(connection.execute(query), key=lambda run: run.id in last)


def _claim_in_run(
    connection: Connection, run_id: int, worker: str, size: int | None, *conditions: ColumnElement[bool]
) -> Claim | None:
    share_run(connection, run_id)
    # Two statements: PostgreSQL may evaluate a locking subquery with a limit more than once.
    chosen = connection.execute(
        select(batches.c.id)
        .where(batches.c.run_id == run_id, is_pending(), *conditions)
        .order_by(batches.c.released_at, batches.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).scalar_one_or_none()
    if chosen is None:
        return None
    row = connection.execute(
        update(batches)
        .where(batches.c.id == chosen)
        .values(
            state=BatchState.CLAIMED,
            token=batches.c.token + 1,
            worker=worker,
            lease_expires_at=Now() + LEASE_SECONDS,
        )
        .returning(
            *(batches.c[name] for name in ("id", "token", "attempts", "parent_id", "first_image_id", "last_image_id"))
        )
    ).one()
    run = connection.execute(
        select(runs.c.model_id, runs.c.archive_id, archives.c.name, archives.c.root)
        .join(archives, archives.c.id == runs.c.archive_id)
        .where(runs.c.id == run_id)
    ).one()
    if size is not None and row.attempts == 0:
        unprocessed = select_unprocessed(run_id, run.archive_id, row.first_image_id, row.last_image_id)
        ids = connection.execute(unprocessed.with_only_columns(images.c.id)).scalars().all()
        _shrink(connection, run_id, row, ids, size)
    return Claim(run_id, row.id, row.token, row.attempts, run.model_id, run.name, run.root)


def _shrink(connection: Connection, run_id: int, batch: Row[Any], unprocessed: Sequence[int], size: int) -> None:
    """Leave a batch its first `size` unprocessed images, and make a pending batch of the rest of its range."""
    if len(unprocessed) <= size:
        return
    first = unprocessed[size]
    connection.execute(update(batches).where(batches.c.id == batch.id).values(last_image_id=first - 1, images=size))
    rest = IdRange(first, batch.last_image_id, len(unprocessed) - size)
    insert_batch(connection, run_id, rest, parent_id=batch.parent_id)


def unprocessed_images(database: Database, claim: Claim) -> list[BatchImage]:
    """List the images of a claimed batch that are current and have no outcome, by id."""
    with database.read() as connection:
        rows = connection.execute(select_unprocessed_of(connection, claim.batch_id))
        return [BatchImage(*row) for row in rows]


def renew_lease(database: Database, claim: Claim) -> bool:
    """Extend the lease of a claimed batch; return False if the claim is no longer valid."""
    with database.write() as connection:
        return update_claimed(connection, claim, lease_expires_at=Now() + LEASE_SECONDS)


def release_claim(database: Database, claim: Claim) -> bool:
    """Make a claimed batch pending again because of an outage; this does not count as an attempt."""
    with database.write() as connection:
        return update_claimed(
            connection, claim, state=BatchState.PENDING, worker=None, lease_expires_at=None, released_at=Now()
        )


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
        if not update_claimed(connection, claim, lease_expires_at=Now() + LEASE_SECONDS):
            return False
        record_outcomes(connection, claim.run_id, without_stored(connection, claim.run_id, results))
    return True


def finish(database: Database, claim: Claim, results: Sequence[ImageOutcome]) -> bool:
    """Store a batch's remaining outcomes and mark it done, in one transaction; as `store` if fenced off."""
    with database.write() as connection:
        # Otherwise `make_batches` could still count the images as covered by this batch while it is being closed.
        share_run(connection, claim.run_id)
        if not update_claimed(connection, claim, state=BatchState.DONE, lease_expires_at=None):
            return False
        record_outcomes(connection, claim.run_id, without_stored(connection, claim.run_id, results))
        # If a scan has meanwhile made an earlier version of a file current again, the batch is not done.
        if connection.execute(select_unprocessed_of(connection, claim.batch_id).limit(1)).first() is not None:
            connection.execute(
                update(batches).where(batches.c.id == claim.batch_id).values(state=BatchState.PENDING, worker=None)
            )
    return True


def update_claimed(connection: Connection, claim: Claim, **values: object) -> bool:
    """Change columns of a claimed batch; return False, and change nothing, if the claim is no longer valid."""
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
        # Of a cancelled run that is scanned again too: the scan obeys only a cancellation that is later than its start.
        connection.execute(update(runs).where(runs.c.id == run_id).values(cancelled_at=Now()))
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
    """Count a run's batches that are pending or claimed."""
    query = select(func.count()).where(batches.c.run_id == run_id, is_open())
    with database.read() as connection:
        return connection.execute(query).scalar_one()
