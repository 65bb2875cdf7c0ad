"""Queries return the same on both databases."""

import math
from dataclasses import replace

from sqlalchemy import select

from db.failures import count_failures, list_failures
from db.queries import (
    STUDIES_AT_ONCE,
    ResultFilter,
    count_results,
    image_results,
    results,
)
from db.run_queries import newest_runs
from db.session import Database
from db.tables import studies, study_results
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, Unlike, fill
from tests.seeding import MODEL
from xray.thresholds import is_positive
from xray.vocabulary import Label, StudyStatus


def _keys(database: Database, selection: ResultFilter) -> list[str]:
    return [row.study for row in results(database, selection)]


def test_results_are_sorted_by_score_and_studies_without_one_come_last(database: Database) -> None:
    fill(database)
    assert _keys(database, ResultFilter()) == [POSITIVE, INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE]
    assert _keys(database, ResultFilter(limit=1)) == [POSITIVE]


def test_a_picture_unlike_the_training_images_has_no_say_in_its_study_which_alone_is_out_of_scope(
    database: Database,
) -> None:
    model = replace(MODEL, distance_threshold=2.0)
    tooth, limit = Unlike(0.9, 2.5), Unlike(0.1, 2.0)
    fill(database, {"XR_HAND/a": [0.3, tooth], "XR_HAND/tooth": [tooth], "XR_HAND/b": [limit]}, model=model)
    found = {row.study: (row.status, row.score, row.label, row.flagged) for row in results(database, ResultFilter())}
    assert found == {
        "XR_HAND/a": ("scored", 0.3, "negative", False),
        "XR_HAND/b": ("scored", 0.1, "negative", False),
        "XR_HAND/tooth": ("out of scope", None, None, False),
    }
    assert count_results(database, ResultFilter(threshold=0.2, flagged=True)) == {StudyStatus.SCORED: 1}
    assert count_results(database, ResultFilter()) == {StudyStatus.SCORED: 2, StudyStatus.OUT_OF_SCOPE: 1}
    images = {image.image: image for image in image_results(database, ResultFilter())}
    shown = images["XR_HAND/tooth/image1.png"]
    assert (shown.state, shown.label, shown.distance, shown.distance_threshold) == ("out of scope", None, 2.5, 2.0)
    assert images["XR_HAND/b/image1.png"].state == "scored"


def test_a_minimum_score_leaves_out_studies_without_a_score(database: Database) -> None:
    fill(database)
    assert _keys(database, ResultFilter(min_score=0.15)) == [POSITIVE, INCOMPLETE]


def test_another_threshold_changes_labels_and_flags(database: Database) -> None:
    fill(database)
    assert _keys(database, ResultFilter(flagged=True)) == [POSITIVE]
    assert _keys(database, ResultFilter(flagged=True, threshold=0.2)) == [POSITIVE, INCOMPLETE]
    assert _keys(database, ResultFilter(label=Label.NEGATIVE, threshold=0.9)) == [POSITIVE, NEGATIVE]


def test_a_score_that_equals_the_threshold_is_flagged_in_sql_as_by_the_rule(database: Database) -> None:
    fill(database)
    scores = {row.study: row.score for row in results(database, ResultFilter()) if row.score is not None}
    assert len(scores) == 3
    for study, score in scores.items():
        for threshold, flagged in ((score, True), (math.nextafter(score, 2), False)):
            assert is_positive(score, threshold) == flagged
            assert (study in _keys(database, ResultFilter(flagged=True, threshold=threshold))) == flagged


def test_results_are_counted_by_status_without_regard_to_the_limit(database: Database) -> None:
    fill(database, {"XR_HAND/a": [0.9], "XR_HAND/b": [0.8], "XR_HAND/c": [None]})
    limited = ResultFilter(limit=1)
    assert count_results(database, limited) == {StudyStatus.SCORED: 2, StudyStatus.PENDING: 1}


def test_a_result_that_does_not_change_is_not_new(database: Database) -> None:
    fill(database, {"XR_HAND/a": [0.9], "XR_HAND/b": [0.8, None]})
    before = _changed_at(database)
    fill(database, {"XR_HAND/a": [0.9], "XR_HAND/b": [0.8, 0.2]})
    after = _changed_at(database)
    assert after["XR_HAND/a"] == before["XR_HAND/a"]
    assert after["XR_HAND/b"] > before["XR_HAND/b"]
    since = ResultFilter(since=after["XR_HAND/b"])
    assert _keys(database, since) == ["XR_HAND/b"]
    assert count_results(database, since) == {StudyStatus.SCORED: 1}
    assert [image.image for image in image_results(database, since)] == ["XR_HAND/b/image1.png", "XR_HAND/b/image2.png"]


def _changed_at(database: Database) -> dict[str, float]:
    changed = select(studies.c.key, study_results.c.changed_at).join(studies, studies.c.id == study_results.c.study_id)
    with database.read() as connection:
        return {row.key: row.changed_at for row in connection.execute(changed)}


def test_the_images_of_many_studies_are_streamed_in_the_order_of_their_studies(database: Database) -> None:
    fill(database, {f"XR_HAND/{number:03}": [number / 1000, number / 1000] for number in range(STUDIES_AT_ONCE + 5)})
    streamed = list(image_results(database, ResultFilter()))
    assert [image.study for image in streamed[::2]] == _keys(database, ResultFilter())
    assert len(streamed) == 2 * (STUDIES_AT_ONCE + 5)
    assert len(list(image_results(database, ResultFilter(limit=7)))) == 7


def test_without_a_run_each_archive_is_represented_by_its_newest_run(database: Database) -> None:
    fill(database, archive="first")
    second = fill(database, archive="second")
    third = fill(database, archive="first", model=replace(MODEL, version="2", digest="cd" * 32))
    assert newest_runs(database) == [third, second]
    assert {row.run for row in results(database, ResultFilter())} == {second, third}
    assert {row.run for row in list_failures(database)} == {second, third}
    assert count_failures(database) == {"empty": 2, "truncated": 2}
    assert count_failures(database, second) == {"empty": 1, "truncated": 1}
