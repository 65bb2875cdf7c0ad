"""Worklists: pages in order, filters that are right whichever way they are answered, and neighbours."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import select

from db import ledger, merge, scans
from db import worklist as under_test
from db.migrate import upgrade
from db.queries import StudyRow, result_columns, select_studies, study_row
from db.reviews import add_review
from db.runs import open_run, register_archive, register_model
from db.session import Database
from db.store import ImageOutcome
from db.tables import reviews, study_results
from db.worklist import WorklistPage, count_worklist, neighbours, study_by_id, worklist
from db.worklist_search import WorklistFilter
from tests.conftest import new_postgres_database
from tests.ledgers import fill
from tests.seeding import MODEL, finish_batches, found_files, scored
from tests.seeding import scan as scan_files
from xray.archives.archive_file import ArchiveFile, Placement
from xray.errors import UsageError
from xray.vocabulary import KEEP, Decision, Label, Reason, StudyStatus

PROBABILITIES = (0.0, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0)
"""So some studies have the same score, and some exactly the threshold."""


# -- a run with studies of every kind ----------------------------------------------------------------------------


def _files(chosen: random.Random, ids: range) -> Iterator[ArchiveFile]:
    for number in ids:
        parts = chosen.choice([("HAND",), ("HAND",), ("HUMERUS",), ("HAND", "HUMERUS"), (None,), ("KNEE",)])
        key, label = f"{chosen.choice('pq')}{number:03}", chosen.choice([None, *Label])
        accession = f"A{number // 3:03}" if number % 3 else None
        for image, part in enumerate(parts * chosen.choice([1, 2])):
            yield ArchiveFile(f"{key}/{image}.png", 100, 1_000, Placement(key, part, label, accession=accession))


def _scan(database: Database, files: Sequence[ArchiveFile]) -> int:
    run_id = open_run(database, register_archive(database, "every", "/every"), register_model(database, MODEL), 3)
    opened = scans.begin_scan(database, run_id, "folder", "test")
    assert opened is not None
    merge.stage(database, opened, files)
    merge.merge(database, opened, lambda path: None)
    merge.mark_gone(database, opened)
    scans.close_scan(database, opened, {})
    return run_id


def _process(database: Database, chosen: random.Random, batches: int) -> None:
    for _ in range(batches):
        if claim := ledger.claim_next(database, MODEL.queue, "w"):
            found = [_outcome(chosen, image.image_id) for image in ledger.unprocessed_images(database, claim)]
            assert ledger.finish(database, claim, found)


def _outcome(chosen: random.Random, image_id: int) -> ImageOutcome:
    if chosen.random() < 0.3:
        return ImageOutcome(image_id, reason=Reason.TRUNCATED, detail="the file ends early")
    return scored(image_id, chosen.choice(PROBABILITIES))


def _run_of_every_kind(database: Database, studies: int = 45) -> int:
    """Store a run whose studies differ in all that a worklist is filtered by; some have no result, or half of it."""
    chosen = random.Random(5)
    fill(database)
    files = list(_files(chosen, range(studies)))
    run_id = _scan(database, files)
    _process(database, chosen, 1_000)
    for plain in _every_study(database, run_id):
        for reviewer in chosen.sample(["Ann", "Bob", "Cyn"], chosen.choice([0, 0, 0, 1, 2])):
            add_review(database, run_id, plain.study_id, reviewer, chosen.choice([*Decision]))
    ledger.retry(database, run_id)
    _process(database, chosen, 6)
    assert _scan(database, [*files, *_files(chosen, range(studies, studies + 15))]) == run_id
    return run_id


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def every_kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, int]]:
    """A database of each kind and its run of every kind, which no test changes."""
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path_factory.mktemp('worklist') / 'test.db'}"
        if request.param == "postgresql":
            url = stack.enter_context(new_postgres_database(request.getfixturevalue("postgres_url")))
        database = stack.enter_context(closing(Database(url)))
        upgrade(database)
        yield database, _run_of_every_kind(database)


# -- the same in plain Python ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plain:
    study_id: int
    row: StudyRow
    changed_at: float | None
    reviewed: bool


def _every_study(database: Database, run_id: int) -> list[_Plain]:
    """Read each study of a run, and sort them as a worklist should."""
    of_run = study_results.c.run_id == run_id
    with database.read() as connection:
        changed = dict(
            connection.execute(select(study_results.c.study_id, study_results.c.changed_at).where(of_run)).all()
        )
        saw = select(reviews.c.study_id, reviews.c.status, reviews.c.label).where(reviews.c.run_id == run_id)
        reviewed = set(map(tuple, connection.execute(saw)))
        rows = connection.execute(select_studies(result_columns(KEEP), run_id)).mappings().all()
    every = [
        _Plain(row["study_id"], study_row(row), changed.get(row["study_id"]), _as_now(row) in reviewed) for row in rows
    ]
    scored_ones = sorted(
        (one for one in every if one.row.score is not None), key=lambda one: (one.row.score, one.study_id), reverse=True
    )
    return scored_ones + sorted((one for one in every if one.row.score is None), key=lambda one: one.study_id)


def _as_now(row: Mapping[Any, Any]) -> tuple[int, str, str | None]:
    return row["study_id"], row["status"], row["label"]


def _has_text(row: StudyRow, wanted: str, *, begins: bool) -> bool:
    texts = [text for text in (row.study, row.accession) if text is not None]
    return any(text.startswith(wanted) if begins else wanted in text for text in texts)


def _is_wanted(one: _Plain, wanted: WorklistFilter, *, begins: bool) -> bool:
    row = one.row
    return (
        (wanted.body_part is None or wanted.body_part.upper() in (row.body_part or "").split(","))
        and (wanted.label is None or row.label == wanted.label)
        and (not wanted.flagged or row.flagged)
        and (wanted.min_score is None or (row.score is not None and row.score >= wanted.min_score))
        and (wanted.max_score is None or (row.score is not None and row.score <= wanted.max_score))
        and (wanted.status is None or row.status == wanted.status)
        and (wanted.reviewed is None or one.reviewed == wanted.reviewed)
        and (wanted.since is None or (one.changed_at is not None and one.changed_at >= wanted.since))
        and (wanted.text is None or _has_text(row, wanted.text, begins=begins))
        and (wanted.human_label is None or row.human_label == wanted.human_label)
    )


def _expected(every: Sequence[_Plain], wanted: WorklistFilter) -> list[int]:
    begins = any(_has_text(one.row, wanted.text or "", begins=True) for one in every)
    return [one.study_id for one in every if _is_wanted(one, wanted, begins=begins)]


def _choices(every: Sequence[_Plain]) -> dict[str, list[Any]]:
    """Return values of each part of a filter, so that some studies have them, and none has one of them."""
    times = sorted(one.changed_at for one in every if one.changed_at is not None)
    return {
        "body_part": ["HAND", "humerus", "KNEE", "FOOT"],
        "label": [*Label],
        "flagged": [True],
        "min_score": [0.5, 0.6],
        "max_score": [0.5, 0.2],
        "status": [*StudyStatus],
        "reviewed": [True, False],
        "since": [times[0], times[len(times) // 2], times[-2], times[-1] + 60],
        "text": ["p", "q0", "A00", "01", "00", "nowhere", "A%", "p_"],
        "human_label": [*Label],
    }


def _filters(every: Sequence[_Plain], run_id: int, number: int) -> Iterator[WorklistFilter]:
    """Make a filter of each value alone, and others of random values together."""
    choices = _choices(every)
    yield WorklistFilter(run_id)
    for name, values in choices.items():
        for value in values:
            yield WorklistFilter(run_id, **{name: value})
    chosen = random.Random(9)
    for _ in range(number):
        names = chosen.sample(list(choices), chosen.choice([2, 2, 3, 4]))
        yield WorklistFilter(run_id, **{name: chosen.choice(choices[name]) for name in names})


def _ids(page: WorklistPage) -> list[int]:
    return [row.study_id for row in page.rows]


def _pages(database: Database, wanted: WorklistFilter, limit: int) -> Iterator[WorklistPage]:
    page = worklist(database, wanted, limit=limit)
    yield page
    while page.next is not None:
        page = worklist(database, wanted, page.next, limit)
        yield page


# -- filters -----------------------------------------------------------------------------------------------------


def test_each_filter_lists_what_a_plain_filter_over_every_study_does(every_kind: tuple[Database, int]) -> None:
    database, run_id = every_kind
    every = _every_study(database, run_id)
    assert {one.row.status for one in every} == {*StudyStatus}
    assert {one.changed_at is None for one in every if one.row.status == StudyStatus.PENDING} == {True, False}
    assert set(WorklistFilter.__dataclass_fields__) - {"run"} == set(_choices(every))
    lengths = []
    for wanted in _filters(every, run_id, 60):
        expected = _expected(every, wanted)
        page = worklist(database, wanted, limit=len(every), keep=frozenset(KEEP))
        assert _ids(page) == expected, wanted
        assert [row.row for row in page.rows] == [one.row for one in every if one.study_id in expected]
        assert count_worklist(database, wanted) == len(expected), wanted
        lengths.append(len(expected))
    assert sum(length > 0 for length in lengths) > len(lengths) // 3


def test_times_and_texts_that_many_studies_have_are_filtered_as_those_of_few(
    every_kind: tuple[Database, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, run_id = every_kind
    every = _every_study(database, run_id)
    monkeypatch.setattr(under_test, "FEW", 4)
    monkeypatch.setattr(under_test, "FEW_TO_COUNT", 4)
    asked = [wanted for wanted in _filters(every, run_id, 100) if wanted.since is not None or wanted.text]
    assert len(asked) > 50
    for wanted in asked:
        assert _ids(worklist(database, wanted, limit=len(every))) == _expected(every, wanted), wanted
        assert count_worklist(database, wanted, most=3) == min(3, len(_expected(every, wanted))), wanted


def test_scores_that_equal_a_limit_are_within_it(database: Database) -> None:
    run_id = fill(database, {"XR_HAND/a": [0.4], "XR_HAND/b": [0.5], "XR_HAND/c": [0.6]})
    for bounds, scores in (
        ({"min_score": 0.5}, [0.6, 0.5]),
        ({"max_score": 0.5}, [0.5, 0.4]),
        ({"min_score": 0.5, "max_score": 0.5}, [0.5]),
        ({"min_score": 0.6, "max_score": 0.4}, []),
    ):
        page = worklist(database, WorklistFilter(run_id, **bounds))
        assert [row.row.score for row in page.rows] == scores


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "50%", "x_y", "\\", "'"])
def test_any_text_may_be_searched_for_and_means_itself(database: Database, text: str) -> None:
    run_id = fill(database)
    for wanted in (WorklistFilter(run_id, text=text), WorklistFilter(run_id, body_part=text)):
        assert worklist(database, wanted).rows == []
        assert count_worklist(database, wanted) == 0


def test_a_worklist_of_no_run_is_empty(database: Database) -> None:
    for run_id in (1, 0, -1, 2**63, 2**80):
        assert worklist(database, WorklistFilter(run_id)) == WorklistPage([], None, None)
        assert count_worklist(database, WorklistFilter(run_id)) == 0


def test_a_study_that_changes_its_label_or_body_part_in_the_archive_moves_in_the_filters(database: Database) -> None:
    def file(part: str, label: Label) -> ArchiveFile:
        return ArchiveFile("s/1.png", 100, 1_000, Placement("s", part, label))

    run_id = _scan(database, [file("HAND", Label.POSITIVE)])
    assert finish_batches(database) == 1
    before = replace(WorklistFilter(run_id), body_part="HAND", human_label=Label.POSITIVE)
    after = replace(WorklistFilter(run_id), body_part="HUMERUS", human_label=Label.NEGATIVE)
    assert [len(worklist(database, wanted).rows) for wanted in (before, after)] == [1, 0]
    assert _scan(database, [file("HAND", Label.NEGATIVE)]) == run_id
    half = replace(before, human_label=Label.NEGATIVE)
    assert [len(worklist(database, wanted).rows) for wanted in (before, half, after)] == [0, 1, 0]
    assert _scan(database, [file("HUMERUS", Label.NEGATIVE)]) == run_id
    assert [len(worklist(database, wanted).rows) for wanted in (before, half, after)] == [0, 0, 1]


def test_a_study_that_is_flagged_after_its_review_is_among_those_that_nobody_reviewed(database: Database) -> None:
    key, other = "XR_HAND/patient1/study1", {"XR_HAND/patient2/study1": [0.1]}
    run_id = fill(database, {key: [0.1], **other})
    wanted = WorklistFilter(run_id, text=key)
    add_review(database, run_id, worklist(database, wanted).rows[0].study_id, "Ann", Decision.AGREE)

    def counted() -> tuple[bool, bool, int, int]:
        (row,) = worklist(database, wanted).rows
        left = replace(wanted, reviewed=False)
        return row.row.flagged, row.is_outdated, count_worklist(database, left), len(worklist(database, left).rows)

    assert counted() == (False, False, 0, 0)
    assert fill(database, {key: [0.1, 0.98, 0.99], **other}) == run_id
    assert counted() == (True, True, 1, 1)
    # As it was when it was reviewed.
    fill(database, {key: [0.1], **other})
    assert counted() == (False, False, 0, 0)


def test_a_reviewed_study_whose_files_vanish_and_come_back_is_still_reviewed(database: Database) -> None:
    files = found_files(2)
    run_id = scan_files(database, files)
    finish_batches(database)
    (first, _) = worklist(database, WorklistFilter(run_id)).rows
    add_review(database, run_id, first.study_id, "Ann", Decision.AGREE)
    scan_files(database, [file for file in files if not file.path.startswith(first.row.study)])
    assert first.study_id not in _ids(worklist(database, WorklistFilter(run_id)))
    scan_files(database, files)
    assert _ids(worklist(database, WorklistFilter(run_id, reviewed=True))) == [first.study_id]


# -- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_pages_visit_each_study_once_in_order_forwards_and_backwards(
    every_kind: tuple[Database, int], limit: int
) -> None:
    database, run_id = every_kind
    every = _every_study(database, run_id)
    assert len(every) == 60
    for wanted in islice(_filters(every, run_id, 0), 1 if limit == 1 else None):
        expected = _expected(every, wanted)
        pages = list(_pages(database, wanted, limit))
        assert [study for page in pages for study in _ids(page)] == expected, wanted
        assert pages[0].previous is None
        back = [pages[-1]]
        while back[-1].previous is not None:
            back.append(worklist(database, wanted, back[-1].previous, limit))
        assert [study for page in reversed(back) for study in _ids(page)] == expected, wanted
        assert len(back) == len(pages)


def test_pages_show_each_study_once_while_results_change_in_between(database: Database) -> None:
    keys = [f"XR_HAND/{number:02}" for number in range(20)]
    run_id = fill(database, {key: [number / 20] for number, key in enumerate(keys)})
    pages = _pages(database, WorklistFilter(run_id), 4)
    seen = [row.row.study for row in next(pages).rows]
    # Above the page, and below it.
    fill(
        database,
        {**{key: [number / 20] for number, key in enumerate(keys)}, "XR_HAND/top": [0.99], "XR_HAND/mid": [0.33]},
    )
    for page in pages:
        seen += [row.row.study for row in page.rows]
        add_review(database, run_id, page.rows[0].study_id, "Ann", Decision.AGREE)
    assert sorted(seen) == sorted([*keys, "XR_HAND/mid"])


def test_a_page_whose_studies_are_no_longer_wanted_leads_back_to_those_before_it(database: Database) -> None:
    run_id = fill(database, {f"XR_HAND/{number}": [number / 10] for number in range(6)})
    wanted = WorklistFilter(run_id, reviewed=False)
    first = worklist(database, wanted, limit=3)
    second = worklist(database, wanted, first.next, limit=3)
    for row in second.rows:
        add_review(database, run_id, row.study_id, "Ann", Decision.AGREE)
    empty = worklist(database, wanted, first.next, limit=3)
    assert empty.rows == []
    assert empty.next is None
    assert empty.previous is not None
    assert _ids(worklist(database, wanted, empty.previous, limit=3)) == _ids(first)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "W10",
        "WzEsIDAuNSwgMV0=",
        "WzEsIE5hTiwgMV0",
        "WzEsIDAuNSwgMi41XQ",
        "WzIsIDAuNSwgMV0",
        "e30",
        "bnVsbA",
        "[" * 10_000,
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(database: Database, cursor: str) -> None:
    run_id = fill(database)
    with pytest.raises(UsageError, match="not a place in a worklist"):
        worklist(database, WorklistFilter(run_id), cursor)


def test_a_page_says_the_newest_decision_and_how_many_people_reviewed(database: Database) -> None:
    run_id = fill(database)
    study_id = worklist(database, WorklistFilter(run_id)).rows[0].study_id
    for reviewer, decision in (("Ann", Decision.DISAGREE), ("Bob", Decision.AGREE), ("Ann", Decision.UNSURE)):
        add_review(database, run_id, study_id, reviewer, decision)
    first, second = worklist(database, WorklistFilter(run_id), limit=2).rows
    assert (first.decision, first.reviewers) == ("unsure", 2)
    assert (second.decision, second.reviewers) == (None, 0)


def test_what_is_kept_is_shown_if_it_is_asked_for(database: Database) -> None:
    run_id = _scan(database, list(_files(random.Random(1), range(1, 2))))
    hidden, shown = (
        worklist(database, WorklistFilter(run_id), keep=keep).rows[0].row for keep in (frozenset(), frozenset(KEEP))
    )
    assert (hidden.accession, hidden.path) == (None, None)
    assert (shown.accession, shown.path) == ("A000", f"{shown.study}/0.png")


# -- a study -----------------------------------------------------------------------------------------------------


def test_each_studys_neighbours_are_the_ones_before_and_after_it_whatever_is_listed(
    every_kind: tuple[Database, int],
) -> None:
    database, run_id = every_kind
    every = _every_study(database, run_id)
    order = [one.study_id for one in every]
    for wanted in (
        WorklistFilter(run_id),
        WorklistFilter(run_id, body_part="HAND"),
        WorklistFilter(run_id, text="A00"),
    ):
        listed = set(_expected(every, wanted))
        for place, study_id in list(enumerate(order))[::3]:
            before = [other for other in order[:place] if other in listed]
            after = [other for other in order[place + 1 :] if other in listed]
            expected = (before[-1] if before else None), (after[0] if after else None)
            assert neighbours(database, wanted, study_id) == expected


def test_a_study_is_found_by_its_id_with_its_images(database: Database) -> None:
    run_id = fill(database)
    for row in worklist(database, WorklistFilter(run_id)).rows:
        study = study_by_id(database, run_id, row.study_id)
        assert study.row.study == row.row.study
        assert [image.image for image in study.images] == [
            f"{study.row.study}/image{n + 1}.png" for n in range(len(study.images))
        ]
        assert all(image.image_id > 0 for image in study.images)
        assert len(study.images) == row.row.images


@pytest.mark.parametrize("study_id", [0, -1, 999, 2**63, 2**90])
def test_a_study_or_a_run_that_is_not_there_is_a_usage_error(database: Database, study_id: int) -> None:
    run_id = fill(database)
    for ask in (
        lambda: study_by_id(database, run_id, study_id),
        lambda: study_by_id(database, study_id, 1),
        lambda: neighbours(database, WorklistFilter(run_id), study_id),
    ):
        with pytest.raises(UsageError, match="has no study"):
            ask()
