"""Reviews that are added all at once, on both databases."""

from contextlib import closing

import pytest

from db.review_import import Decided, add_reviews, find_by_keys
from db.reviews import add_review, stream_reviews
from db.session import Database
from db.worklist import worklist
from db.worklist_search import WorklistFilter
from tests.ledgers import NEGATIVE, POSITIVE, fill
from xray.errors import UsageError
from xray.vocabulary import Decision, Label, StudyStatus


def _decided(database: Database, run: int, key: str, decision: Decision, note: str | None = None) -> Decided:
    study_id, _ = find_by_keys(database, run, [key])[key]
    return Decided(study_id, decision, note, Label.POSITIVE, 0.85, StudyStatus.SCORED)


def test_studies_are_found_by_their_keys_in_the_run_and_others_are_not(database: Database) -> None:
    run = fill(database)
    fill(database, {"elsewhere": [0.5]}, archive="other")
    found = find_by_keys(database, run, [POSITIVE, NEGATIVE, "elsewhere", "nowhere", POSITIVE])
    assert found.keys() == {POSITIVE, NEGATIVE}
    assert found[POSITIVE][1].score == pytest.approx(0.85)


def test_what_a_reviewer_decided_in_the_same_words_is_not_added_again(database: Database) -> None:
    run = fill(database)
    first = [
        _decided(database, run, POSITIVE, Decision.AGREE),
        _decided(database, run, NEGATIVE, Decision.UNSURE, "cast"),
    ]
    assert add_reviews(database, run, "Ada", first).added == first
    again = add_reviews(database, run, "Ada", first)
    assert (again.added, again.before, again.outdated) == ([], first, [])
    assert add_reviews(database, run, "Grace", first).added == first
    add_review(database, run, first[0].study_id, "Ada", Decision.DISAGREE)
    assert add_reviews(database, run, "Ada", first).outdated == first[:1]
    with closing(stream_reviews(database, run)) as reviews:
        assert len(list(reviews)) == 5


def test_a_study_whose_review_came_in_a_report_leaves_the_list_of_those_that_nobody_reviewed(
    database: Database,
) -> None:
    run = fill(database)
    add_reviews(database, run, "Ada", [_decided(database, run, POSITIVE, Decision.AGREE)])

    def listed(reviewed: bool) -> list[str]:
        return [each.row.study for each in worklist(database, WorklistFilter(run, reviewed=reviewed)).rows]

    assert listed(True) == [POSITIVE]
    assert POSITIVE not in listed(False)


def test_if_one_cannot_be_stored_none_is(database: Database) -> None:
    run = fill(database)
    good = _decided(database, run, POSITIVE, Decision.AGREE)
    with pytest.raises(UsageError):
        add_reviews(database, run, " ", [good])
    with pytest.raises(Exception, match=r"(?i)not.null"):
        add_reviews(database, run, "Ada", [good, Decided(good.study_id, None, None, None, None, StudyStatus.SCORED)])  # type: ignore[arg-type]
    with closing(stream_reviews(database, run)) as reviews:
        assert list(reviews) == []
