"""What a report counts, on both databases."""

from contextlib import closing

from db.report_queries import count_labelled_without_score, count_scores, labelled_results
from db.session import Database
from tests.ledgers import NEGATIVE, POSITIVE, fill
from xray.vocabulary import Label


def test_each_score_is_in_one_interval_and_flagged_ones_are_told_apart(database: Database) -> None:
    run = fill(database, {f"XR_HAND/p{n}/study1": [score] for n, score in enumerate([0.0, 0.05, 0.1, 0.5, 0.55, 1.0])})
    bins = count_scores(database, run, 10)
    assert [(each.others, each.flagged) for each in bins] == [
        (2, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 2), (0, 0), (0, 0), (0, 0), (0, 1),
    ]  # fmt: skip


def test_studies_without_a_score_are_in_no_interval(database: Database) -> None:
    run = fill(database)
    assert sum(each.others + each.flagged for each in count_scores(database, run, 20)) == 3


def test_only_studies_that_were_scored_whole_are_compared_with_human_labels(database: Database) -> None:
    run = fill(database)
    with closing(labelled_results(database, run)) as found:
        results = {result.study: (result.human_label, result.body_parts, round(result.score, 6)) for result in found}
    assert results == {
        POSITIVE: (Label.POSITIVE, "HUMERUS", 0.85),
        NEGATIVE: (Label.NEGATIVE, "HUMERUS", 0.1),
    }
    assert count_labelled_without_score(database, run) == 3
