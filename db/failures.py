"""Reads of failures: which images have no prediction, and why. Nothing here writes."""

from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy import func, select

from db.run_queries import newest_run_ids
from db.session import Database
from db.tables import images, outcomes, studies


@dataclass(frozen=True)
class FailureRow:
    """One image that has no prediction, and why."""

    run: int
    study: str
    image: str
    reason: str
    detail: str | None
    attempts: int


def list_failures(database: Database, run_id: int | None = None) -> Generator[FailureRow, None, None]:
    """Stream the current images that could not be read, of one run or of each archive's newest."""
    query = (
        select(
            outcomes.c.run_id, studies.c.key, images.c.path, outcomes.c.reason, outcomes.c.detail, outcomes.c.attempts
        )
        .join(images, images.c.id == outcomes.c.image_id)
        .join(studies, studies.c.id == images.c.study_id)
        .where(outcomes.c.reason.is_not(None), images.c.current)
        .order_by(outcomes.c.run_id, studies.c.key, images.c.path)
        .execution_options(yield_per=1000)
    )
    query = query.where(outcomes.c.run_id.in_(newest_run_ids()) if run_id is None else outcomes.c.run_id == run_id)
    with database.read() as connection:
        for row in connection.execute(query):
            yield FailureRow(*row)


def count_failures(database: Database, run_id: int | None = None) -> dict[str, int]:
    """Count what `list_failures` streams, by reason, the most frequent first."""
    query = (
        select(outcomes.c.reason, func.count().label("images"))
        .join(images, images.c.id == outcomes.c.image_id)
        .where(outcomes.c.reason.is_not(None), images.c.current)
        .where(outcomes.c.run_id.in_(newest_run_ids()) if run_id is None else outcomes.c.run_id == run_id)
        .group_by(outcomes.c.reason)
        .order_by(func.count().desc(), outcomes.c.reason)
    )
    with database.read() as connection:
        return {row.reason: row.images for row in connection.execute(query)}
