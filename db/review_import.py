"""Reviews that were made in a report, away from this database, and are added to it all at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from db.queries import StudyRow, result_columns, select_studies, study_row
from db.reviews import check_reviewer
from db.runs import share_run
from db.session import Database, Now, chunks, insert_many, one_of
from db.study_results import lock_results, repeat_reviews
from db.tables import reviews, studies
from xray.vocabulary import Decision, Label, StudyStatus


@dataclass(frozen=True)
class Decided:
    """A decision on a study's result; `label`, `score` and `status` are what the reviewer saw."""

    study_id: int
    decision: Decision
    note: str | None
    label: Label | None
    score: float | None
    status: StudyStatus


@dataclass(frozen=True)
class Added:
    """What an import did.

    Attributes
    ----------
    added : list of Decided
        What was stored.
    before : list of Decided
        What this reviewer had decided in the same words before, so that nothing was stored.
    outdated : list of Decided
        Those of `before` after which the reviewer decided otherwise, which still counts.
    """

    added: list[Decided]
    before: list[Decided]
    outdated: list[Decided]


def find_by_keys(database: Database, run_id: int, keys: Iterable[str]) -> dict[str, tuple[int, StudyRow]]:
    """Return the ids and results of a run's studies, by key; those that it does not have are left out."""
    found = {}
    with database.read() as connection:
        for some in chunks(sorted(set(keys))):
            query = select_studies(result_columns(), run_id).where(one_of(connection, studies.c.key, some))
            for row in connection.execute(query).mappings():
                found[row["study"]] = (row["study_id"], study_row(row))
    return found


def add_reviews(database: Database, run_id: int, reviewer: str, decided: Sequence[Decided]) -> Added:
    """Add a person's reviews of a run, all or none; what the person decided before in the same words is left out.

    Raises
    ------
    UsageError
        The reviewer's name is empty, too long or not printable.
    """
    name = check_reviewer(reviewer)
    reviewed = list({one.study_id for one in decided})
    with database.write() as connection:
        # A scan changes results in another order.
        share_run(connection, run_id)
        lock_results(connection, run_id, reviewed)
        earlier = _earlier(connection, run_id, name, [one.study_id for one in decided])
        added, before, outdated = [], [], []
        for one in decided:
            words = [(decision, note) for decision, note in earlier.get(one.study_id, ())]
            if (one.decision, one.note) not in words:
                added.append(one)
                continue
            before.append(one)
            if words[-1] != (one.decision, one.note):
                outdated.append(one)
        now = connection.execute(select(Now())).scalar_one()
        for some in chunks(added):
            insert_many(connection, reviews, [_row(run_id, name, one, now) for one in some])
        repeat_reviews(connection, run_id, reviewed)
    return Added(added, before, outdated)


def _earlier(
    connection: Connection, run_id: int, reviewer: str, study_ids: Sequence[int]
) -> dict[int, list[tuple[str, str | None]]]:
    """Return what a reviewer decided on studies before, in that order."""
    found: dict[int, list[tuple[str, str | None]]] = {}
    for some in chunks(study_ids):
        query = select(reviews.c.study_id, reviews.c.decision, reviews.c.note).where(
            reviews.c.run_id == run_id,
            one_of(connection, reviews.c.study_id, some),
            reviews.c.reviewer == reviewer,
        )
        for row in connection.execute(query.order_by(reviews.c.id)):
            found.setdefault(row.study_id, []).append((row.decision, row.note))
    return found


def _row(run_id: int, reviewer: str, one: Decided, now: float) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "study_id": one.study_id,
        "decision": one.decision,
        "note": one.note,
        "reviewer": reviewer,
        "reviewed_at": now,
        "label": one.label,
        "score": one.score,
        "status": one.status,
    }
