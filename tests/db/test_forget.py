"""Forget studies, runs and archives: nothing of them is left, all of the others is, and the counts are right."""

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from db import forget, ledger, merge, recovery
from db.forget import Kind, Target, count_stored, find_targets
from db.heartbeats import list_heartbeats, record_heartbeat
from db.migrate import upgrade
from db.queries import ResultFilter, results
from db.reviews import add_review, stream_reviews
from db.run_queries import RunState, run_progress
from db.runs import ModelVersion, open_run, register_archive, register_model
from db.scan_cache import remember_skipped
from db.scans import begin_scan
from db.session import Database, Now
from db.sqlite_file import erase_deleted, sqlite_path
from db.store import ImageOutcome, predicted_contents
from db.tables import batches, contents, metadata, outcomes, predictions
from db.tables import scans as scans_table
from db.worklist import worklist
from db.worklist_search import WorklistFilter
from tests.awaiting import PATIENCE
from tests.ledgers import fill
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, claim_next, finish_batches, found_file, found_files, scan, scored
from xray.archives.archive_file import ArchiveFile
from xray.errors import UsageError
from xray.vocabulary import Decision, Reason, StudyStatus

OTHER = ModelVersion(**{**vars(MODEL), "digest": "cd" * 32, "queue": "screen.other.fp32"})
PATIENT, UID = "DOE-JANE-19480321", "1.2.840.99999.4711"
STUDY = f"{PATIENT}/{UID}"


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows need several transactions."""
    monkeypatch.setattr(forget, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(forget, "STUDIES_AT_ONCE", 2)


def target(database: Database, name: str, kind: Kind) -> Target:
    (found,) = [one for one in find_targets(database, name) if one.kind is kind]
    return found


def rows(database: Database) -> dict[str, int]:
    """Count the rows of every table that has some, but for model versions."""
    with database.read() as connection:
        counted = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }
    return {name: number for name, number in counted.items() if number and name != "models"}


def everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table."""
    with database.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def review_each(database: Database, run_id: int, times: int) -> None:
    """Review each study of a run that has a result so many times."""
    for row in worklist(database, WorklistFilter(run_id)).rows:
        for _ in range(times if row.row.status != StudyStatus.PENDING else 0):
            add_review(database, run_id, row.study_id, "Ann", Decision.AGREE, "a note")


def finish_all(database: Database, queue: str = MODEL.queue, **content: int) -> None:
    while (claim := ledger.claim_next(database, queue, "w")) is not None:
        work = ledger.unprocessed_images(database, claim)
        assert ledger.finish(database, claim, [scored(image.image_id, **content) for image in work])


@pytest.mark.usefixtures("few_rows")
def test_after_an_archive_is_forgotten_the_database_is_as_if_it_had_never_been_scanned(database: Database) -> None:
    kept = fill(database, {"keep/study1_positive": [0.9, Reason.EMPTY]}, archive="kept")
    review_each(database, kept, 1)
    before = everything(database)
    for model in (MODEL, OTHER):
        fill(database, {f"s{n}/study1_negative": [0.3, Reason.TRUNCATED, None] for n in range(5)}, model=model)
    for run in (2, 3):
        ledger.cancel(database, run)
        review_each(database, run, 4)
    forget.forget(database, target(database, "clinic", Kind.ARCHIVE))
    after = everything(database)
    assert {name: after[name] for name in after if name != "models"} == {
        name: before[name] for name in before if name != "models"
    }
    assert kept_counts(database) == recount(database)


@pytest.mark.usefixtures("few_rows")
def test_reviews_are_forgotten_with_their_study_or_their_run_and_others_stay(database: Database) -> None:
    found = {f"s{number}": [0.9] for number in range(4)}
    first, second = fill(database, found), fill(database, found, model=OTHER)
    for run_id in (first, second):
        review_each(database, run_id, 3)
    forget.forget(database, target(database, "s2", Kind.STUDY))
    left = [(review.run, review.study) for run_id in (first, second) for review in stream_reviews(database, run_id)]
    assert sorted(set(left)) == [(run_id, key) for run_id in (first, second) for key in ("s0", "s1", "s3")]
    assert len(left) == 18
    forget.forget(database, target(database, str(first), Kind.RUN))
    assert {review.run for run_id in (first, second) for review in stream_reviews(database, run_id)} == {second}
    assert rows(database)["reviews"] == 9


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_rows_after_each_transaction_of_forgetting(database: Database, seed: int) -> None:
    draw = random.Random(seed)
    run: dict[tuple[str, ModelVersion], int] = {}
    for archive in ("first", "second"):
        for model in (MODEL, OTHER):
            files = [found_file(f"s{n // 4}", f"{n}.png", body_part=draw.choice(["HAND", "KNEE"])) for n in range(24)]
            # The second scan leaves images that are no longer current.
            for found in (files, draw.sample(files, 18)):
                run[archive, model] = scan(database, found, archive=archive, model=model)
                while (claim := ledger.claim_next(database, model.queue, "w")) is not None:
                    work = ledger.unprocessed_images(database, claim)
                    made = [
                        ImageOutcome(image.image_id, reason=Reason.CORRUPT)
                        if draw.random() < 0.2
                        else scored(image.image_id, draw.random(), content=image.image_id % 9)
                        for image in work
                    ]
                    assert ledger.finish(database, claim, made)

    def counts_are_right(_: int) -> None:
        assert kept_counts(database) == recount(database)

    study = next(one for one in find_targets(database, "s2") if one.archive == "first")
    forget.forget(database, study, counts_are_right)
    assert "s2" in {row.study for row in results(database, ResultFilter(run=run["second", MODEL]))}
    assert "s2" not in {row.study for row in results(database, ResultFilter(run=run["first", MODEL]))}
    forget.forget(database, target(database, str(run["first", OTHER]), Kind.RUN), counts_are_right)
    forget.forget(database, target(database, "first", Kind.ARCHIVE), counts_are_right)
    counts_are_right(0)
    assert {row.run for row in results(database, ResultFilter())} <= {run["second", model] for model in (MODEL, OTHER)}
    with database.read() as connection:
        used = set(
            connection.execute(select(outcomes.c.content_id).where(outcomes.c.content_id.is_not(None))).scalars()
        )
        assert set(connection.execute(select(contents.c.id)).scalars()) == used
        assert set(connection.execute(select(predictions.c.content_id)).scalars()) == used


def test_a_content_and_a_prediction_stay_while_another_image_has_them(database: Database) -> None:
    scan(database, [found_file("first", "a.png"), found_file("second", "b.png")])
    finish_all(database, content=7)
    scan(database, [found_file("first", "a.png"), found_file("second", "b.png")], model=OTHER)
    finish_all(database, OTHER.queue, content=7)
    forget.forget(database, target(database, "first", Kind.STUDY))
    assert (rows(database)["contents"], rows(database)["predictions"]) == (1, 2)
    # The other run shows the content still, but with its own model.
    forget.forget(database, target(database, "1", Kind.RUN))
    assert (rows(database)["contents"], rows(database)["predictions"]) == (1, 1)
    forget.forget(database, target(database, "second", Kind.STUDY))
    assert not {"contents", "predictions", "outcomes", "images", "studies"} & rows(database).keys()


def test_a_forgotten_study_is_screened_again_by_the_next_scan(database: Database) -> None:
    run = scan(database, found_files(3))
    finish_batches(database)
    forget.forget(database, target(database, "study0001", Kind.STUDY))
    assert run_progress(database, run).state is RunState.DONE
    assert scan(database, found_files(3)) == run
    assert finish_batches(database) == 1
    assert {row.study for row in results(database, ResultFilter(run=run))} == {"study0000", "study0001", "study0002"}
    assert kept_counts(database) == recount(database)


def test_a_forgotten_run_leaves_the_studies_for_a_new_one(database: Database) -> None:
    run = scan(database, found_files(3))
    finish_batches(database)
    forget.forget(database, target(database, str(run), Kind.RUN))
    assert rows(database).keys() == {"archives", "archive_counts", "studies", "images"}
    scan(database, found_files(3))
    assert finish_batches(database) == 3


def test_what_was_skipped_in_a_studys_folder_is_forgotten_with_it(database: Database) -> None:
    scan(database, [found_file(STUDY, "a.png"), found_file("other", "b.png")])
    finish_batches(database)
    skipped = [ArchiveFile(f"{folder}/report.dcm", 1, 1) for folder in (STUDY, "other")]
    remember_skipped(database, 1, [_Skipped(file) for file in skipped])
    forget.forget(database, target(database, STUDY, Kind.STUDY))
    assert PATIENT not in str(everything(database))
    assert rows(database)["passed_over"] == 1


def test_a_folder_that_was_emptied_and_a_file_that_is_no_image_any_more_are_forgotten_with_their_study(
    database: Database,
) -> None:
    in_the_root = replace(found_file(STUDY, "a.dcm"), path=f"{PATIENT}.dcm")
    scan(database, [in_the_root, found_file(STUDY, "b.png"), found_file("other", "c.png")])
    finish_batches(database)
    empty = [ArchiveFile(folder, 0, 0) for folder in (STUDY, PATIENT, "other")]
    remember_skipped(database, 1, [_Skipped(file) for file in (*empty, ArchiveFile(f"{PATIENT}.dcm", 1, 2))])
    forget.forget(database, target(database, STUDY, Kind.STUDY))
    assert PATIENT not in str(everything(database))
    assert rows(database)["passed_over"] == 1


@pytest.mark.parametrize("kind", [Kind.STUDY, Kind.ARCHIVE])
def test_a_process_that_is_gone_names_no_forgotten_study_in_its_last_problem(database: Database, kind: Kind) -> None:
    scan(database, [found_file(STUDY, "a.png")])
    finish_batches(database)
    record_heartbeat(database, "host:1", "worker", MODEL.queue, f"an image has not ended to load ({STUDY}/a.png)")
    record_heartbeat(database, "host:2", "worker", MODEL.queue, None)
    forget.forget(database, target(database, {"study": STUDY, "archive": "archive"}[kind], kind))
    assert PATIENT not in str(everything(database))
    assert [beat.name for beat in list_heartbeats(database)] == ["host:2"]


class _Skipped:
    """A file that a scan opened and skipped."""

    def __init__(self, opened: ArchiveFile) -> None:
        self.opened, self.reason = opened, "Structured Report"


@pytest.mark.parametrize("kind", Kind)
def test_an_open_run_is_not_forgotten_before_it_is_cancelled(database: Database, kind: Kind) -> None:
    run = scan(database, found_files(2))
    wanted = target(database, {"study": "study0000", "run": str(run), "archive": "archive"}[kind], kind)
    before = everything(database)
    for action in (count_stored, forget.forget):
        with pytest.raises(UsageError, match=f"run {run} is open; first: bonescreen cancel {run}"):
            action(database, wanted)
    assert everything(database) == before
    ledger.cancel(database, run)
    forget.forget(database, wanted)
    assert not find_targets(database, wanted.name)


def test_an_archive_that_is_being_scanned_is_not_forgotten_but_one_whose_scan_was_abandoned_is(
    database: Database,
) -> None:
    archive_id = register_archive(database, "clinic", "/clinic")
    opened = begin_scan(
        database, open_run(database, archive_id, register_model(database, MODEL), 4), "folder", "host:1"
    )
    assert opened is not None
    merge.stage(database, opened, [found_file(STUDY, "a.png")])
    merge.merge(database, opened, lambda path: None)
    clinic = target(database, "clinic", Kind.ARCHIVE)
    for one in (clinic, target(database, STUDY, Kind.STUDY)):
        with pytest.raises(UsageError, match=r"is being scanned by host:1; stop that scan"):
            forget.forget(database, one)
    with database.write() as connection:
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))
    with pytest.raises(UsageError, match="was interrupted; first let it end: bonescreen screen /clinic"):
        forget.forget(database, target(database, STUDY, Kind.STUDY))
    forget.forget(database, clinic)
    assert rows(database) == {}


def test_a_claim_from_before_the_forgetting_stores_nothing_in_a_later_batch_of_the_same_number(
    database: Database,
) -> None:
    run = scan(database, found_files(1))
    zombie = claim_next(database, "zombie")
    ledger.cancel(database, run)
    forget.forget(database, target(database, "archive", Kind.ARCHIVE))
    scan(database, [found_file("another", "a.png")])
    successor = claim_next(database, "successor")
    assert not ledger.finish(database, zombie, [scored(1, 0.99)])
    assert ledger.finish(
        database, successor, [scored(i.image_id) for i in ledger.unprocessed_images(database, successor)]
    )


def test_an_outcome_whose_prediction_was_forgotten_meanwhile_is_not_stored_without_it(database: Database) -> None:
    scan(database, [found_file("first", "a.png")], archive="first")
    finish_all(database, content=7)
    run = scan(database, [found_file("second", "b.png")], archive="second")
    claim = claim_next(database)
    (image,) = ledger.unprocessed_images(database, claim)
    # The worker has found the content in the database, and so has not inferred it again.
    forget.forget(database, target(database, "first", Kind.ARCHIVE))
    ledger.finish(database, claim, [ImageOutcome(image.image_id, (7).to_bytes(32, "big"))])
    progress = run_progress(database, run)
    assert (progress.state, progress.processed) == (RunState.RUNNING, 0)
    assert kept_counts(database) == recount(database)
    finish_all(database, content=7)
    assert run_progress(database, run).state is RunState.DONE


@pytest.fixture
def file_database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(database)
    yield database
    database.close()


def bytes_of(database: Database) -> bytes:
    """Return what is in the database's file and the files beside it."""
    path = sqlite_path(database)
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


@pytest.mark.parametrize("kind", [Kind.STUDY, Kind.ARCHIVE])
def test_no_byte_of_a_forgotten_path_is_left_in_the_files_of_sqlite(file_database: Database, kind: Kind) -> None:
    many = [found_file(STUDY, f"{n:04}.png") for n in range(300)]
    # A second scan leaves staging rows of before in free pages.
    for _ in range(2):
        scan(file_database, [*many, found_file("other", "a.png")], batch_size=100)
    finish_batches(file_database)
    assert PATIENT.encode() in bytes_of(file_database)
    assert UID.encode() in bytes_of(file_database)
    forget.forget(file_database, target(file_database, {"study": STUDY, "archive": "archive"}[kind], kind))
    # Deleting alone does not do it.
    assert PATIENT.encode() in bytes_of(file_database)
    erase_deleted(file_database)
    assert PATIENT.encode() not in bytes_of(file_database)
    assert UID.encode() not in bytes_of(file_database)
    assert rows(file_database).get("images", 0) == (1 if kind is Kind.STUDY else 0)


def test_split_batches_are_forgotten_with_their_run(database: Database) -> None:
    run = scan(database, found_files(8), batch_size=8)
    for _ in range(recovery.SPLIT_AFTER):
        claim_next(database)
        with database.write() as connection:
            connection.execute(update(batches).values(lease_expires_at=Now() - 1))
        recovery.recover_expired(database)
    ledger.cancel(database, run)
    with database.read() as connection:
        assert connection.execute(select(func.count()).where(batches.c.parent_id.is_not(None))).scalar_one() == 8
    forget.forget(database, target(database, str(run), Kind.RUN))
    assert "batches" not in rows(database)


def work_off(database: Database, run: int, began: threading.Event) -> None:
    """Process a run's batches as a worker: what the database has a prediction of is not inferred again."""
    while (claim := ledger.claim_more(database, run, "w", images=1000)) is not None:
        found = []
        for image in ledger.unprocessed_images(database, claim):
            # The same number in each archive, and so the same content.
            inferred = scored(image.image_id, content=int(re.sub(r"\D", "", image.path)))
            assert inferred.digest is not None
            known = predicted_contents(database, claim.model_id, [inferred.digest])
            found.append(replace(inferred, prediction=None) if known else inferred)
        began.set()
        assert ledger.finish(database, claim, found)


@pytest.mark.usefixtures("few_rows")
def test_a_worker_that_stores_the_same_contents_meanwhile_lacks_no_prediction_at_the_end(database: Database) -> None:
    forgotten = scan(database, found_files(40), archive="forgotten", batch_size=40)
    work_off(database, forgotten, threading.Event())
    kept = scan(database, found_files(40), archive="kept", batch_size=1)
    began = threading.Event()
    with ThreadPoolExecutor(1) as worker:
        done = worker.submit(work_off, database, kept, began)
        assert began.wait(30 * PATIENCE)
        forget.forget(database, target(database, "forgotten", Kind.ARCHIVE))
        done.result()
    assert run_progress(database, kept).state is RunState.DONE
    with database.read() as connection:
        shown = connection.execute(select(outcomes.c.content_id)).scalars().all()
        assert (len(shown), len(set(shown))) == (40, 40)
        assert set(connection.execute(select(predictions.c.content_id)).scalars()) == set(shown)
        assert set(connection.execute(select(contents.c.id)).scalars()) == set(shown)
    assert kept_counts(database) == recount(database)


@pytest.mark.usefixtures("few_rows")
def test_interrupted_at_any_transaction_it_goes_on_when_it_is_asked_again(database: Database) -> None:
    fill(database, {f"s{n}/study1_negative": [0.3, Reason.TRUNCATED, 0.9] for n in range(5)})
    interruptions = 0
    while targets := find_targets(database, "clinic"):
        try:
            forget.forget(database, targets[0], _interrupt)
        except KeyboardInterrupt:
            interruptions += 1
            assert kept_counts(database) == recount(database)
    assert interruptions > 5
    assert rows(database) == {}


def _interrupt(deleted: int) -> None:
    if deleted:
        raise KeyboardInterrupt
