"""Queries about images that could not be read, and about those that were read although their files are wrong."""

from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy import func, select

from db.run_queries import newest_run_ids
from db.session import Database
from db.tables import images, outcomes, studies


@dataclass(frozen=True)
class FailureRow:
    """One image that has no prediction, and the reason."""

    run: int
    study: str
    image: str
    reason: str
    detail: str | None
    attempts: int


def list_failures(database: Database, run_id: int | None = None) -> Generator[FailureRow, None, None]:
    """Stream the current images that could not be read, of one run or of each archive's newest run."""
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


@dataclass(frozen=True)
class ListedFailure:
    """One image of a run that has no prediction, its study, and what exactly is wrong with its file."""

    image_id: int
    image: str
    study_id: int
    study: str
    detail: str | None
    attempts: int


def page_of_failures(
    database: Database, run_id: int, reason: str, after: int = 0, limit: int = 100
) -> list[ListedFailure]:
    """List images of a run that could not be read for a reason, in the order of their ids, which are above `after`."""
    query = (
        select(
            images.c.id, images.c.path, studies.c.id.label("study_id"), studies.c.key, outcomes.c.detail,
            outcomes.c.attempts,
        )
        .join_from(outcomes, images, images.c.id == outcomes.c.image_id)
        .join(studies, studies.c.id == images.c.study_id)
        # The index of failures is used only where the query says that it asks for them.
        .where(outcomes.c.run_id == run_id, outcomes.c.reason.is_not(None), outcomes.c.reason == reason)
        .where(outcomes.c.image_id > after, images.c.current)
        .order_by(outcomes.c.image_id)
        .limit(limit)
    )  # fmt: skip
    with database.read() as connection:
        return [ListedFailure(*row) for row in connection.execute(query)]


def count_failures(database: Database, run_id: int | None = None) -> dict[str, int]:
    """Count the failures that `list_failures` streams by reason, the most frequent first."""
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


def count_repairs(database: Database, run_id: int) -> dict[str, int]:
    """Count the current images of a run that were read although their files are wrong, by what is wrong."""
    query = (
        select(outcomes.c.detail, func.count().label("images"))
        .join(images, images.c.id == outcomes.c.image_id)
        .where(outcomes.c.run_id == run_id, outcomes.c.reason.is_(None), outcomes.c.detail.is_not(None))
        .where(images.c.current)
        .group_by(outcomes.c.detail)
        .order_by(func.count().desc(), outcomes.c.detail)
    )
    with database.read() as connection:
        return {row.detail: row.images for row in connection.execute(query)}
