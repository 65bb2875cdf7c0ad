"""Two runs of one archive beside each other: which studies two model versions label differently, and by how much."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal, null, select, tuple_

from db.queries import LARGEST_NUMBER
from db.run_queries import run_totals
from db.session import Database
from db.tables import runs, studies, study_results
from xray.errors import UsageError
from xray.vocabulary import Label, StudyStatus

_first, _second = study_results.alias("first"), study_results.alias("second")


@dataclass(frozen=True)
class ComparedStudy:
    """A study that both runs have labelled, with each run's score in [0, 1] and label."""

    study_id: int
    study: str
    body_part: str | None
    human_label: str | None
    first_score: float
    second_score: float
    first_label: Label
    second_label: Label


@dataclass(frozen=True)
class ComparisonPage:
    """Some compared studies, and the cursor of the page after them, None where there is none."""

    rows: list[ComparedStudy]
    next: str | None


@dataclass(frozen=True)
class LabelCounts:
    """How many studies each run labels positive; not comparable are those that only one run, or none, has labelled."""

    both_positive: int
    only_first: int
    only_second: int
    both_negative: int
    not_comparable: int


class ScorePair(NamedTuple):
    """A study's score in each of two runs, in [0, 1]."""

    study_id: int
    first: float
    second: float


def compare_runs(
    database: Database, first: int, second: int, limit: int = 50, cursor: str | None = None
) -> ComparisonPage:
    """List the studies that both runs have labelled: different labels first, then by the difference of the scores.

    Parameters
    ----------
    database : Database
    first, second : int
        Two runs of one archive.
    limit : int
        How many studies a page has.
    cursor : str, optional
        `next` of another page. Default: the first page.

    Raises
    ------
    UsageError
        There is no such run, the runs are of different archives, or the cursor is not one of a comparison.
    """
    place = None if cursor is None else _read_cursor(cursor)
    order = case((_label(_first) != _label(_second), 1), else_=0), func.abs(_first.c.score - _second.c.score)
    columns = [
        *(column.label(name) for column, name in zip(order, ("differs", "difference"), strict=True)),
        _first.c.study_id,
        _first.c.score.label("first_score"),
        _second.c.score.label("second_score"),
        _label(_first).label("first_label"),
        _label(_second).label("second_label"),
    ]
    query = _select_both(columns, first, second)
    keys = *order, _first.c.study_id
    if place is not None:
        query = query.where(tuple_(*keys) < tuple_(*map(literal, place)))
    chosen = query.order_by(*(key.desc() for key in keys)).limit(limit + 1).subquery()
    described = select(chosen, studies.c.key, studies.c.body_parts, studies.c.human_label).join(
        studies, studies.c.id == chosen.c.study_id
    )
    with database.read() as connection:
        _check(connection, first, second)
        rows = connection.execute(
            described.order_by(chosen.c.differs.desc(), chosen.c.difference.desc(), chosen.c.study_id.desc())
        ).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return ComparisonPage(
        [
            ComparedStudy(
                row.study_id,
                row.key,
                row.body_parts,
                row.human_label,
                row.first_score,
                row.second_score,
                Label(row.first_label),
                Label(row.second_label),
            )
            for row in rows[:limit]
        ],
        None if last is None else json.dumps([last.differs, last.difference, last.study_id]),
    )


def count_labels(database: Database, first: int, second: int) -> LabelCounts:
    """Count the studies of two runs' archive by the label that each run gave.

    Raises
    ------
    UsageError
        There is no such run, or the runs are of different archives.
    """
    labels = [_label(_first).label("first"), _label(_second).label("second")]
    query = _select_both([*labels, func.count().label("studies")], first, second).group_by(*labels)
    with database.read() as connection:
        _check(connection, first, second)
        counted = {(row.first, row.second): row.studies for row in connection.execute(query)}
        total = run_totals(connection, first)["studies"]
    positive, negative = Label.POSITIVE, Label.NEGATIVE
    pairs = (positive, positive), (positive, negative), (negative, positive), (negative, negative)
    both, only_first, only_second, neither = (counted.get(pair, 0) for pair in pairs)
    return LabelCounts(both, only_first, only_second, neither, total - sum(counted.values()))


def score_pairs(database: Database, first: int, second: int, most: int = 5_000) -> list[ScorePair]:
    """Return the scores of the studies that both runs have labelled, or of `most` of them, evenly chosen by their ids.

    Raises
    ------
    UsageError
        There is no such run, or the runs are of different archives.
    """
    number = func.row_number().over(order_by=_first.c.study_id).label("number")
    scores = _first.c.score.label("first"), _second.c.score.label("second")
    numbered = _select_both([_first.c.study_id, *scores, number], first, second).subquery()
    with database.read() as connection:
        _check(connection, first, second)
        total = connection.execute(_select_both([func.count()], first, second)).scalar_one()
        step = max(1, math.ceil(total / most))
        chosen = select(numbered.c.study_id, numbered.c.first, numbered.c.second).where(numbered.c.number % step == 0)
        return [ScorePair(*row) for row in connection.execute(chosen.order_by(numbered.c.study_id))]


def _check(connection: Connection, first: int, second: int) -> None:
    """Check that two numbers are of different runs of one archive."""
    if first == second:
        raise UsageError(f"a run is compared with another one, and both are {first}")
    numbers = [run_id for run_id in (first, second) if 1 <= run_id <= LARGEST_NUMBER]
    archives_of = select(runs.c.id, runs.c.archive_id).where(runs.c.id.in_(numbers))
    found = {row.id: row.archive_id for row in connection.execute(archives_of)}
    for run_id in (first, second):
        if run_id not in found:
            raise UsageError(f"there is no run {run_id}; see: bonescreen runs")
    if found[first] != found[second]:
        raise UsageError(f"the runs {first} and {second} are of different archives; see: bonescreen runs")


def _select_both(columns: Sequence[ColumnElement[Any]], first: int, second: int) -> Select[Any]:
    """Select the studies that both runs have labelled."""
    same = and_(_second.c.run_id == second, _second.c.study_id == _first.c.study_id)
    labelled = _label(_first).is_not(None), _label(_second).is_not(None)
    return select(*columns).select_from(_first).join(_second, same).where(_first.c.run_id == first, *labelled)


def _label(result: Any) -> ColumnElement[str | None]:
    # As in `db.queries`: only a study whose images were all read may be called negative.
    return case(
        (result.c.flagged, literal(Label.POSITIVE.value)),
        (result.c.status == StudyStatus.SCORED, literal(Label.NEGATIVE.value)),
        else_=null(),
    )


def _read_cursor(cursor: str) -> tuple[int, float, int]:
    try:
        differs, difference, study_id = json.loads(cursor)
        place = int(differs), float(difference), int(study_id)
        if (
            json.dumps(place) != cursor
            or place[0] not in (0, 1)
            or not math.isfinite(place[1])
            or not 0 <= place[2] <= LARGEST_NUMBER
        ):
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError("this is not a place in a comparison; begin with its first page") from error
    return place
