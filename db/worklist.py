"""The worklist: the studies of a run in order of score, by pages, as a person goes through them. Nothing here writes.

Paging is by keyset: a cursor is a place in the order, so that pages neither repeat nor leave out a study while results
change in between, and a deep page takes no longer than the first.
"""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from db.queries import (
    LARGEST_NUMBER,
    Study,
    StudyRow,
    read_study,
    result_columns,
    row_of_study,
    select_studies,
    study_row,
)
from db.session import Database, one_of
from db.tables import reviews
from db.worklist_search import FEW, FEW_TO_COUNT, START, Place, WorklistFilter, WorklistSearch
from xray.errors import UsageError


@dataclass(frozen=True)
class WorklistRow:
    """A study of a worklist: `decision` is that of the newest review; `reviewers`, how many people reviewed it.

    `is_outdated` tells that the newest review is of an earlier result, with another status or label.
    """

    study_id: int
    row: StudyRow
    decision: str | None
    reviewers: int
    is_outdated: bool = False


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
        found = WorklistSearch(connection, wanted, FEW).page(place, limit + 1, forward=forward)
        more, found = len(found) > limit, found[:limit]
        if not forward:
            found.reverse()
        rows = _rows(connection, wanted.run, [study_id for _, study_id in found], keep)
    after = _cursor(found[-1] if found else _beside(place, forward=False), forward=True)
    before = _cursor(found[0] if found else _beside(place, forward=True), forward=False)
    if forward:
        return WorklistPage(rows, after if more else None, None if cursor is None else before)
    return WorklistPage(rows, after, before if more else None)


def count_worklist(database: Database, wanted: WorklistFilter, most: int = 10_000) -> int:
    """Count the studies of a worklist, up to `most`."""
    with database.read() as connection:
        return WorklistSearch(connection, wanted, FEW_TO_COUNT).count(most)


def neighbours(database: Database, wanted: WorklistFilter, study_id: int) -> tuple[int | None, int | None]:
    """Return the studies before and after one in a worklist, which need not have that study itself.

    Raises
    ------
    UsageError
        The run has no such study.
    """
    with database.read() as connection:
        place = (row_of_study(connection, wanted.run, study_id)["score"], study_id)
        search = WorklistSearch(connection, wanted, FEW)
        before, after = search.page(place, 1, forward=False), search.page(place, 1, forward=True)
    return (before[0][1] if before else None), (after[0][1] if after else None)


def study_by_id(database: Database, run_id: int, study_id: int) -> Study:
    """Return a study in a run, with its images.

    Raises
    ------
    UsageError
        The run has no such study.
    """
    with database.read() as connection:
        return read_study(connection, row_of_study(connection, run_id, study_id))


# -- cursors -----------------------------------------------------------------------------------------------------


def _cursor(place: Place, *, forward: bool) -> str:
    score, study_id = place
    text = json.dumps([int(forward), score, study_id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _beside(place: Place, *, forward: bool) -> Place:
    """Return the place right after one, or right before it, so that the other way begins with the study at it."""
    score, study_id = place
    return score, study_id + (1 if forward == (score is None) else -1)


def _read_cursor(cursor: str | None) -> tuple[bool, Place]:
    if cursor is None:
        return True, START
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        forward, score, study_id = json.loads(decoded)
        place = None if score is None else float(score), int(study_id)
        if _cursor(place, forward=bool(forward)) != cursor or not 0 <= place[1] <= LARGEST_NUMBER:
            raise ValueError
        if not math.isfinite(place[0] or 0.0):
            raise ValueError
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError("this is not a place in a worklist; begin with its first page") from error
    return bool(forward), place


def _rows(connection: Connection, run_id: int, study_ids: Sequence[int], keep: frozenset[str]) -> list[WorklistRow]:
    """Read what a page shows of studies, in their order."""
    if not study_ids:
        return []
    found = {
        row["study_id"]: row
        for row in connection.execute(select_studies(result_columns(keep), run_id, study_ids)).mappings()
    }
    newest: dict[int, Row[Any]] = {}
    people: dict[int, set[str]] = {}
    query = (
        select(*(reviews.c[name] for name in ("study_id", "decision", "reviewer", "status", "label")))
        .where(reviews.c.run_id == run_id, one_of(connection, reviews.c.study_id, study_ids))
        .order_by(reviews.c.id)
    )
    for review in connection.execute(query):
        newest[review.study_id] = review
        people.setdefault(review.study_id, set()).add(review.reviewer)
    rows = []
    for study_id in study_ids:
        row, last = study_row(found[study_id]), newest.get(study_id)
        is_outdated = last is not None and (last.status, last.label) != (row.status, row.label)
        decision = None if last is None else last.decision
        rows.append(WorklistRow(study_id, row, decision, len(people.get(study_id, ())), is_outdated))
    return rows
