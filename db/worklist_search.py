"""How the studies of a worklist are found in their order, by indexes, without reading all results of a run."""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    and_,
    column,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
    values,
)

from db.assessment import STATUSES_WITH_SCORE
from db.counts import BLOCK_IDS
from db.queries import LARGEST_NUMBER
from db.session import chunks, one_of
from db.study_results import COUNTED_AS
from db.tables import archive_counts, images, models, run_counts, runs, studies, study_results
from xray.vocabulary import Label, StudyStatus

FEW = 2_000
"""Of so many studies, reading each is quicker than reading all results in their order until a page is full."""

FEW_TO_COUNT = 20_000
"""The same where so many are counted that most results would be read."""

_KIND = ("status", "reviewed", "human_label")
_SEARCHED = (studies.c.key, studies.c.accession)

Place = tuple[float | None, int]
"""Of a study in the order: its score, and its id."""

START: Place = (math.inf, LARGEST_NUMBER)
"""Before all studies; among those with a score, also after them when pages go backwards."""


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
        Those whose result, with its status and label of now, somebody has reviewed, or those where nobody has.
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


class _Group(NamedTuple):
    """What results are filtered by besides numbers, times and text; an index has each group's studies by score."""

    status: str
    reviewed: bool
    human_label: str
    body_parts: str

    @property
    def is_its(self) -> ColumnElement[bool]:
        return and_(*(study_results.c[name] == literal(value) for name, value in self._asdict().items()))


class WorklistSearch:
    """Finds the studies of one filter, in three parts of the order that each have an index.

    Studies with a score come by the score index or, if they are filtered by what makes their group, by the group index,
    one walk in each group. Those with a result but no score come by the group index too. Those that have no result at
    all come from the blocks of ids (`db.counts`) in which the archive has more studies than the run has results.

    Of a time or a text, the studies are looked up first; if these are few, only they are filtered.
    """

    def __init__(self, connection: Connection, wanted: WorklistFilter, most_few: int) -> None:
        self._connection = connection
        self._most_few = most_few
        self._wanted = wanted
        self._run = study_results.c.run_id == wanted.run
        possible = _is_possible(wanted)
        found = connection.execute(
            select(runs.c.archive_id, models.c.study_threshold)
            .join(models, models.c.id == runs.c.model_id)
            .where(runs.c.id == (wanted.run if possible else 0))
        ).one_or_none()
        self._exists = found is not None
        self._part = (wanted.body_part or "").upper()
        self._archive_id: int = found.archive_id if found else 0
        self._threshold: float = found.study_threshold if found else 0.0

    # -- what is asked

    @cached_property
    def _needs_score(self) -> bool:
        wanted = self._wanted
        by_score = wanted.label, wanted.min_score, wanted.max_score
        return wanted.flagged or any(each is not None for each in by_score)

    @cached_property
    def _groups(self) -> list[_Group]:
        """The groups in the run that the filter allows."""
        wanted = self._wanted
        statuses = [StudyStatus.SCORED] if wanted.label is Label.NEGATIVE else [*StudyStatus]
        kinds = product(
            [status for status in statuses if wanted.status in (None, status)],
            [False, True] if wanted.reviewed is None else [wanted.reviewed],
            ["", *Label] if wanted.human_label is None else [wanted.human_label],
        )
        found = self._groups_of(list(kinds))
        return [one for one in found if wanted.body_part is None or self._part in one.body_parts.split(",")]

    def _groups_of(self, kinds: Sequence[tuple[str, bool, str]]) -> list[_Group]:
        """Find the groups of some kinds, each a status, whether it was reviewed, and a human label."""
        if not kinds:
            return []
        # One look into the index for each group: SELECT DISTINCT would read every result.
        kind = (
            values(*(column(name, study_results.c[name].type) for name in _KIND), name="kind").data(kinds).cte("kind")
        )
        first = self._first_body_parts(kind)
        every = select(*(kind.c[name] for name in _KIND), first.label("body_parts")).cte("every", recursive=True)
        following = self._first_body_parts(every, study_results.c.body_parts > every.c.body_parts)
        known = every.c.body_parts.is_not(None)
        every = every.union_all(select(*(every.c[name] for name in _KIND), following).where(known))
        rows = self._connection.execute(select(every).where(every.c.body_parts.is_not(None)))
        return [_Group(row.status, bool(row.reviewed), row.human_label, row.body_parts) for row in rows]

    def _first_body_parts(self, kind: CTE, *conditions: ColumnElement[bool]) -> ScalarSelect[str]:
        same = (study_results.c[name] == kind.c[name] for name in _KIND)
        return select(func.min(study_results.c.body_parts)).where(self._run, *same, *conditions).scalar_subquery()

    @cached_property
    def _filters_groups(self) -> bool:
        wanted = self._wanted
        by_group = wanted.status, wanted.reviewed, wanted.human_label, wanted.body_part
        return wanted.label is Label.NEGATIVE or any(each is not None for each in by_group)

    def _between(self, lower: Place | None = None, upper: Place | None = None) -> list[ColumnElement[bool]]:
        """Return what is asked of a score, and that it lies between two places.

        As one bound on either side: SQLite reads an index from the first one that it is given, not from the tightest.
        """
        wanted = self._wanted
        lowest = [] if lower is None else [lower]
        highest = [] if upper is None else [upper]
        if wanted.min_score is not None:
            lowest.append((wanted.min_score, 0))
        if wanted.max_score is not None:
            highest.append((wanted.max_score, LARGEST_NUMBER))
        # A study is flagged by the same rule (`xray.thresholds.is_positive`), and the indexes have scores.
        if wanted.flagged or wanted.label is Label.POSITIVE:
            lowest.append((self._threshold, 0))
        if wanted.label is Label.NEGATIVE:
            highest.append((self._threshold, 0))
        score, study_id = (self._walked(each) for each in (study_results.c.score, study_results.c.study_id))
        conditions: list[ColumnElement[bool]] = [score.is_not(None)]
        if lowest:
            conditions.append(tuple_(score, study_id) > max(lowest))
        if highest:
            conditions.append(tuple_(score, study_id) < min(highest))
        return conditions

    @cached_property
    def _other_conditions(self) -> list[ColumnElement[bool]]:
        """What is asked of a result and no index of scores knows."""
        conditions: list[ColumnElement[bool]] = []
        if self._few is not None:
            conditions.append(one_of(self._connection, study_results.c.study_id, self._few))
        if self._wanted.since is not None:
            conditions.append(study_results.c.changed_at >= self._wanted.since)
        if self._text:
            conditions.append(exists().where(studies.c.id == study_results.c.study_id, or_(*self._text)))
        return conditions

    @cached_property
    def _text(self) -> list[ColumnElement[bool]]:
        """What is asked of a study's key, or of its accession number."""
        text = self._wanted.text
        if not text:
            return []
        begins = [_begins_with(self._connection, column, text) for column in _SEARCHED]
        for beginning in begins:
            found = select(studies.c.id).where(studies.c.archive_id == self._archive_id, beginning).limit(1)
            if self._connection.execute(found).one_or_none():
                return begins
        return [_contains(self._connection, column, text) for column in _SEARCHED]

    @cached_property
    def _few(self) -> list[int] | None:
        """The only studies that the filter may have, if a time or a text leaves few."""
        if self._wanted.since is not None:
            changed = self._run, study_results.c.changed_at >= self._wanted.since
            found = self._few_of([select(study_results.c.study_id).where(*changed)])
            if found is not None:
                return found
        if self._text:
            of_archive = studies.c.archive_id == self._archive_id
            return self._few_of([select(studies.c.id).where(of_archive, condition) for condition in self._text])
        return None

    def _few_of(self, queries: Sequence[Select[int]]) -> list[int] | None:
        found: set[int] = set()
        for query in queries:
            found.update(self._connection.execute(query.limit(self._most_few + 1)).scalars())
            if len(found) > self._most_few:
                return None
        return sorted(found)

    # -- pages

    def page(self, place: Place, limit: int, *, forward: bool) -> list[Place]:
        """Return the next studies after a place in the order, or the ones before it, the nearest first."""
        if not self._exists:
            return []
        if forward:
            found = [] if place[0] is None else self._scored(place, limit, forward=True)
            after = place[1] if place[0] is None else 0
            return found + self._unscored(after, limit - len(found), forward=True)
        found = self._unscored(place[1], limit, forward=False) if place[0] is None else []
        before = START if place[0] is None else place
        return found + self._scored(before, limit - len(found), forward=False)

    def _scored(self, place: Place, limit: int, *, forward: bool) -> list[Place]:
        known = None if place == START else place
        beyond = self._between(upper=known) if forward else self._between(lower=known)
        rows = self._results([study_results.c.score, study_results.c.study_id], beyond, limit, forward=not forward)
        return sorted(((row.score, row.study_id) for row in rows), reverse=forward)[:limit]

    def _unscored(self, place: int, limit: int, *, forward: bool) -> list[Place]:
        if self._needs_score or limit <= 0:
            return []
        study_id = study_results.c.study_id
        conditions = [study_results.c.score.is_(None), study_id > place if forward else study_id < place]
        rows = self._results([study_id], conditions, limit, forward=forward, without_score=True)
        found = [row.study_id for row in rows] + self._without_result(place, limit, forward=forward)
        return [(None, number) for number in sorted(found, reverse=not forward)[:limit]]

    def _results(
        self,
        columns: Sequence[Column[Any]],
        conditions: Sequence[ColumnElement[bool]],
        limit: int,
        *,
        forward: bool,
        without_score: bool = False,
    ) -> Iterator[Row[Any]]:
        """Select the first results in the order of these columns, or the last ones, of each walk."""
        if limit <= 0:
            return
        order = [self._walked(each) for each in columns]
        if not forward:
            order = [each.desc() for each in order]
        walks = self._walks(columns, conditions, without_score=without_score)
        for some in chunks([walk.order_by(*order).limit(limit) for walk in walks]):
            yield from self._connection.execute(union_all(*(select(walk.subquery()) for walk in some)))

    def _walked(self, each: Column[Any]) -> ColumnElement[Any]:
        """Return a column by which results are read in order; of few studies, each is read by its id."""
        # The sum keeps planners from walking through all results all the same.
        return each if self._few is None else each + 0

    def _walks(
        self, columns: Sequence[ColumnElement[Any]], conditions: Sequence[ColumnElement[bool]], *, without_score: bool
    ) -> list[Select[Any]]:
        """Select the results that meet the filter, in parts that are each quick to read in order."""
        walk = select(*columns).where(self._run, *conditions, *self._other_conditions)
        if self._few is not None:
            # Not by the index of the groups either.
            row = (func.coalesce(study_results.c[name], study_results.c[name]) for name in _Group._fields)
            return [walk.where(tuple_(*row).in_(self._groups)) if self._filters_groups else walk]
        if not without_score and not self._filters_groups:
            return [walk]
        # SQLite, which has no statistics, would rather walk through all scores.
        walk = walk.with_hint(study_results, "INDEXED BY ix_study_results_group", "sqlite")
        groups = [group for group in self._groups if (group.status in STATUSES_WITH_SCORE) != without_score]
        return [walk.where(group.is_its) for group in groups]

    # -- studies without a result

    def _without_result(self, place: int, limit: int, *, forward: bool) -> list[int]:
        found: list[int] = []
        for first, last in self._ranges_without_result if forward else reversed(self._ranges_without_result):
            after = (max(first, place + 1), last) if forward else (first, min(last, place - 1))
            if len(found) < limit and after[0] <= after[1]:
                query, study_id = self._select_without_result(*after)
                query = query.order_by(study_id if forward else study_id.desc()).limit(limit - len(found))
                found += self._connection.execute(query).scalars()
        return found

    @cached_property
    def _ranges_without_result(self) -> list[tuple[int, int]]:
        """The ranges of ids that have studies without a result; none if the filter allows no such study."""
        wanted = self._wanted
        if self._needs_score or wanted.reviewed or wanted.since is not None:
            return []
        if wanted.status not in (None, StudyStatus.PENDING):
            return []
        ranges: list[tuple[int, int]] = []
        for block in self._blocks_without_result():
            first, last = block * BLOCK_IDS, (block + 1) * BLOCK_IDS - 1
            if ranges and ranges[-1][1] == first - 1:
                ranges[-1] = ranges[-1][0], last
            else:
                ranges.append((first, last))
        return ranges

    def _blocks_without_result(self) -> list[int]:
        in_archive = select(archive_counts.c.block, archive_counts.c.studies.label("number"))
        in_archive = in_archive.where(archive_counts.c.archive_id == self._archive_id)
        counted = sum((run_counts.c[name] for name in COUNTED_AS.values()), literal(0))
        in_run = select(run_counts.c.block, counted.label("number")).where(run_counts.c.run_id == self._wanted.run)
        block = study_results.c.study_id // BLOCK_IDS
        pending = select(block.label("block"), func.count().label("number")).group_by(block)
        pending = pending.where(self._run, study_results.c.status == StudyStatus.PENDING)
        left: Counter[int] = Counter({row.block: row.number for row in self._connection.execute(in_archive)})
        for counted_ones in (in_run, pending):
            left.subtract({row.block: row.number for row in self._connection.execute(counted_ones)})
        return sorted(number for number, studies_left in left.items() if studies_left > 0)

    def _select_without_result(self, first: int, last: int) -> tuple[Select[int], ColumnElement[int]]:
        """Select those of a range of ids that have no result, and return what to sort them by."""
        wanted, study = self._wanted, studies.c
        conditions: list[ColumnElement[bool]] = []
        if self._few is not None:
            conditions.append(one_of(self._connection, study.id, self._few))
        if self._text:
            conditions.append(or_(*self._text))
        if wanted.human_label is not None:
            conditions.append(study.human_label == wanted.human_label)
        if wanted.body_part is not None and self._few is None:
            # The index of body parts has a part's studies in their order.
            shown = and_(images.c.archive_id == self._archive_id, images.c.current, images.c.body_part == self._part)
            query = select(images.c.study_id).where(shown).distinct()
            if conditions:
                query = query.where(exists().where(study.id == images.c.study_id, *conditions))
            study_id: Column[int] = images.c.study_id
        else:
            # The sum keeps planners from reading the whole archive by the index on archive_id.
            query = select(study.id).where(study.archive_id + 0 == self._archive_id, *conditions)
            shown = and_(images.c.study_id == study.id, images.c.current)
            if wanted.body_part is not None:
                shown = and_(shown, images.c.body_part == self._part)
            query, study_id = query.where(exists().where(shown)), study.id
        has_result = exists().where(self._run, study_results.c.study_id == study_id)
        return query.where(study_id.between(first, last), ~has_result), study_id

    # -- how many

    def count(self, most: int) -> int:
        """Count the studies, up to `most`."""
        if not self._exists:
            return 0
        walks = self._walks([study_results.c.study_id], self._between(), without_score=False)
        if not self._needs_score:
            walks += self._walks([study_results.c.study_id], [study_results.c.score.is_(None)], without_score=True)
        walks += [self._select_without_result(*each)[0] for each in self._ranges_without_result]
        total = 0
        for walk in walks:
            if total < most:
                counted = select(func.count()).select_from(walk.limit(most - total).subquery())
                total += self._connection.execute(counted).scalar_one()
        return total


def _begins_with(connection: Connection, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Compare by bytes, as the indexes do."""
    last = text + chr(sys.maxunicode)
    if connection.dialect.name == "sqlite":
        return and_(column >= text, column < last)
    return and_(column.op("~>=~")(text), column.op("~<~")(last))


def _contains(connection: Connection, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    position = func.instr if connection.dialect.name == "sqlite" else func.strpos
    # By the index of accession numbers, which has no others.
    return and_(column.is_not(None), position(column, text) > 0)


def _is_possible(wanted: WorklistFilter) -> bool:
    """Tell whether a database can be asked for it: no text there has a null character or half a character."""
    texts = [text for text in (wanted.text, wanted.body_part) if text is not None]
    storable = all("\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text) for text in texts)
    return storable and 1 <= wanted.run <= LARGEST_NUMBER
