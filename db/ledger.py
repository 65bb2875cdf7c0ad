"""The ledger: which batch is whose. The database owns the truth of what is done; the broker only carries it.

``pending -> sent -> claimed -> done | split | quarantined | cancelled``, and back to ``pending`` when a message
or a worker is lost. A claim is a fencing token and a lease on the database's clock: each claim raises the token,
and nothing is stored but under the token that still stands (Kleppmann, Designing Data-Intensive Applications,
chapter 8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select, update

from db.batching import make_batches
from db.session import Database, Now
from db.store import ImageOutcome, delete_failures, record_outcomes
from db.tables import archives, batches, images, outcomes, runs
from xray.message import LEASE_SECONDS
from xray.vocabulary import OPEN_STATES, BatchState


@dataclass(frozen=True)
class Claim:
    """One worker's hold on one batch; `scanned_at` is the root that the archive was scanned at, on the scan's host."""

    run_id: int
    batch_id: int
    token: int
    model_id: int
    archive: str
    scanned_at: str


@dataclass(frozen=True)
class BatchImage:
    """One unsettled image of a claimed batch, with the size and the time of change (ns) that the scan saw."""

    image_id: int
    path: str
    size: int
    mtime_ns: int


# -- working -----------------------------------------------------------------------------------------------------


def claim(database: Database, run_id: int, batch_id: int, worker: str) -> Claim | None:
    """Give a sent or pending batch to a worker, or return None when it is not to be had."""
    with database.write() as connection:
        row = connection.execute(
            update(batches)
            .where(
                batches.c.id == batch_id,
                batches.c.run_id == run_id,
                batches.c.state.in_((BatchState.PENDING, BatchState.SENT)),
            )
            .values(
                state=BatchState.CLAIMED,
                token=batches.c.token + 1,
                worker=worker,
                lease_expires_at=Now() + LEASE_SECONDS,
            )
            .returning(batches.c.token)
        ).one_or_none()
        if row is None:
            return None
        run = connection.execute(
            select(runs.c.model_id, archives.c.name, archives.c.root)
            .join(archives, archives.c.id == runs.c.archive_id)
            .where(runs.c.id == run_id)
        ).one()
    return Claim(run_id, batch_id, row.token, run.model_id, run.name, run.root)


def unprocessed_images(database: Database, held: Claim) -> list[BatchImage]:
    """List the images of a claimed batch that are current and not settled, in id order."""
    with database.read() as connection:
        return [
            BatchImage(*row) for row in connection.execute(select_unprocessed(connection, held.run_id, held.batch_id))
        ]


def latest_read_image(database: Database, held: Claim) -> BatchImage | None:
    """Return an image of the claim's archive that a worker has read, the latest, or None."""
    query = (
        select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
        .join(outcomes, outcomes.c.image_id == images.c.id)
        .where(outcomes.c.run_id == held.run_id, outcomes.c.content_id.is_not(None), images.c.current)
        .order_by(images.c.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else BatchImage(*row)


def renew_lease(database: Database, held: Claim) -> bool:
    """Prolong a lease; False when the batch is no longer this claim's."""
    with database.write() as connection:
        return _update_claimed(connection, held, lease_expires_at=Now() + LEASE_SECONDS)


def release_claim(database: Database, held: Claim) -> bool:
    """Return a claimed batch because of an outage; no attempt is counted."""
    with database.write() as connection:
        return _update_claimed(connection, held, state=BatchState.PENDING, worker=None, lease_expires_at=None)


def release_claims(database: Database, worker: str | None = None) -> int:
    """Return every claimed batch, as its workers were stopped on purpose; no attempt is counted. Returns how many.

    With `worker`, only batches of the worker of that name, whose processes sign as ``name:process id``.
    """
    held = update(batches).where(batches.c.state == BatchState.CLAIMED)
    if worker is not None:
        held = held.where(batches.c.worker.startswith(f"{worker}:", autoescape=True))
    with database.write() as connection:
        return connection.execute(held.values(state=BatchState.PENDING, worker=None, lease_expires_at=None)).rowcount


def finish(database: Database, held: Claim, results: Sequence[ImageOutcome]) -> bool:
    """Store a batch's outcomes and close it, in one transaction; False, and nothing stored, under a stale claim."""
    with database.write() as connection:
        # Keeps a cut, which locks the run against this, from counting the batch as covering its images while it closes.
        connection.execute(select(runs.c.id).where(runs.c.id == held.run_id).with_for_update(read=True, key_share=True))
        if not _update_claimed(connection, held, state=BatchState.DONE, lease_expires_at=None):
            return False
        record_outcomes(connection, held.run_id, results)
        # A file that came back to an earlier version meanwhile has made its old row current: not done after all.
        if connection.execute(select_unprocessed(connection, held.run_id, held.batch_id).limit(1)).first() is not None:
            connection.execute(
                update(batches).where(batches.c.id == held.batch_id).values(state=BatchState.PENDING, worker=None)
            )
    return True


def _update_claimed(connection: Connection, held: Claim, **values: object) -> bool:
    changed = connection.execute(
        update(batches)
        .where(batches.c.id == held.batch_id, batches.c.token == held.token, batches.c.state == BatchState.CLAIMED)
        .values(**values)
    ).rowcount
    return changed == 1


def select_unprocessed(connection: Connection, run_id: int, batch_id: int) -> Select[Any]:
    """Select id, path, size and time of change of a batch's images that are current and not settled, in id order."""
    batch = connection.execute(
        select(batches.c.first_image_id, batches.c.last_image_id, runs.c.archive_id)
        .join(runs, runs.c.id == batches.c.run_id)
        .where(batches.c.id == batch_id)
    ).one()
    span = (batch.first_image_id, batch.last_image_id)
    of_run = and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id, outcomes.c.image_id.between(*span))
    return (
        select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
        .outerjoin(outcomes, of_run)
        .where(
            images.c.id.between(*span),
            # The sum keeps planners from reading all of the archive by its index.
            images.c.archive_id + 0 == batch.archive_id,
            images.c.current,
            outcomes.c.image_id.is_(None),
        )
        .order_by(images.c.id)
    )


# -- steering ----------------------------------------------------------------------------------------------------


def cancel(database: Database, run_id: int) -> int:
    """Close a run's open batches; what is stored stays. Returns how many were closed."""
    with database.write() as connection:
        # The run's row first, as a cut locks it too: a scan that is closing then cuts nothing any more.
        connection.execute(
            update(runs).where(runs.c.id == run_id, runs.c.cancelled_at.is_(None)).values(cancelled_at=Now())
        )
        return connection.execute(
            update(batches)
            .where(batches.c.run_id == run_id, batches.c.state.in_(OPEN_STATES))
            .values(state=BatchState.CANCELLED, worker=None, lease_expires_at=None)
        ).rowcount


def resume(database: Database, run_id: int) -> int:
    """Lift a cancellation and cut what is left into batches. Returns how many were made."""
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run_id).values(cancelled_at=None))
        return make_batches(connection, run_id)


def retry(database: Database, run_id: int) -> int:
    """Forget a run's failures and batch their images again. Returns how many images that were."""
    with database.write() as connection:
        # Ahead of all else, so that two retries at once do not both count the same failures.
        connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update())
        forgotten = delete_failures(connection, run_id)
        make_batches(connection, run_id)
    return forgotten


def count_open_batches(database: Database, run_id: int) -> int:
    """Count a run's batches that are not at an end."""
    query = select(func.count()).where(batches.c.run_id == run_id, batches.c.state.in_(OPEN_STATES))
    with database.read() as connection:
        return connection.execute(query).scalar_one()
