"""Queries about runs: state, progress and summary. Nothing here writes."""

import json
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Column, ColumnElement, Connection, Label, Select, exists, func, select

from db.batching import is_open
from db.session import Database
from db.tables import archive_counts, archives, batches, models, run_counts, runs, scans
from xray.errors import UsageError


class RunState(StrEnum):
    """The state of a run: done when its scan has finished and no batch is open.

    A run is behind if, besides, a scan for another model version has found images that this run has not screened.
    """

    SCANNING = "scanning"
    RUNNING = "running"
    DONE = "done"
    BEHIND = "behind"
    CANCELLED = "cancelled"


FINISHED_STATES = (RunState.DONE, RunState.BEHIND, RunState.CANCELLED)
"""Nothing happens in such a run until its archive is scanned again, or the run is retried or resumed."""


@dataclass(frozen=True)
class RunSummary:
    """Summary of one run. `inferred` counts distinct contents, so copies of a file count once.

    `skipped` (files by reason) and `gone` (images) are the counts of its last finished scan.
    """

    run: int
    archive: str
    root: str
    model: str
    digest: str
    queue: str
    finding: str
    study_threshold: float
    state: RunState
    studies: int
    images: int
    processed: int
    failed: int
    inferred: int
    flagged: int
    open_batches: int
    skipped: dict[str, int]
    gone: int
    created_at: float
    precision: str
    priority: int

    @property
    def percent(self) -> int:
        """How much of it is processed, rounded down: 100 is all of it."""
        return 100 * self.processed // self.images if self.images else 0


@dataclass(frozen=True)
class Progress:
    """Progress of a run: its images, those processed, those of them that failed, and files found by an open scan."""

    state: RunState
    images: int
    processed: int
    failed: int
    found: int


def newest_runs(database: Database) -> list[int]:
    """List each archive's newest run (the one scanned last), by descending number."""
    with database.read() as connection:
        return sorted(connection.execute(newest_run_ids()).scalars(), reverse=True)


def list_runs(database: Database) -> list[RunSummary]:
    """Summarise every run, the newest first."""
    with database.read() as connection:
        ids = list(connection.execute(select(runs.c.id).order_by(runs.c.id.desc())).scalars())
    return [run_summary(database, run_id) for run_id in ids]


def run_summary(database: Database, run_id: int) -> RunSummary:
    """Summarise one run.

    Raises
    ------
    UsageError
        There is no such run.
    """
    with database.read() as connection:
        row = connection.execute(
            select(
                runs.c.created_at,
                runs.c.priority,
                runs.c.archive_id,
                archives.c.name.label("archive"),
                archives.c.root,
                *(models.c[name] for name in ("version", "digest", "precision", "queue", "finding", "study_threshold")),
                models.c.name.label("model_name"),
            )
            .join(archives, archives.c.id == runs.c.archive_id)
            .join(models, models.c.id == runs.c.model_id)
            .where(runs.c.id == run_id)
        ).one_or_none()
        if row is None:
            raise UsageError(f"there is no run {run_id}; see: bonescreen runs")
        counted = run_totals(connection, run_id)
        scan = connection.execute(
            select(scans.c.skipped, scans.c.gone)
            .where(scans.c.run_id == run_id, scans.c.finished_at.is_not(None))
            .order_by(scans.c.id.desc())
            .limit(1)
        ).one_or_none()
        open_count = select(func.count()).where(batches.c.run_id == run_id, is_open())
        numbers = {
            "studies": counted["studies"],
            "inferred": counted["inferred"],
            "flagged": counted["flagged_scored"] + counted["flagged_incomplete"],
            "open_batches": connection.execute(open_count).scalar_one(),
        }
    progress = run_progress(database, run_id)
    return RunSummary(
        run=run_id,
        archive=row.archive,
        root=row.root,
        model=f"{row.model_name} {row.version}",
        digest=row.digest,
        queue=row.queue,
        finding=row.finding,
        study_threshold=row.study_threshold,
        state=progress.state,
        images=progress.images,
        processed=progress.processed,
        failed=progress.failed,
        skipped=json.loads(scan.skipped) if scan else {},
        gone=scan.gone if scan else 0,
        created_at=row.created_at,
        precision=row.precision,
        priority=row.priority,
        **numbers,
    )


def run_progress(database: Database, run_id: int) -> Progress:
    """Return the progress of a run; cheap enough to call many times a second."""
    open_scan = select(scans.c.found).where(scans.c.run_id == run_id, scans.c.finished_at.is_(None))
    any_open = exists().where(batches.c.run_id == run_id, is_open())
    of_run, of_archive = run_counts.c.run_id == run_id, archive_counts.c.archive_id == runs.c.archive_id
    query = select(
        runs.c.cancelled_at,
        open_scan.scalar_subquery().label("found"),
        any_open.label("running"),
        _total(archive_counts.c.images, of_archive),
        _total(run_counts.c.processed, of_run),
        _total(run_counts.c.failed, of_run),
    ).where(runs.c.id == run_id)
    with database.read() as connection:
        row = connection.execute(query).one()
    state = run_state(
        cancelled=row.cancelled_at is not None,
        scanning=row.found is not None,
        running=bool(row.running),
        unprocessed=row.images - row.processed,
    )
    return Progress(state, row.images, row.processed, row.failed, row.found or 0)


def run_totals(connection: Connection, run_id: int) -> dict[str, int]:
    """Add up what `db.counts` keeps of a run and its archive, by column."""
    of_archive = archive_counts.c.archive_id == select(runs.c.archive_id).where(runs.c.id == run_id).scalar_subquery()
    columns = [column for column in run_counts.columns if not column.primary_key]
    totals = select(
        *(_total(column, run_counts.c.run_id == run_id) for column in columns),
        *(_total(archive_counts.c[name], of_archive) for name in ("images", "studies")),
    )
    return dict(connection.execute(totals).mappings().one())


def _total(column: Column[int], condition: ColumnElement[bool]) -> Label[int]:
    return select(func.coalesce(func.sum(column), 0)).where(condition).scalar_subquery().label(column.name)


def run_state(*, cancelled: bool, scanning: bool, running: bool, unprocessed: int) -> RunState:
    """Decide a run's state; `unprocessed` is the number of its images without an outcome."""
    if cancelled:
        return RunState.CANCELLED
    if scanning:
        return RunState.SCANNING
    if running:
        return RunState.RUNNING
    return RunState.BEHIND if unprocessed else RunState.DONE


def newest_run_ids() -> Select[int]:
    """Select each archive's newest run, which is the one scanned last."""
    latest = select(func.max(scans.c.id)).group_by(scans.c.archive_id)
    return select(scans.c.run_id).where(scans.c.id.in_(latest))
