"""The ledger's promises, on SQLite and PostgreSQL alike."""

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select, update

from db import dispatch, ledger
from db.ledger import Claim
from db.queries import ResultFilter, find_study, list_failures, results
from db.run_queries import RunState, run_progress, run_summary
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, outcomes, predictions, runs
from tests.seeding import MODEL, found_file, found_files, image_ids, scan, scored, send_all
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import BatchState, Reason


def claim_next(database: Database, worker: str = "w") -> Claim:
    """Send one batch and claim it."""
    sent = send_all(database, 1)
    held = ledger.claim(database, *sent[0], worker)
    assert held is not None
    return held


def finish(database: Database, held: Claim, probability: float = 0.7) -> bool:
    done = [scored(item.image_id, probability) for item in ledger.work_of(database, held)]
    return ledger.finish(database, held, done)


def run_out(database: Database, batch_id: int) -> None:
    """Let a lease run out."""
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(lease_expires_at=Now() - 1))


def states(database: Database) -> list[tuple[str, int, int]]:
    with database.read() as connection:
        rows = connection.execute(select(batches.c.state, batches.c.images, batches.c.attempts).order_by(batches.c.id))
        return [tuple(row) for row in rows]


def processed(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(outcomes)).scalar_one()


def test_a_run_is_done_when_every_batch_is_finished(database: Database) -> None:
    run = scan(database, found_files(10))
    assert [row[1] for row in states(database)] == [4, 4, 2]
    while ledger.open_batches(database, run):
        assert run_progress(database, run).state is RunState.RUNNING
        assert finish(database, claim_next(database))
    assert run_progress(database, run).state is RunState.DONE
    assert processed(database) == 10


def test_a_batch_claimed_once_is_not_to_be_had_again(database: Database) -> None:
    scan(database, found_files(4))
    (sent,) = send_all(database)
    assert ledger.claim(database, *sent, "first") is not None
    assert ledger.claim(database, *sent, "second") is None


def test_of_many_workers_that_claim_one_batch_at_once_exactly_one_gets_it(database: Database) -> None:
    scan(database, found_files(4))
    (sent,) = send_all(database)
    start = threading.Barrier(8)
    won: list[Claim | None] = []

    def race(name: str) -> None:
        start.wait()
        won.append(ledger.claim(database, *sent, name))

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held is not None for held in won) == 1


def test_a_worker_that_slept_past_its_lease_cannot_store(database: Database) -> None:
    scan(database, found_files(4))
    zombie = claim_next(database, "zombie")
    work = ledger.work_of(database, zombie)
    run_out(database, zombie.batch_id)
    assert dispatch.return_expired(database) == 1
    heir = claim_next(database, "heir")
    assert heir.token > zombie.token
    assert not ledger.renew(database, zombie)
    assert not ledger.finish(database, zombie, [scored(item.image_id, 0.1) for item in work])
    assert processed(database) == 0
    assert finish(database, heir, 0.9)
    with database.read() as connection:
        assert set(connection.execute(select(predictions.c.probability)).scalars()) == {0.9}


def test_a_lease_renewed_in_time_is_not_taken_back(database: Database) -> None:
    scan(database, found_files(4))
    held = claim_next(database)
    run_out(database, held.batch_id)
    assert ledger.renew(database, held)
    assert dispatch.return_expired(database) == 0


def test_a_lease_runs_on_the_databases_clock(database: Database) -> None:
    scan(database, found_files(4))
    held = claim_next(database)
    with database.read() as connection:
        left = connection.execute(
            select(batches.c.lease_expires_at - Now()).where(batches.c.id == held.batch_id)
        ).scalar_one()
    assert 25.0 < left <= 30.0


def test_an_outage_hands_a_batch_back_without_counting_an_attempt(database: Database) -> None:
    scan(database, found_files(4))
    for _ in range(MAX_ATTEMPTS + 1):
        assert ledger.hand_back(database, claim_next(database))
    assert states(database) == [(BatchState.PENDING, 4, 0)]


def test_workers_stopped_on_purpose_give_back_what_they_held_and_store_nothing_more(database: Database) -> None:
    scan(database, found_files(8))
    held = claim_next(database)
    assert ledger.hand_back_all(database) == 1
    assert states(database) == [(BatchState.PENDING, 4, 0), (BatchState.PENDING, 4, 0)]
    assert not finish(database, held)


def test_a_worker_that_stops_hands_back_its_own_batches_and_no_others(database: Database) -> None:
    scan(database, found_files(12))
    first, second, third = send_all(database)
    for sent, worker in ((first, "gpu1:7"), (second, "gpu1:8"), (third, "gpu10:7")):
        assert ledger.claim(database, *sent, worker) is not None
    assert ledger.hand_back_all(database, "gpu1") == 2
    assert ledger.claim(database, *third, "other:1") is None


def test_a_batch_lost_twice_is_split_and_its_parts_cover_it(database: Database) -> None:
    scan(database, found_files(40), batch_size=40)
    for _ in range(dispatch.SPLIT_AFTER):
        held = claim_next(database)
        run_out(database, held.batch_id)
        dispatch.return_expired(database)
    parent, *parts = states(database)
    assert parent[0] == BatchState.SPLIT
    assert sum(part[1] for part in parts) == 40
    assert 1 < len(parts) <= dispatch.SPLIT_INTO


def test_an_image_that_kills_every_worker_is_quarantined_and_its_neighbours_are_scored(database: Database) -> None:
    run = scan(database, found_files(20), batch_size=20)
    poison = image_ids(database)[7]
    while ledger.open_batches(database, run):
        held = claim_next(database)
        if poison in {item.image_id for item in ledger.work_of(database, held)}:
            run_out(database, held.batch_id)
            dispatch.return_expired(database)
        else:
            assert finish(database, held)
    (failed,) = list_failures(database, run)
    assert (failed.reason, failed.attempts) == (Reason.QUARANTINED, MAX_ATTEMPTS)
    assert processed(database) == 20
    assert run_progress(database, run).state is RunState.DONE


def test_no_image_can_be_settled_twice(database: Database) -> None:
    scan(database, found_files(4))
    first = claim_next(database)
    work = ledger.work_of(database, first)
    assert ledger.finish(database, first, [scored(item.image_id) for item in work])
    assert ledger.claim(database, first.run_id, first.batch_id, "again") is None
    assert not ledger.finish(database, first, [scored(item.image_id) for item in work])
    assert processed(database) == 4


def test_messages_of_an_earlier_broker_life_are_sent_again(database: Database) -> None:
    scan(database, found_files(8))
    sent = send_all(database)
    assert dispatch.return_lost_epochs(database, "epoch") == 0
    assert dispatch.return_lost_epochs(database, "another epoch") == len(sent)
    assert send_all(database) == sent


def test_messages_sent_long_ago_and_not_claimed_are_sent_again(database: Database) -> None:
    scan(database, found_files(8))
    sent = send_all(database)
    assert dispatch.return_overdue(database, MODEL.queue, 20.0) == 0
    with database.write() as connection:
        connection.execute(update(batches).values(sent_at=Now() - 21))
    assert dispatch.return_overdue(database, "another queue", 20.0) == 0
    assert dispatch.return_overdue(database, MODEL.queue, 20.0) == len(sent)


def test_a_cancelled_run_stores_nothing_more_and_resumes_where_it_was(database: Database) -> None:
    run = scan(database, found_files(8))
    assert finish(database, claim_next(database))
    held = claim_next(database)
    assert ledger.cancel(database, run) == 1
    assert not finish(database, held)
    assert run_progress(database, run).state is RunState.CANCELLED
    assert send_all(database) == []
    assert ledger.resume(database, run) == 1
    assert finish(database, claim_next(database))
    assert processed(database) == 8


def test_retry_forgets_failures_and_only_them(database: Database) -> None:
    run = scan(database, found_files(3, images_each=2), batch_size=6)
    held = claim_next(database)
    work = ledger.work_of(database, held)
    done: Sequence[ImageOutcome] = [
        ImageOutcome(item.image_id, reason=Reason.TRUNCATED) if n == 2 else scored(item.image_id)
        for n, item in enumerate(work)
    ]
    assert ledger.finish(database, held, done)
    statuses = {row.study: row.status for row in results(database, ResultFilter(run=run))}
    assert statuses == {"study0000": "scored", "study0001": "incomplete", "study0002": "scored"}
    assert ledger.retry(database, run) == 1
    again = claim_next(database)
    assert [item.image_id for item in ledger.work_of(database, again)] == [work[2].image_id]
    assert finish(database, again)
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}
    assert run_summary(database, run).failed == 0


def test_two_images_of_one_study_stored_at_once_by_two_workers_both_count(database: Database) -> None:
    run = scan(database, found_files(30, images_each=2), batch_size=1)
    held = [claim_next(database) for _ in range(60)]
    start = threading.Barrier(2)

    def work(mine: Sequence[Claim]) -> None:
        start.wait()
        for one in mine:
            assert finish(database, one, 0.25)

    threads = [threading.Thread(target=work, args=(held[n::2],)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = list(results(database, ResultFilter(run=run)))
    assert [(row.images, row.status, row.score) for row in rows] == [(2, "scored", 0.25)] * 30


def test_copies_of_a_file_share_one_prediction(database: Database) -> None:
    run = scan(database, found_files(4))
    held = claim_next(database)
    first, *others = ledger.work_of(database, held)
    done = [scored(first.image_id, content=1)]
    done += [ImageOutcome(item.image_id, digest=done[0].digest) for item in others]
    assert ledger.finish(database, held, done)
    summary = run_summary(database, run)
    assert (summary.processed, summary.inferred) == (4, 1)


def test_a_study_of_a_body_part_the_model_does_not_know_is_out_of_scope_and_never_flagged(database: Database) -> None:
    run = scan(database, [found_file("chest", "image1.png", body_part="PELVIS")])
    assert finish(database, claim_next(database), 0.99)
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.flagged, row.label) == ("out of scope", False, None)


def test_an_image_of_a_body_part_the_model_does_not_know_has_no_say_in_its_study(database: Database) -> None:
    found = [found_file("study", "a.png"), found_file("study", "b.png", body_part="CHEST")]
    run = scan(database, found)
    held = claim_next(database)
    first, second = ledger.work_of(database, held)
    assert ledger.finish(database, held, [scored(first.image_id, 0.1), scored(second.image_id, 0.99)])
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.score, row.label, row.images) == ("scored", 0.1, "negative", 2)
    (study,) = find_study(database, "study", run)
    assert [(image.in_scope, image.label) for image in study.images] == [(True, "negative"), (False, None)]


@pytest.mark.parametrize(("failing", "status"), [("HUMERUS", "not assessable"), ("CHEST", "scored")])
def test_a_failed_image_leaves_a_study_unassessed_only_where_the_model_knows_its_body_part(
    database: Database, failing: str, status: str
) -> None:
    run = scan(database, [found_file("study", f"{part}.png", body_part=part) for part in ("HUMERUS", "CHEST")])
    held = claim_next(database)
    outcomes = [
        ImageOutcome(item.image_id, reason=Reason.CORRUPT) if failing in item.path else scored(item.image_id)
        for item in ledger.work_of(database, held)
    ]
    assert ledger.finish(database, held, outcomes)
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.failed) == (status, 1)


def test_what_is_sent_is_shared_out_among_runs_and_what_was_handed_back_waits_its_turn(database: Database) -> None:
    first = scan(database, found_files(40), archive="first")
    second = scan(database, found_files(40), archive="second")
    sent = dispatch.take_for_sending(database, MODEL.queue, 4, "epoch")
    assert [run for run, _ in sent] == [first, first, second, second]
    held = ledger.claim(database, *sent[0], "w")
    assert held is not None
    ledger.hand_back(database, held)
    later = dispatch.take_for_sending(database, MODEL.queue, 4, "epoch")
    assert sent[0] not in later
    assert [run for run, _ in later] == [first, first, second, second]


def test_a_batch_lost_in_a_run_that_was_cancelled_meanwhile_gives_no_new_batches(database: Database) -> None:
    run = scan(database, found_files(40), batch_size=40)
    held = claim_next(database)
    run_out(database, held.batch_id)
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(cancelled_at=Now()))
    assert dispatch.return_expired(database) == 1
    assert states(database) == [(BatchState.CANCELLED, 40, 1)]


@pytest.mark.parametrize(
    ("left", "attempts", "becomes"),
    [
        (0, 1, BatchState.DONE),
        (1, 2, BatchState.PENDING),
        (1, 3, BatchState.QUARANTINED),
        (256, 1, BatchState.PENDING),
        (256, 2, BatchState.SPLIT),
    ],
)
def test_what_becomes_of_a_lost_batch(left: int, attempts: int, becomes: BatchState) -> None:
    assert dispatch.after_loss(left, attempts) is becomes
