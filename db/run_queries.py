"""Queries about runs: state, progress and summary. Nothing here writes."""

import json
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Select, func, select

from db.session import Database
from db.tables import archives, batches, images, models, outcomes, runs, scans, study_results
from xray.errors import UsageError
from xray.vocabulary import OPEN_STATES


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
    of_run = study_results.c.run_id == run_id
    with database.read() as connection:
        row = connection.execute(
            select(
                runs.c.created_at,
                runs.c.archive_id,
                archives.c.name.label("archive"),
                archives.c.root,
                *(models.c[name] for name in ("version", "digest", "queue", "finding", "study_threshold")),
                models.c.name.label("model_name"),
            )
            .join(archives, archives.c.id == runs.c.archive_id)
            .join(models, models.c.id == runs.c.model_id)
            .where(runs.c.id == run_id)
        ).one_or_none()
        if row is None:
            raise UsageError(f"there is no run {run_id}; see: bonescreen runs")
        study_count = connection.execute(
            select(func.count(images.c.study_id.distinct())).where(
                images.c.archive_id == row.archive_id, images.c.current
            )
        )
        inferred = connection.execute(
            select(func.count(outcomes.c.content_id.distinct())).where(outcomes.c.run_id == run_id)
        )
        flagged = connection.execute(select(func.count()).where(of_run, study_results.c.flagged))
        scan = connection.execute(
            select(scans.c.skipped, scans.c.gone)
            .where(scans.c.run_id == run_id, scans.c.finished_at.is_not(None))
            .order_by(scans.c.id.desc())
            .limit(1)
        ).one_or_none()
        open_count = select(func.count()).where(batches.c.run_id == run_id, batches.c.state.in_(OPEN_STATES))
        numbers = {
            "studies": study_count.scalar_one(),
            "inferred": inferred.scalar_one(),
            "flagged": flagged.scalar_one(),
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
        **numbers,
    )


def run_progress(database: Database, run_id: int) -> Progress:
    """Return the progress of a run; cheap enough to call every second."""
    open_scan = select(scans.c.found).where(scans.c.run_id == run_id, scans.c.finished_at.is_(None))
    any_open = select(batches.c.id).where(batches.c.run_id == run_id, batches.c.state.in_(OPEN_STATES)).limit(1)
    with database.read() as connection:
        run = connection.execute(select(runs.c.archive_id, runs.c.cancelled_at).where(runs.c.id == run_id)).one()
        scanning = connection.execute(open_scan).scalar_one_or_none()
        running = connection.execute(any_open).first() is not None
        image_count = connection.execute(
            select(func.count()).where(images.c.archive_id == run.archive_id, images.c.current)
        ).scalar_one()
        processed, failed = connection.execute(
            select(func.count(), func.count(outcomes.c.reason))
            .select_from(outcomes)
            .join(images, images.c.id == outcomes.c.image_id)
            .where(outcomes.c.run_id == run_id, images.c.current)
        ).one()
    state = run_state(
        cancelled=run.cancelled_at is not None,
        scanning=scanning is not None,
        running=running,
        unprocessed=image_count - processed,
    )
    return Progress(state, image_count, processed, failed, scanning or 0)


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
