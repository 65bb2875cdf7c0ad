"""Worklists: pages in order, filters that are right whichever way they are answered, and neighbours."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from sqlalchemy import func, select

from db import ledger, merge, scans
from db import worklist as under_test
from db.queries import StudyRow, result_columns, select_studies, study_row
from db.reviews import add_review
from db.runs import open_run, register_archive, register_model
from db.session import Database
from db.store import ImageOutcome
from db.tables import reviews, study_results
from db.worklist import WorklistFilter, WorklistPage, count_worklist, neighbours, study_by_id, worklist
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, fill
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
    """Store a run whose studies differ in all that a worklist is filtered by; some have no result, or only half of it."""
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
        reviewed = set(connection.execute(select(reviews.c.study_id).where(reviews.c.run_id == run_id)).scalars())
        rows = connection.execute(select_studies(result_columns(KEEP), run_id)).mappings().all()
    every = [
        _Plain(row["study_id"], study_row(row), changed.get(row["study_id"]), row["study_id"] in reviewed)
        for row in rows
    ]
    scored_ones = sorted(
        (one for one in every if one.row.score is not None), key=lambda one: (one.row.score, one.study_id), reverse=True
    )
    return scored_ones + sorted((one for one in every if one.row.score is None), key=lambda one: one.study_id)


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


@pytest.mark.parametrize("few", [under_test.FEW, 4], ids=["few studies", "many studies"])
def test_each_filter_lists_what_a_plain_filter_over_every_study_does(
    database: Database, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(under_test, "FEW", few)
    run_id = _run_of_every_kind(database)
    every = _every_study(database, run_id)
    assert {one.row.status for one in every} == {*StudyStatus}
    assert {one.changed_at is None for one in every if one.row.status == StudyStatus.PENDING} == {True, False}
    lengths = []
    for wanted in _filters(every, run_id, 150):
        expected = _expected(every, wanted)
        page = worklist(database, wanted, limit=len(every))
        assert _ids(page) == expected, wanted
        assert [row.row for row in page.rows] == [
            replace(one.row, accession=None, study_date=None, modality=None, path=None)
            for one in every
            if one.study_id in set(expected)
        ]
        assert count_worklist(database, wanted) == len(expected), wanted
        assert count_worklist(database, wanted, most=3) == min(3, len(expected)), wanted
        lengths.append(len(expected))
    assert set(WorklistFilter.__dataclass_fields__) - {"run"} == set(_choices(every))
    assert sum(length > 0 for length in lengths) > len(lengths) // 3
