"""Two runs of one archive beside each other: disagreements first, counts, and scores in pairs."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from db.comparison import ComparedStudy, LabelCounts, compare_runs, count_labels, score_pairs
from db.session import Database
from db.worklist import worklist
from db.worklist_search import WorklistFilter
from tests.ledgers import fill
from tests.seeding import MODEL
from xray.errors import UsageError
from xray.vocabulary import Label, Reason

OTHER = replace(MODEL, version="2", digest="cd" * 32, study_threshold=0.7, queue="screen.other.fp32")


def _two_runs(database: Database) -> tuple[int, int]:
    chosen = random.Random(1)
    keys = [f"XR_HAND/{number:02}" for number in range(14)]
    scores = (0.1, 0.5, 0.6, 0.7, 0.9, Reason.CORRUPT, None)
    first, second = (
        fill(database, {key: [chosen.choice(scores), chosen.choice(scores[:-1])] for key in keys}, model=model)
        for model in (MODEL, OTHER)
    )
    return first, second


def _pages(database: Database, first: int, second: int, limit: int) -> Iterator[ComparedStudy]:
    page = compare_runs(database, first, second, limit)
    yield from page.rows
    while page.next is not None:
        page = compare_runs(database, first, second, limit, page.next)
        yield from page.rows


def _plain(database: Database, first: int, second: int) -> tuple[list[ComparedStudy], int]:
    """Compare in plain Python; return also how many studies are not comparable."""
    ours, theirs = (
        {row.study_id: row.row for row in worklist(database, WorklistFilter(run), limit=100).rows}
        for run in (first, second)
    )
    found = []
    for study_id in ours.keys() | theirs.keys():
        one, other = ours.get(study_id), theirs.get(study_id)
        if one and other and one.label and other.label and one.score is not None and other.score is not None:
            labels = Label(one.label), Label(other.label)
            found.append(
                ComparedStudy(study_id, one.study, one.body_part, one.human_label, one.score, other.score, *labels)
            )
    found.sort(
        key=lambda row: (row.first_label != row.second_label, abs(row.first_score - row.second_score), row.study_id),
        reverse=True,
    )
    return found, len(ours.keys() | theirs.keys()) - len(found)


def test_studies_with_different_labels_come_first_each_once(database: Database) -> None:
    first, second = _two_runs(database)
    expected, _ = _plain(database, first, second)
    assert {row.first_label != row.second_label for row in expected} == {True, False}
    for limit in (1, 3, 100):
        assert list(_pages(database, first, second, limit)) == expected


def test_studies_are_counted_by_both_labels_and_those_without_one_apart(database: Database) -> None:
    first, second = _two_runs(database)
    rows, rest = _plain(database, first, second)
    positive, negative = Label.POSITIVE, Label.NEGATIVE
    pairs = [(row.first_label, row.second_label) for row in rows]
    kinds = (positive, positive), (positive, negative), (negative, positive), (negative, negative)
    assert count_labels(database, first, second) == LabelCounts(*map(pairs.count, kinds), rest)
    assert rest > 0


def test_the_scores_of_all_studies_or_of_some_of_them_are_paired(database: Database) -> None:
    first, second = _two_runs(database)
    rows, _ = _plain(database, first, second)
    expected = sorted((row.study_id, row.first_score, row.second_score) for row in rows)
    assert score_pairs(database, first, second) == expected
    few = score_pairs(database, first, second, most=3)
    assert 1 <= len(few) <= 3
    assert set(few) < set(expected)


def test_runs_that_cannot_be_compared_are_refused(database: Database) -> None:
    first, other = fill(database), fill(database, archive="other")
    for pair, said in (
        ((first, first), f"and both are {first}"),
        ((first, 99), "there is no run 99"),
        ((2**63, first), f"there is no run {2**63}"),
        ((first, other), "are of different archives"),
    ):
        for ask in (compare_runs, count_labels, score_pairs):
            with pytest.raises(UsageError, match=said):
                ask(database, *pair)


@pytest.mark.parametrize(
    "cursor", ["", "x", "[2, 0.5, 1]", "[0, NaN, 1]", "[0, 0.5]", "{}", "[0, 0.5, 9223372036854775808]"]
)
def test_a_cursor_that_is_not_ours_is_refused(database: Database, cursor: str) -> None:
    first, second = _two_runs(database)
    with pytest.raises(UsageError, match="not a place in a comparison"):
        compare_runs(database, first, second, cursor=cursor)
