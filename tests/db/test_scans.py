"""Scans: their leases, what changes from one to the next, and the batches that they make."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from db import ledger, merge, scans
from db.batching import id_ranges, make_batches
from db.queries import ResultFilter, find_study, results
from db.run_queries import RunState, list_runs, newest_runs, run_progress, run_summary
from db.runs import open_run, register_archive, register_model
from db.scans import Scan
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import images as images_table
from db.tables import scan_entries, studies
from db.tables import scans as scans_table
from tests.seeding import MODEL, claim_next, finish_batches, found_file, found_files, scan, scored
from xray.archives.archive_file import ArchiveFile, Placement
from xray.errors import TakenOver, UsageError
from xray.vocabulary import Label, Reason


def moved(file: ArchiveFile, study: str) -> ArchiveFile:
    assert file.placement is not None
    return replace(file, placement=replace(file.placement, study=study))


def begin(database: Database, *, archive: str = "archive") -> Scan | None:
    archive_id = register_archive(database, archive, f"/{archive}")
    run_id = open_run(database, archive_id, register_model(database, MODEL), 4)
    return scans.begin_scan(database, run_id, "folder", "test")


def let_expire(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))


def finish_all(database: Database, run_id: int, probability: float = 0.7) -> int:
    """Work through a run; return the number of images processed."""
    done = 0
    while ledger.count_open_batches(database, run_id):
        done += finish_batches(database, probability=probability)
    return done


def test_a_second_scan_of_unchanged_files_leaves_nothing_to_do(database: Database) -> None:
    run = scan(database, found_files(6))
    assert finish_all(database, run) == 6
    assert scan(database, found_files(6)) == run
    assert run_progress(database, run).state is RunState.DONE


def test_after_an_archive_has_grown_only_new_files_are_screened(database: Database) -> None:
    run = scan(database, found_files(6))
    finish_all(database, run)
    scan(database, found_files(9))
    assert finish_all(database, run) == 3


def test_a_changed_file_is_screened_again_and_its_study_waits_for_it(database: Database) -> None:
    run = scan(database, found_files(2, images_each=2))
    finish_all(database, run, probability=0.9)
    before = found_files(2, images_each=2)
    changed = [found_file("study0000", "image0.png", size=999), *before[1:]]
    scan(database, changed)
    statuses = {row.study: row.status for row in results(database, ResultFilter(run=run))}
    assert statuses == {"study0000": "pending", "study0001": "scored"}
    assert finish_all(database, run, probability=0.1) == 1
    (study,) = find_study(database, "study0000")
    assert study.row.score == pytest.approx((0.1 + 0.9) / 2)


def test_a_file_put_back_to_its_earlier_version_keeps_its_earlier_prediction(database: Database) -> None:
    original = [found_file("s", "image.png", size=1)]
    run = scan(database, original)
    finish_all(database, run, probability=0.9)
    scan(database, [found_file("s", "image.png", size=2)])
    finish_all(database, run, probability=0.1)
    scan(database, original)
    assert finish_all(database, run) == 0
    (row,) = results(database, ResultFilter(run=run))
    assert (row.score, row.images, row.status) == (pytest.approx(0.9), 1, "scored")


def test_files_that_are_gone_are_not_listed_and_get_their_results_back_when_they_return(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_ROWS", 2)
    run = scan(database, found_files(9, images_each=2))
    finish_all(database, run)
    # All of the last five studies, and one image of the fourth.
    scan(database, found_files(4, images_each=2)[:-1])
    rows = {row.study: (row.images, row.status) for row in results(database, ResultFilter(run=run))}
    assert rows == {f"study000{n}": (1 if n == 3 else 2, "scored") for n in range(4)}
    summary = run_summary(database, run)
    assert (summary.state, summary.studies, summary.images, summary.processed, summary.gone) == ("done", 4, 7, 7, 11)
    scan(database, found_files(9, images_each=2))
    assert ledger.count_open_batches(database, run) == 0
    rows = {row.study: (row.images, row.status) for row in results(database, ResultFilter(run=run))}
    assert rows == {f"study000{n}": (2, "scored") for n in range(9)}


def test_a_study_that_is_gone_is_not_found(database: Database) -> None:
    finish_all(database, scan(database, found_files(2)))
    scan(database, found_files(1))
    with pytest.raises(UsageError, match="no study 'study0001' in the database"):
        find_study(database, "study0001")


def test_open_batches_of_files_that_are_gone_end_without_outcomes(database: Database) -> None:
    run = scan(database, found_files(3), batch_size=1)
    scan(database, found_files(1))
    assert finish_all(database, run) == 1
    assert run_summary(database, run).state is RunState.DONE


def test_a_scan_for_one_model_also_updates_the_run_of_another(database: Database) -> None:
    first = scan(database, found_files(2))
    finish_all(database, first, probability=0.1)
    other = replace(MODEL, digest="cd" * 32)
    second = scan(database, found_files(2), model=other)
    finish_all(database, second, probability=0.1)
    assert newest_runs(database) == [second]
    scan(database, [found_file("study0000", "image0.png", size=999), found_file("study0002", "image0.png")])
    assert newest_runs(database) == [first]
    stale = {row.study: (row.status, row.label) for row in results(database, ResultFilter(run=second))}
    assert stale == {"study0000": ("pending", None), "study0002": ("pending", None)}
    assert run_summary(database, second).state is RunState.BEHIND
    assert ledger.resume(database, second) == 1
    finish_all(database, second)
    assert run_summary(database, second).state is RunState.DONE


def test_one_archive_is_scanned_by_one_process_at_a_time(database: Database) -> None:
    assert begin(database) is not None
    assert begin(database) is None
    assert begin(database, archive="another") is not None


def test_a_scan_whose_lease_expired_is_taken_over_and_its_first_holder_cannot_write(database: Database) -> None:
    first = begin(database)
    assert first is not None
    merge.stage(database, first, found_files(3))
    assert scans.take_over(database, first.scan_id, "too early") is None
    let_expire(database)
    taken = scans.take_over(database, first.scan_id, "second")
    assert taken is not None
    assert scans.take_over(database, first.scan_id, "too late") is None
    with pytest.raises(TakenOver):
        merge.stage(database, first, found_files(3))
    with database.read() as connection:
        assert connection.execute(select(scan_entries)).all() == []
    merge.stage(database, taken, found_files(5))
    merge.merge(database, taken, lambda path: None)
    scans.close_scan(database, taken, {})
    assert run_progress(database, taken.run_id).images == 5


def test_a_run_is_not_done_while_its_scan_is_open(database: Database) -> None:
    begun = begin(database)
    assert begun is not None
    assert run_progress(database, begun.run_id).state is RunState.SCANNING


def test_a_scan_interrupted_during_its_merge_and_repeated_counts_every_file_once(database: Database) -> None:
    first = begin(database)
    assert first is not None
    merge.stage(database, first, found_files(10))
    merge.merge(database, first, lambda path: None)
    let_expire(database)
    taken = scans.take_over(database, first.scan_id, "second")
    assert taken is not None
    merge.stage(database, taken, found_files(10))
    merge.merge(database, taken, lambda path: None)
    scans.close_scan(database, taken, {})
    assert finish_all(database, taken.run_id) == 10


def test_a_scan_that_is_taken_over_can_get_another_layout(database: Database) -> None:
    first = begin(database)
    assert first is not None
    let_expire(database)
    taken = scans.take_over(database, first.scan_id, "second", "flat")
    assert taken is not None
    assert taken.layout == "flat"


def test_a_scan_undoes_an_earlier_cancellation_and_obeys_one_from_during_the_scan(
    database: Database,
) -> None:
    run = scan(database, found_files(3))
    ledger.cancel(database, run)
    begun = begin(database)
    assert begun is not None
    scans.abandon_scan(database, begun)
    assert run_progress(database, run).state is RunState.CANCELLED
    scan(database, found_files(3))
    assert run_progress(database, run).state is RunState.RUNNING
    begun = begin(database)
    assert begun is not None
    ledger.cancel(database, run)
    merge.stage(database, begun, found_files(4))
    merge.merge(database, begun, lambda path: None)
    assert scans.close_scan(database, begun, {}) == 0
    assert run_progress(database, run).state is RunState.CANCELLED


def test_a_scan_obeys_a_second_cancellation_from_during_the_scan(
    database: Database,
) -> None:
    run = scan(database, found_files(3))
    ledger.cancel(database, run)
    begun = begin(database)
    assert begun is not None
    ledger.cancel(database, run)
    assert scans.close_scan(database, begun, {}) == 0
    assert run_progress(database, run).state is RunState.CANCELLED


def test_abandoning_a_scan_that_found_nothing_leaves_no_trace(database: Database) -> None:
    begun = begin(database)
    assert begun is not None
    scans.abandon_scan(database, begun)
    assert list_runs(database) == []


def test_another_model_version_screens_the_same_images_in_its_own_run(database: Database) -> None:
    first = scan(database, found_files(3))
    finish_all(database, first)
    second = scan(database, found_files(3), model=replace(MODEL, digest="cd" * 32))
    assert finish_all(database, second, probability=0.2) == 3
    for run, score in ((first, 0.7), (second, 0.2)):
        assert [row.score for row in results(database, ResultFilter(run=run))] == [pytest.approx(score)] * 3


def test_more_files_than_one_merge_transaction_takes_are_all_merged(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_ROWS", 7)
    run = scan(database, found_files(10, images_each=5), batch_size=16)
    assert finish_all(database, run) == 50


@given(
    ids=st.lists(st.integers(1, 200), unique=True).map(sorted),
    covered=st.lists(st.tuples(st.integers(1, 200), st.integers(0, 15)), max_size=6),
    size=st.integers(1, 20),
)
def test_spans_have_every_uncovered_id_once_and_overlap_no_covered_range(
    ids: list[int], covered: list[tuple[int, int]], size: int
) -> None:
    ranges: list[tuple[int, int]] = []
    for first, length in sorted(covered):
        if not ranges or first > ranges[-1][1]:
            ranges.append((first, first + length))
    made = list(id_ranges(ids, ranges, size))
    free = [i for i in ids if not any(first <= i <= last for first, last in ranges)]
    assert [i for span in made for i in free if span.first <= i <= span.last] == free
    assert sum(span.images for span in made) == len(free)
    for span in made:
        assert span.images <= size
        assert not any(span.first <= last and first <= span.last for first, last in ranges)


def test_after_a_scan_is_interrupted_during_its_merge_and_abandoned_the_archive_can_be_scanned_again(
    database: Database,
) -> None:
    first = begin(database)
    assert first is not None
    merge.stage(database, first, found_files(3))
    merge.merge(database, first, lambda path: None)
    let_expire(database)
    taken = scans.take_over(database, first.scan_id, "second")
    assert taken is not None
    scans.abandon_scan(database, taken)
    assert scans.open_scans(database) == []
    assert finish_all(database, scan(database, found_files(3))) == 3


def test_a_scan_interrupted_after_it_made_batches_keeps_them_when_it_is_abandoned(database: Database) -> None:
    first = begin(database)
    assert first is not None
    merge.stage(database, first, found_files(3))
    merge.merge(database, first, lambda path: None)
    with database.write() as connection:
        make_batches(connection, first.run_id)
    let_expire(database)
    taken = scans.take_over(database, first.scan_id, "second")
    assert taken is not None
    scans.abandon_scan(database, taken)
    assert finish_all(database, first.run_id) == 3


def test_a_new_scan_that_takes_over_an_older_one_undoes_a_cancellation(database: Database) -> None:
    begun = begin(database)
    assert begun is not None
    ledger.cancel(database, begun.run_id)
    let_expire(database)
    taken = scans.take_over(database, begun.scan_id, "second", "folder")
    assert taken is not None
    merge.stage(database, taken, found_files(3))
    merge.merge(database, taken, lambda path: None)
    assert scans.close_scan(database, taken, {}) == 1


def test_a_file_that_vanished_and_came_back_is_read_again(database: Database) -> None:
    run = scan(database, found_files(2))
    claim = claim_next(database)
    lost, well = ledger.unprocessed_images(database, claim)
    assert ledger.finish(database, claim, [ImageOutcome(lost.image_id, reason=Reason.VANISHED), scored(well.image_id)])
    scan(database, found_files(2)[1:])
    assert len(list(results(database, ResultFilter(run=run)))) == 1
    scan(database, found_files(2))
    assert finish_all(database, run) == 1
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}


def test_an_image_that_moves_to_another_study_keeps_its_prediction(database: Database) -> None:
    images = [replace(found_file("first", f"{i}.png"), path=f"{i}.png") for i in range(2)]
    run = scan(database, images)
    finish_all(database, run)
    scan(database, [images[0], moved(images[1], "second")])
    rows = list(results(database, ResultFilter(run=run)))
    assert {(row.study, row.images, row.status, row.score) for row in rows} == {
        ("first", 1, "scored", 0.7),
        ("second", 1, "scored", 0.7),
    }
    scan(database, [moved(image, "second") for image in images])
    (row,) = results(database, ResultFilter(run=run))
    assert (row.study, row.images) == ("second", 2)


def test_a_body_part_that_becomes_known_decides_the_scope_of_a_scored_study(database: Database) -> None:
    run = scan(database, [found_file("study", "image.png", body_part=None)])
    finish_all(database, run)
    (row,) = results(database, ResultFilter(run=run))
    assert (row.body_part, row.status) == (None, "scored")
    scan(database, [found_file("study", "image.png", body_part="PELVIS")])
    (row,) = results(database, ResultFilter(run=run))
    assert (row.body_part, row.status) == ("PELVIS", "out of scope")


def test_a_study_of_several_body_parts_is_found_by_each_until_its_image_is_gone(database: Database) -> None:
    shown = [found_file("study", f"{part}.png", body_part=part) for part in ("HUMERUS", "HAND")]
    run = scan(database, shown)
    for part in ("HUMERUS", "hand"):
        (row,) = results(database, ResultFilter(run=run, body_part=part))
        assert row.body_part == "HAND,HUMERUS"
    scan(database, shown[:1])
    assert list(results(database, ResultFilter(run=run, body_part="HAND"))) == []
    (row,) = results(database, ResultFilter(run=run))
    assert row.body_part == "HUMERUS"


def test_header_attributes_are_stored_with_image_and_study(database: Database) -> None:
    placement = Placement("1.2.3", view="AP", laterality="L", series="1.2.3.4", patient="ab" * 16)
    described = replace(found_file("1.2.3", "image.dcm"), placement=placement)
    run = scan(database, [described])
    (study,) = find_study(database, "1.2.3", run)
    (image,) = study.images
    assert (image.view, image.laterality, image.series, study.patient) == ("AP", "L", "1.2.3.4", "ab" * 16)


def stored(database: Database, archive: str) -> set[tuple[object, ...]]:
    """Return what is stored of an archive's current images and their studies."""
    with database.read() as connection:
        columns = images_table.c.path, images_table.c.size, images_table.c.body_part
        query = (
            select(*columns, studies.c.key, studies.c.human_label, studies.c.body_parts)
            .join(studies, studies.c.id == images_table.c.study_id)
            .where(images_table.c.archive_id == register_archive(database, archive, "/"), images_table.c.current)
        )
        return {tuple(row) for row in connection.execute(query)}


def expected(found: list[ArchiveFile]) -> set[tuple[object, ...]]:
    """Return what `stored` must return after a scan that found these files."""
    placements = [file.placement for file in found if file.placement is not None]
    labels = {one.study: one.human_label.value for one in placements if one.human_label}
    parts = {
        one.study: sorted({p.body_part for p in placements if p.study == one.study and p.body_part})
        for one in placements
    }
    return {
        (file.path, file.size, one.body_part, one.study, labels.get(one.study), ",".join(parts[one.study]) or None)
        for file, one in zip(found, placements, strict=True)
    }


def test_after_any_series_of_scans_the_current_images_are_the_files_that_the_last_one_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_ROWS", 5)
    random = Random(11)
    for _ in range(6):
        for archive in ("first", "second"):
            labels = {study: random.choice([None, Label.POSITIVE, Label.NEGATIVE]) for study in "abc"}
            found = []
            for number in range(20):
                study = random.choice("aabc")
                label = random.choice([None, labels[study]])
                placement = Placement(study, random.choice([None, "HAND", "HAND", "WRIST"]), label)
                found.append(ArchiveFile(f"{number}.png", random.choice([1, 1, 2]), 1_000, placement))
            found = random.sample(found, random.choice([8, 20]))
            scan(database, found, archive=archive)
            assert stored(database, archive) == expected(found)


def test_a_study_that_several_transactions_merge_has_the_label_and_body_parts_of_all_its_images(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_ROWS", 2)
    files = [
        ArchiveFile(f"{number}.png", 1, 1, Placement("study", part, Label.POSITIVE if number == 4 else None))
        for number, part in enumerate(["HAND", "HAND", "WRIST", "HAND", "HAND"])
    ]
    scan(database, files)
    assert stored(database, "archive") == expected(files)
    (row,) = {(label, parts) for *_, label, parts in stored(database, "archive")}
    assert row == ("positive", "HAND,WRIST")


def test_new_images_are_numbered_study_by_study_so_that_a_batch_holds_whole_studies(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MERGE_ROWS", 7)
    files = found_files(10, images_each=3)
    scan(database, Random(1).sample(files, len(files)))
    with database.read() as connection:
        paths = list(connection.execute(select(images_table.c.path).order_by(images_table.c.id)).scalars())
    assert paths == [file.path for file in files]


def test_no_staging_rows_are_left_when_a_scan_is_closed_taken_over_or_abandoned(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans, "DELETE_ROWS", 3)

    def staged() -> int:
        with database.read() as connection:
            return len(connection.execute(select(scan_entries)).all())

    begun = begin(database)
    assert begun is not None
    merge.stage(database, begun, found_files(7))
    assert staged() == 7
    let_expire(database)
    taken = scans.take_over(database, begun.scan_id, "second")
    assert taken is not None
    assert staged() == 0
    merge.stage(database, taken, found_files(7))
    merge.merge(database, taken, lambda path: None)
    scans.close_scan(database, taken, {})
    assert staged() == 0
    other = begin(database, archive="another")
    assert other is not None
    merge.stage(database, other, found_files(6))
    scans.abandon_scan(database, other)
    assert staged() == 0
