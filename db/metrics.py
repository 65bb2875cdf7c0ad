"""Numbers about all runs for monitoring, by queries that are cheap however many images there are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from db.batching import is_open
from db.heartbeats import Activity, Heartbeat, list_heartbeats
from db.scans import open_scans
from db.session import Database, Now
from db.tables import batches, images, models, outcomes, run_counts, runs, scans
from xray.vocabulary import OPEN_STATES, BatchState

PROCESS_STATES = ("working", "waiting", "outside_hours")
"""What a living process does: it works or is idle, waits for something, or waits for the hours of its archives."""


@dataclass(frozen=True)
class LedgerMetrics:
    """The state of the ledger at one moment.

    Parameters
    ----------
    open_batches : mapping of BatchState to int
        Open batches by state; each open state has a number.
    open_batch_images : int
        The images of open batches; of one that a worker has begun, also those that are done.
    oldest_seconds : float
        How long ago the scan ended, or if it goes on began, that made the oldest open batch; 0 without any.
    predicted : int
        Current images with a prediction, of all runs.
    failed : mapping of str to int
        Current images that failed, of all runs, by reason.
    processes : mapping of (str, str) to int
        Living processes by role and state (`PROCESS_STATES`).
    scans : mapping of bool to int
        Open scans, and whether nobody goes on with them.
    queues : list of str
        The queues of the runs' model versions.
    """

    open_batches: Mapping[BatchState, int]
    open_batch_images: int
    oldest_seconds: float
    predicted: int
    failed: Mapping[str, int]
    processes: Mapping[tuple[str, str], int]
    scans: Mapping[bool, int]
    queues: list[str]


def read_metrics(database: Database) -> LedgerMetrics:
    """Read the state of the ledger."""
    counted = select(batches.c.state, func.count().label("batches"), func.sum(batches.c.images).label("images"))
    with database.read() as connection:
        by_state = {row.state: row for row in connection.execute(counted.where(is_open()).group_by(batches.c.state))}
        with_batches = connection.execute(select(batches.c.run_id).where(is_open()).distinct()).scalars().all()
        made = select(func.max(func.coalesce(scans.c.finished_at, scans.c.started_at)))
        ages = [
            connection.execute(
                select(Now() - func.coalesce(made.where(scans.c.run_id == run_id).scalar_subquery(), runs.c.created_at))
                .select_from(runs)
                .where(runs.c.id == run_id)
            ).scalar_one()
            for run_id in with_batches
        ]
        totals = select(func.coalesce(func.sum(run_counts.c.processed - run_counts.c.failed), 0))
        predicted = connection.execute(totals).scalar_one()
        # By the index on failures, of which there are few.
        of_reason = select(outcomes.c.reason, func.count().label("images")).join(
            images, images.c.id == outcomes.c.image_id
        )
        of_reason = of_reason.where(outcomes.c.reason.is_not(None), images.c.current)
        of_reason = of_reason.group_by(outcomes.c.reason)
        failed = {row.reason: row.images for row in connection.execute(of_reason)}
        queues = connection.execute(select(models.c.queue).join(runs, runs.c.model_id == models.c.id).distinct())
        names = sorted(queues.scalars())
    alive = [beat for beat in list_heartbeats(database) if beat.alive]
    states = Counter((beat.role, _state(beat)) for beat in alive)
    expired = [scan.expired for scan in open_scans(database)]
    return LedgerMetrics(
        open_batches={state: by_state[state].batches if state in by_state else 0 for state in OPEN_STATES},
        open_batch_images=sum(row.images for row in by_state.values()),
        oldest_seconds=max(ages, default=0.0),
        predicted=predicted,
        failed=failed,
        processes={(role, state): states[role, state] for role in ("worker", "feeder") for state in PROCESS_STATES},
        scans={abandoned: expired.count(abandoned) for abandoned in (False, True)},
        queues=names,
    )


def _state(beat: Heartbeat) -> str:
    if beat.problem is not None:
        return "waiting"
    return "outside_hours" if beat.activity == Activity.OUTSIDE_HOURS else "working"
