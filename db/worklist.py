"""The worklist: the studies of a run in order of score, by pages, as a person goes through them.

Paging is by keyset: a cursor is a place in the order, so that pages neither repeat nor leave out a study while results
change in between, and a deep page takes no longer than the first.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select

from db.queries import (
    LARGEST_NUMBER,
    Study,
    StudyRow,
    read_study,
    result_columns,
    select_studies,
    study_row,
)
from db.session import Database, one_of
from db.tables import reviews, studies, study_results
from xray.errors import UsageError
from xray.vocabulary import KEEP, Label, StudyStatus

Place = tuple[float | None, int]
"""Of a study in the order: its score, and its id."""

END: Place = (None, LARGEST_NUMBER)
START: Place = (math.inf, LARGEST_NUMBER)


@dataclass(frozen=True)
class WorklistFilter:
    """Which studies of a run to list; None means all.

    Parameters
    ----------
    run : int
    body_part : str, optional
        In capitals or not.
    label : Label, optional
        Predicted.
    flagged : bool
        Only flagged ones.
    min_score, max_score : float, optional
        In [0, 1]; a study without a score is not listed then.
    status : StudyStatus, optional
    reviewed : bool, optional
        Those that somebody has reviewed in this run, or those that nobody has.
    since : float, optional
        Seconds since 1970: those whose result has changed since.
    text : str, optional
        What a study's key or accession number begins with; if none in the archive does, what one contains.
    human_label : Label, optional
    """

    run: int
    body_part: str | None = None
    label: Label | None = None
    flagged: bool = False
    min_score: float | None = None
    max_score: float | None = None
    status: StudyStatus | None = None
    reviewed: bool | None = None
    since: float | None = None
    text: str | None = None
    human_label: Label | None = None


@dataclass(frozen=True)
class WorklistRow:
    """A study of a worklist: `decision` is that of the newest review; `reviewers`, how many people reviewed it."""

    study_id: int
    row: StudyRow
    decision: str | None
    reviewers: int


@dataclass(frozen=True)
class WorklistPage:
    """Some studies of a worklist, and the cursors of the pages after and before it, None where there is none."""

    rows: list[WorklistRow]
    next: str | None
    previous: str | None


def worklist(
    database: Database,
    wanted: WorklistFilter,
    cursor: str | None = None,
    limit: int = 50,
    keep: frozenset[str] = frozenset(),
) -> WorklistPage:
    """Return a page of a worklist: by descending score, then by descending id; studies without a score last, by id.

    Parameters
    ----------
    database : Database
    wanted : WorklistFilter
    cursor : str, optional
        `next` or `previous` of another page with the same filter. Default: the first page.
    limit : int
        How many studies a page has.
    keep : frozenset of str
        As `db.queries.ResultFilter.keep`.

    Raises
    ------
    UsageError
        The cursor is not one of a worklist.
    """
    forward, place = _read_cursor(cursor)
    with database.read() as connection:
        found = _studies_from(connection, wanted, place, limit + 1, forward=forward)
        more, found = len(found) > limit, found[:limit]
        if not forward:
            found.reverse()
        rows = _rows(connection, wanted.run, [study_id for _, study_id in found], keep)
    after = _cursor(found[-1] if found else place, forward=True)
    before = _cursor(found[0] if found else place, forward=False)
    if forward:
        return WorklistPage(rows, after if more else None, None if cursor is None else before)
    return WorklistPage(rows, after, before if more else None)


def count_worklist(database: Database, wanted: WorklistFilter, most: int = 10_000) -> int:
    """Count the studies of a worklist, up to `most`."""
    with database.read() as connection:
        query = select_studies([studies.c.id], wanted.run).where(*_conditions(connection, wanted)).limit(most)
        return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()


def neighbours(database: Database, wanted: WorklistFilter, study_id: int) -> tuple[int | None, int | None]:
    """Return the studies before and after one in a worklist, which need not have that study itself.

    Raises
    ------
    UsageError
        The run has no such study.
    """
    with database.read() as connection:
        row = _find(connection, wanted.run, study_id)
        place = (row["score"], study_id)
        before = _studies_from(connection, wanted, place, 1, forward=False)
        after = _studies_from(connection, wanted, place, 1, forward=True)
    return (before[0][1] if before else None), (after[0][1] if after else None)


def study_by_id(database: Database, run_id: int, study_id: int) -> Study:
    """Return a study in a run, with its images.

    Raises
    ------
    UsageError
        The run has no such study.
    """
    with database.read() as connection:
        return read_study(connection, _find(connection, run_id, study_id))


def _find(connection: Connection, run_id: int, study_id: int) -> Mapping[Any, Any]:
    row = None
    if 1 <= run_id <= LARGEST_NUMBER and 1 <= study_id <= LARGEST_NUMBER:
        row = connection.execute(select_studies(result_columns(KEEP), run_id, [study_id])).mappings().one_or_none()
    if row is None:
        raise UsageError(f"run {run_id} has no study {study_id}; see: bonescreen results --run {run_id}")
    return row


# -- cursors -----------------------------------------------------------------------------------------------------


def _cursor(place: Place, *, forward: bool) -> str:
    score, study_id = place
    text = json.dumps([int(forward), score, study_id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> tuple[bool, Place]:
    if cursor is None:
        return True, START
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        forward, score, study_id = json.loads(decoded)
        place = None if score is None else float(score), int(study_id)
        if _cursor(place, forward=bool(forward)) != cursor or not 0 <= place[1] <= LARGEST_NUMBER:
            raise ValueError
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError("this is not a place in a worklist; begin with its first page") from error
    return bool(forward), place


# -- the order ---------------------------------------------------------------------------------------------------


def _studies_from(
    connection: Connection, wanted: WorklistFilter, place: Place, limit: int, *, forward: bool
) -> list[Place]:
    """Return the next studies after a place in the order, or the ones before it, the nearest first."""
    score, study_id = study_results.c.score, studies.c.id
    query = select_studies([score, study_id], wanted.run).where(*_conditions(connection, wanted))
    at, number = place
    after: ColumnElement[bool]
    if at is None:
        after = and_(score.is_(None), study_id > number)
        before = or_(score.is_not(None), and_(score.is_(None), study_id < number))
    else:
        after = or_(score < at, and_(score == at, study_id < number), score.is_(None))
        before = or_(score > at, and_(score == at, study_id > number))
    query = query.where(after if forward else before)
    unscored = score.is_(None)
    by_id = -study_id if forward else study_id
    if forward:
        query = query.order_by(unscored, score.desc(), func.coalesce(score * 0 + by_id, study_id))
    else:
        query = query.order_by(unscored.desc(), score, func.coalesce(score * 0 + by_id, -study_id))
    return [(row.score, row.id) for row in connection.execute(query.limit(limit))]


def _conditions(connection: Connection, wanted: WorklistFilter) -> list[ColumnElement[bool]]:
    result = study_results.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.flagged or wanted.label is Label.POSITIVE:
        conditions.append(result.flagged)
    if wanted.label is Label.NEGATIVE:
        conditions += [result.status == StudyStatus.SCORED, ~result.flagged]
    if wanted.min_score is not None:
        conditions.append(result.score >= wanted.min_score)
    if wanted.max_score is not None:
        conditions.append(result.score <= wanted.max_score)
    if wanted.status is not None:
        conditions.append(func.coalesce(result.status, StudyStatus.PENDING) == wanted.status)
    if wanted.since is not None:
        conditions.append(result.changed_at >= wanted.since)
    if wanted.human_label is not None:
        conditions.append(studies.c.human_label == wanted.human_label)
    if wanted.body_part is not None:
        part = f",{wanted.body_part.upper()},"
        conditions.append(("," + studies.c.body_parts + ",").contains(part, autoescape=True))
    if wanted.reviewed is not None:
        found = select(reviews.c.id).where(reviews.c.run_id == wanted.run, reviews.c.study_id == studies.c.id).exists()
        conditions.append(found if wanted.reviewed else ~found)
    if wanted.text:
        conditions.append(
            or_(
                _contains(connection, studies.c.key, wanted.text),
                _contains(connection, studies.c.accession, wanted.text),
            )
        )
    return conditions or [~false()]


def _contains(connection: Connection, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    position = func.instr if connection.dialect.name == "sqlite" else func.strpos
    return func.coalesce(position(column, text), 0) > 0


def _rows(connection: Connection, run_id: int, study_ids: Sequence[int], keep: frozenset[str]) -> list[WorklistRow]:
    """Read what a page shows of studies, in their order."""
    if not study_ids:
        return []
    found = {
        row["study_id"]: row
        for row in connection.execute(select_studies(result_columns(keep), run_id, study_ids)).mappings()
    }
    decisions: dict[int, str] = {}
    people: dict[int, set[str]] = {}
    query = (
        select(reviews.c.study_id, reviews.c.decision, reviews.c.reviewer)
        .where(reviews.c.run_id == run_id, one_of(connection, reviews.c.study_id, study_ids))
        .order_by(reviews.c.id)
    )
    for review in connection.execute(query):
        decisions[review.study_id] = review.decision
        people.setdefault(review.study_id, set()).add(review.reviewer)
    return [
        WorklistRow(study_id, study_row(found[study_id]), decisions.get(study_id), len(people.get(study_id, ())))
        for study_id in study_ids
    ]
