"""Reviews are added and never changed; agreement counts each reviewer's newest one of a study."""

import threading

import pytest

from db.queries import ResultFilter, results
from db.reviews import (
    NOTE_CHARACTERS,
    REVIEWER_CHARACTERS,
    add_review,
    agreement,
    result_mark,
    reviews_of,
    stream_reviews,
)
from db.session import Database
from db.worklist import worklist
from db.worklist_search import WorklistFilter
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, fill
from xray.errors import UsageError
from xray.vocabulary import Decision, Label, StudyStatus

AGREE, DISAGREE, UNSURE = Decision


def _ids(database: Database, run_id: int) -> dict[str, int]:
    return {row.row.study: row.study_id for row in worklist(database, WorklistFilter(run_id)).rows}


def test_a_review_keeps_what_its_reviewer_saw_and_when(database: Database) -> None:
    run_id = fill(database)
    study_id = _ids(database, run_id)[POSITIVE]
    added = add_review(database, run_id, study_id, "  Ann Ó Sé ", AGREE, "  ulna,\r\nsee view 2\t(AP) ")
    assert (added.run, added.study_id, added.study) == (run_id, study_id, POSITIVE)
    assert (added.reviewer, added.decision, added.note) == ("Ann Ó Sé", AGREE, "ulna,\nsee view 2\t(AP)")
    assert (added.label, added.score, added.status) == (Label.POSITIVE, pytest.approx(0.85), StudyStatus.SCORED)
    assert added.reviewed_at > 1.7e9
    assert reviews_of(database, run_id, study_id) == [added]


def test_a_review_of_a_result_that_has_changed_meanwhile_is_refused_and_leaves_nothing(database: Database) -> None:
    run_id = fill(database)
    (shown,) = (row for row in worklist(database, WorklistFilter(run_id)).rows if row.row.study == POSITIVE)
    for outdated in (result_mark(StudyStatus.SCORED, 0.1), result_mark(StudyStatus.PENDING, None), ""):
        with pytest.raises(UsageError, match="the result has changed since you saw it"):
            add_review(database, run_id, shown.study_id, "Ann", AGREE, saw=outdated)
    assert reviews_of(database, run_id, shown.study_id) == []
    assert worklist(database, WorklistFilter(run_id, reviewed=True)).rows == []
    saw = result_mark(shown.row.status, shown.row.score)
    assert add_review(database, run_id, shown.study_id, "Ann", AGREE, saw=saw).score == shown.row.score


def test_a_review_is_never_overwritten_by_another_person_or_by_the_same(database: Database) -> None:
    run_id = fill(database)
    study_id = _ids(database, run_id)[NEGATIVE]
    first = add_review(database, run_id, study_id, "Ann", AGREE, "clear")
    second = add_review(database, run_id, study_id, "Bob", DISAGREE)
    third = add_review(database, run_id, study_id, "Ann", UNSURE)
    assert reviews_of(database, run_id, study_id) == [third, second, first]
    assert list(stream_reviews(database, run_id)) == [first, second, third]
    assert len({review.id for review in (first, second, third)}) == 3


def test_reviews_that_come_at_the_same_time_are_all_kept(database: Database) -> None:
    run_id = fill(database)
    study_id = _ids(database, run_id)[POSITIVE]
    people = [f"reader {number}" for number in range(8)]
    threads = [
        threading.Thread(target=add_review, args=(database, run_id, study_id, person, AGREE)) for person in people
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(review.reviewer for review in reviews_of(database, run_id, study_id)) == people


def test_reviews_of_another_run_are_not_these(database: Database) -> None:
    run_id, other = fill(database), fill(database, archive="other")
    add_review(database, run_id, _ids(database, run_id)[POSITIVE], "Ann", AGREE)
    assert list(stream_reviews(database, other)) == []
    assert reviews_of(database, other, _ids(database, run_id)[POSITIVE]) == []
    assert agreement(database, other).reviewed == 0


def test_agreement_counts_the_newest_review_of_each_person_and_study_by_what_they_saw(database: Database) -> None:
    run_id = fill(database)
    assert agreement(database, run_id).by_label == {Label.POSITIVE: (0, 0, 0), Label.NEGATIVE: (0, 0, 0)}
    ids = _ids(database, run_id)
    for study, reviewer, decision in (
        (POSITIVE, "Ann", DISAGREE),
        (POSITIVE, "Bob", DISAGREE),
        (POSITIVE, "Ann", AGREE),
        (NEGATIVE, "Ann", AGREE),
        (INCOMPLETE, "Ann", UNSURE),
        (NOT_ASSESSABLE, "Bob", UNSURE),
        (NOT_ASSESSABLE, "Bob", UNSURE),
    ):
        add_review(database, run_id, ids[study], reviewer, decision)
    found = agreement(database, run_id)
    assert (found.studies, found.reviewed) == (4, 5)
    assert (found.agree, found.disagree, found.unsure) == (2, 1, 2)
    assert found.by_label == {Label.POSITIVE: (1, 1, 0), Label.NEGATIVE: (1, 0, 0)}


def test_a_study_without_a_result_is_not_reviewed_and_one_out_of_scope_may_be(database: Database) -> None:
    run_id = fill(database, {"XR_HAND/a": [None], "XR_HAND/b": [0.9, None], OUT_OF_SCOPE: [0.9]})
    ids = _ids(database, run_id)
    for study in ("XR_HAND/a", "XR_HAND/b"):
        with pytest.raises(UsageError, match=rf"no result of the study {study} yet"):
            add_review(database, run_id, ids[study], "Ann", AGREE)
    assert add_review(database, run_id, ids[OUT_OF_SCOPE], "Ann", AGREE).status == StudyStatus.OUT_OF_SCOPE
    assert worklist(database, WorklistFilter(run_id, reviewed=False)).rows[-1].decision is None
    assert len(worklist(database, WorklistFilter(run_id, reviewed=True)).rows) == 1


@pytest.mark.parametrize(
    ("reviewer", "note", "said"),
    [
        ("", None, "needs its reviewer's name"),
        (" \t", None, "needs its reviewer's name"),
        ("x" * (REVIEWER_CHARACTERS + 1), None, "at most 100 characters"),
        ("Ann\x1b[31m", None, "printable characters only"),
        ("Ann\0", None, "printable characters only"),
        ("Ann", "x" * (NOTE_CHARACTERS + 1), "at most 2,000 characters"),
        ("Ann", "x\0", "printable characters, tabs and line breaks only"),
        ("Ann", "\ud800", "printable characters, tabs and line breaks only"),
    ],
)
def test_a_name_or_a_note_that_cannot_be_kept_is_refused(
    database: Database, reviewer: str, note: str | None, said: str
) -> None:
    run_id = fill(database)
    with pytest.raises(UsageError, match=said):
        add_review(database, run_id, 1, reviewer, AGREE, note)
    assert list(stream_reviews(database, run_id)) == []


@pytest.mark.parametrize("study_id", [0, 999, 2**63])
def test_a_study_that_the_run_does_not_have_cannot_be_reviewed(database: Database, study_id: int) -> None:
    run_id = fill(database)
    for numbers in ((run_id, study_id), (study_id, 1)):
        with pytest.raises(UsageError, match=r"has no study \d+; see: bonescreen results"):
            add_review(database, *numbers, "Ann", AGREE)


def test_a_review_changes_no_result(database: Database) -> None:
    run_id = fill(database)
    before = list(results(database, ResultFilter(run=run_id)))
    for study_id in _ids(database, run_id).values():
        add_review(database, run_id, study_id, "Ann", DISAGREE)
    assert list(results(database, ResultFilter(run=run_id))) == before
