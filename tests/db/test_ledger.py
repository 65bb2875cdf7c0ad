"""The ledger, on SQLite and on PostgreSQL."""

import random
import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select, update

from db import dispatch, ledger
from db.failures import list_failures
from db.ledger import Claim
from db.queries import ResultFilter, find_study, results
from db.run_queries import RunState, run_progress, run_summary
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, images, outcomes, predictions, runs
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, found_file, found_files, image_ids, scan, scored, send_all
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import OPEN_STATES, BatchState, Reason


def claim_next(database: Database, worker: str = "w") -> Claim:
    """Send one batch and claim it."""
    sent = send_all(database, 1)
    claim = ledger.claim(database, *sent[0], worker)
    assert claim is not None
    return claim


def finish(database: Database, claim: Claim, probability: float = 0.7) -> bool:
    done = [scored(image.image_id, probability) for image in ledger.unprocessed_images(database, claim)]
    return ledger.finish(database, claim, done)


def expire(database: Database, batch_id: int) -> None:
    """Let the lease of a batch expire."""
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(lease_expires_at=Now() - 1))


def states(database: Database) -> list[tuple[str, int, int]]:
    with database.read() as connection:
        rows = connection.execute(select(batches.c.state, batches.c.images, batches.c.attempts).order_by(batches.c.id))
        return [tuple(row) for row in rows]


def outcome_count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(outcomes)).scalar_one()


def ids_of(database: Database, claim: Claim | None) -> list[int]:
    assert claim is not None
    return [image.image_id for image in ledger.unprocessed_images(database, claim)]


def times_covered(database: Database, run: int) -> set[int]:
    """Return how many open batches cover an unprocessed image of a run: each number that occurs."""
    covers = (batches.c.run_id == run) & batches.c.state.in_(OPEN_STATES)
    covers &= images.c.id.between(batches.c.first_image_id, batches.c.last_image_id)
    processed = select(outcomes.c.image_id).where(outcomes.c.run_id == run)
    query = (
        select(func.count(batches.c.id))
        .select_from(images)
        .outerjoin(batches, covers)
        .where(images.c.current, images.c.id.not_in(processed))
        .group_by(images.c.id)
    )
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def test_a_run_is_done_when_every_batch_is_finished(database: Database) -> None:
    run = scan(database, found_files(10))
    assert [row[1] for row in states(database)] == [4, 4, 2]
    while ledger.count_open_batches(database, run):
        assert run_progress(database, run).state is RunState.RUNNING
        assert finish(database, claim_next(database))
    assert run_progress(database, run).state is RunState.DONE
    assert outcome_count(database) == 10


def test_a_claimed_batch_cannot_be_claimed_again(database: Database) -> None:
    scan(database, found_files(4))
    (sent,) = send_all(database)
    assert ledger.claim(database, *sent, "first") is not None
    assert ledger.claim(database, *sent, "second") is None


def test_if_several_workers_claim_a_batch_at_the_same_time_exactly_one_gets_it(database: Database) -> None:
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
    assert sum(claim is not None for claim in won) == 1


def test_a_worker_whose_lease_has_expired_cannot_store(database: Database) -> None:
    scan(database, found_files(4))
    zombie = claim_next(database, "zombie")
    work = ledger.unprocessed_images(database, zombie)
    expire(database, zombie.batch_id)
    assert dispatch.recover_expired(database) == 1
    successor = claim_next(database, "successor")
    assert successor.token > zombie.token
    assert not ledger.renew_lease(database, zombie)
    assert not ledger.finish(database, zombie, [scored(image.image_id, 0.1) for image in work])
    assert outcome_count(database) == 0
    assert finish(database, successor, 0.9)
    with database.read() as connection:
        assert set(connection.execute(select(predictions.c.probability)).scalars()) == {0.9}


def test_a_batch_whose_lease_is_renewed_in_time_is_not_recovered(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    expire(database, claim.batch_id)
    assert ledger.renew_lease(database, claim)
    assert dispatch.recover_expired(database) == 0


def test_a_lease_runs_on_the_databases_clock(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    with database.read() as connection:
        left = connection.execute(
            select(batches.c.lease_expires_at - Now()).where(batches.c.id == claim.batch_id)
        ).scalar_one()
    assert 25.0 < left <= 30.0


def test_releasing_a_batch_in_an_outage_does_not_count_as_an_attempt(database: Database) -> None:
    scan(database, found_files(4))
    for _ in range(MAX_ATTEMPTS + 1):
        assert ledger.release_claim(database, claim_next(database))
    assert states(database) == [(BatchState.PENDING, 4, 0)]


def test_workers_stopped_on_purpose_release_their_batches_and_store_nothing_more(database: Database) -> None:
    scan(database, found_files(8))
    claim = claim_next(database)
    assert ledger.release_claims(database) == 1
    assert states(database) == [(BatchState.PENDING, 4, 0), (BatchState.PENDING, 4, 0)]
    assert not finish(database, claim)


def test_a_worker_that_shuts_down_releases_its_own_batches_and_no_others(database: Database) -> None:
    scan(database, found_files(12))
    first, second, third = send_all(database)
    for sent, worker in ((first, "gpu1:7"), (second, "gpu1:8"), (third, "gpu10:7")):
        assert ledger.claim(database, *sent, worker) is not None
    assert ledger.release_claims(database, "gpu1") == 2
    assert ledger.claim(database, *third, "other:1") is None


def test_a_batch_lost_twice_is_split_and_its_parts_cover_it(database: Database) -> None:
    scan(database, found_files(40), batch_size=40)
    for _ in range(dispatch.SPLIT_AFTER):
        claim = claim_next(database)
        expire(database, claim.batch_id)
        dispatch.recover_expired(database)
    parent, *parts = states(database)
    assert parent[0] == BatchState.SPLIT
    assert sum(part[1] for part in parts) == 40
    assert 1 < len(parts) <= dispatch.SPLIT_INTO


def test_an_image_that_kills_every_worker_is_quarantined_and_its_neighbours_are_scored(database: Database) -> None:
    run = scan(database, found_files(20), batch_size=20)
    deadly = image_ids(database)[7]
    while ledger.count_open_batches(database, run):
        claim = claim_next(database)
        if deadly in {image.image_id for image in ledger.unprocessed_images(database, claim)}:
            expire(database, claim.batch_id)
            dispatch.recover_expired(database)
        else:
            assert finish(database, claim)
    (failed,) = list_failures(database, run)
    assert (failed.reason, failed.attempts) == (Reason.QUARANTINED, MAX_ATTEMPTS)
    assert outcome_count(database) == 20
    assert run_progress(database, run).state is RunState.DONE


def test_a_worker_takes_no_more_images_than_it_asks_for_and_the_others_wait_in_a_new_batch(database: Database) -> None:
    run = scan(database, found_files(10), batch_size=10)
    every = image_ids(database)
    (sent,) = send_all(database)
    first = ledger.claim(database, *sent, "w", images=3)
    assert ids_of(database, first) == every[:3]
    assert states(database) == [(BatchState.CLAIMED, 3, 0), (BatchState.PENDING, 7, 0)]
    second = ledger.claim(database, *send_all(database)[0], "w", images=7)
    assert ids_of(database, second) == every[3:]
    assert first is not None
    assert second is not None
    assert finish(database, first)
    assert finish(database, second)
    assert run_progress(database, run).state is RunState.DONE


def test_a_batch_is_shrunk_to_unprocessed_images_and_keeps_its_parent(database: Database) -> None:
    scan(database, found_files(40), batch_size=40)
    for _ in range(dispatch.SPLIT_AFTER):
        claim = claim_next(database)
        expire(database, claim.batch_id)
        dispatch.recover_expired(database)
    with database.read() as connection:
        parent, part = connection.execute(
            select(batches.c.parent_id, batches.c.id).where(batches.c.parent_id.is_not(None)).limit(1)
        ).one()
    claim_of_part = ledger.claim(database, claim.run_id, part, "w")
    assert claim_of_part is not None
    first, *others = ids_of(database, claim_of_part)
    assert ledger.store(database, claim_of_part, [scored(first)])
    assert ledger.release_claim(database, claim_of_part)
    assert ids_of(database, ledger.claim(database, claim.run_id, part, "w", images=1)) == others[:1]
    with database.read() as connection:
        rest = connection.execute(select(batches.c.parent_id, batches.c.images).order_by(batches.c.id.desc())).first()
    assert rest == (parent, len(others) - 1)


def test_a_batch_that_was_lost_with_a_worker_is_claimed_whole(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    expire(database, claim.batch_id)
    dispatch.recover_expired(database)
    assert ledger.claim_next(database, MODEL.queue, "w") is None, "it is left to its message"
    assert len(ids_of(database, ledger.claim(database, claim.run_id, claim.batch_id, "w", images=1))) == 4


def test_a_worker_claims_its_next_batch_without_a_message_and_the_message_then_does_nothing(
    database: Database,
) -> None:
    scan(database, found_files(8))
    first, second = send_all(database)
    claim = ledger.claim_next(database, MODEL.queue, "w")
    assert claim is not None
    assert (claim.run_id, claim.batch_id) == first
    assert ledger.claim(database, *first, "other") is None
    assert ledger.claim_next(database, "another queue", "w") is None
    other = ledger.claim_next(database, MODEL.queue, "w")
    assert other is not None
    assert (other.run_id, other.batch_id) == second
    assert ledger.claim_next(database, MODEL.queue, "w") is None


def test_batches_released_in_an_outage_are_claimed_after_those_of_other_runs(database: Database) -> None:
    unavailable = scan(database, found_files(8), archive="unavailable")
    available = scan(database, found_files(8), archive="available")
    claim = ledger.claim_next(database, MODEL.queue, "w")
    assert claim is not None
    ledger.release_claim(database, claim)
    order = [ledger.claim_next(database, MODEL.queue, "w") for _ in range(4)]
    assert [one and one.run_id for one in order] == [unavailable, available, available, unavailable]


def test_outcomes_stored_before_a_batch_is_finished_count_at_once_and_outlive_its_worker(database: Database) -> None:
    run = scan(database, found_files(4))
    claim = claim_next(database)
    first, *others = ids_of(database, claim)
    assert ledger.store(database, claim, [scored(first)])
    assert run_progress(database, run).processed == 1
    assert not any(row.flagged for row in results(database, ResultFilter(run=run)) if row.status == "pending")
    expire(database, claim.batch_id)
    dispatch.recover_expired(database)
    assert not ledger.store(database, claim, [scored(others[0])])
    again = claim_next(database)
    assert ids_of(database, again) == others
    assert finish(database, again)
    assert outcome_count(database) == 4


def test_storing_renews_the_lease_and_may_be_repeated(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    done = [scored(image_id) for image_id in ids_of(database, claim)]
    expire(database, claim.batch_id)
    for _ in range(2):
        assert ledger.store(database, claim, done[:2])
    assert dispatch.recover_expired(database) == 0
    assert ledger.finish(database, claim, done)
    assert outcome_count(database) == 4


def test_a_cancelled_run_keeps_no_batch_that_a_worker_made_at_that_moment(database: Database) -> None:
    run = scan(database, found_files(400), batch_size=400)
    start = threading.Barrier(2)

    def shrink() -> None:
        start.wait()
        while ledger.claim_next(database, MODEL.queue, "w", images=2) is not None:
            pass

    worker = threading.Thread(target=shrink)
    worker.start()
    start.wait()
    ledger.cancel(database, run)
    worker.join()
    assert ledger.count_open_batches(database, run) == 0


def test_workers_that_shrink_lose_and_release_batches_beside_new_scans_and_retries_cover_each_image_once(
    database: Database,
) -> None:
    run = scan(database, found_files(150, images_each=2), batch_size=60)
    working = threading.Event()
    working.set()
    seen: set[int] = set()

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while working.is_set() or ledger.count_open_batches(database, run):
            take = draw.choice([None, 1, 5, 20]) if working.is_set() else None
            if draw.random() < 0.5:
                claim = ledger.claim_next(database, MODEL.queue, f"w{seed}", images=take)
            else:
                sent = send_all(database, 1)
                claim = ledger.claim(database, *sent[0], f"w{seed}", images=take) if sent else None
            if claim is None:
                dispatch.recover_expired(database)
                continue
            ids = ids_of(database, claim)
            done = [
                ImageOutcome(n, reason=Reason.CORRUPT)
                if working.is_set() and draw.random() < 0.5
                else scored(n, content=n % 40)
                for n in ids
            ]
            stored = draw.randint(0, len(done))
            assert ledger.store(database, claim, done[:stored])
            fate = draw.choice(["finish", "finish", "release", "vanish"]) if working.is_set() else "finish"
            if fate == "finish":
                assert ledger.finish(database, claim, done[stored:])
            elif fate == "release":
                assert ledger.release_claim(database, claim)
            else:
                expire(database, claim.batch_id)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        seen |= times_covered(database, run)
        ledger.retry(database, run)
        ledger.resume(database, run)
    working.clear()
    for thread in threads:
        thread.join()
    ledger.retry(database, run)
    while (claim := ledger.claim_next(database, MODEL.queue, "w", images=7)) is not None:
        assert finish(database, claim)
    assert seen == {1}
    progress = run_progress(database, run)
    assert (progress.state, progress.processed, progress.failed) == (RunState.DONE, 300, 0)
    assert kept_counts(database) == recount(database)


def test_no_image_can_have_two_outcomes(database: Database) -> None:
    scan(database, found_files(4))
    first = claim_next(database)
    work = ledger.unprocessed_images(database, first)
    assert ledger.finish(database, first, [scored(image.image_id) for image in work])
    assert ledger.claim(database, first.run_id, first.batch_id, "again") is None
    assert not ledger.finish(database, first, [scored(image.image_id) for image in work])
    assert outcome_count(database) == 4


def test_messages_lost_with_the_brokers_data_are_sent_again(database: Database) -> None:
    scan(database, found_files(8))
    sent = send_all(database)
    assert dispatch.requeue_after_broker_loss(database, "epoch") == 0
    assert dispatch.requeue_after_broker_loss(database, "another epoch") == len(sent)
    assert send_all(database) == sent


def test_messages_sent_long_ago_whose_batches_are_not_claimed_are_sent_again(database: Database) -> None:
    scan(database, found_files(8))
    sent = send_all(database)
    assert dispatch.requeue_unclaimed(database, MODEL.queue, 20.0) == 0
    with database.write() as connection:
        connection.execute(update(batches).values(sent_at=Now() - 21))
    assert dispatch.requeue_unclaimed(database, "another queue", 20.0) == 0
    assert dispatch.requeue_unclaimed(database, MODEL.queue, 20.0) == len(sent)


def test_a_cancelled_run_stores_nothing_more_and_resumes_where_it_stopped(database: Database) -> None:
    run = scan(database, found_files(8))
    assert finish(database, claim_next(database))
    claim = claim_next(database)
    assert ledger.cancel(database, run) == 1
    assert not finish(database, claim)
    assert run_progress(database, run).state is RunState.CANCELLED
    assert send_all(database) == []
    assert ledger.resume(database, run) == 1
    assert finish(database, claim_next(database))
    assert outcome_count(database) == 8


def test_retry_processes_failed_images_again_and_no_others(database: Database) -> None:
    run = scan(database, found_files(3, images_each=2), batch_size=6)
    claim = claim_next(database)
    work = ledger.unprocessed_images(database, claim)
    done: Sequence[ImageOutcome] = [
        ImageOutcome(image.image_id, reason=Reason.TRUNCATED) if n == 2 else scored(image.image_id)
        for n, image in enumerate(work)
    ]
    assert ledger.finish(database, claim, done)
    statuses = {row.study: row.status for row in results(database, ResultFilter(run=run))}
    assert statuses == {"study0000": "scored", "study0001": "incomplete", "study0002": "scored"}
    assert ledger.retry(database, run) == 1
    again = claim_next(database)
    assert [image.image_id for image in ledger.unprocessed_images(database, again)] == [work[2].image_id]
    assert finish(database, again)
    assert {row.status for row in results(database, ResultFilter(run=run))} == {"scored"}
    assert run_summary(database, run).failed == 0


def test_two_images_of_one_study_stored_at_the_same_time_by_two_workers_both_count(database: Database) -> None:
    run = scan(database, found_files(30, images_each=2), batch_size=1)
    claims = [claim_next(database) for _ in range(60)]
    start = threading.Barrier(2)

    def work(mine: Sequence[Claim]) -> None:
        start.wait()
        for one in mine:
            assert finish(database, one, 0.25)

    threads = [threading.Thread(target=work, args=(claims[n::2],)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = list(results(database, ResultFilter(run=run)))
    assert [(row.images, row.status, row.score) for row in rows] == [(2, "scored", 0.25)] * 30


def test_copies_of_a_file_share_one_prediction(database: Database) -> None:
    run = scan(database, found_files(4))
    claim = claim_next(database)
    first, *others = ledger.unprocessed_images(database, claim)
    done = [scored(first.image_id, content=1)]
    done += [ImageOutcome(image.image_id, digest=done[0].digest) for image in others]
    assert ledger.finish(database, claim, done)
    summary = run_summary(database, run)
    assert (summary.processed, summary.inferred) == (4, 1)


def test_a_study_of_a_body_part_the_model_does_not_know_is_out_of_scope_and_never_flagged(database: Database) -> None:
    run = scan(database, [found_file("chest", "image1.png", body_part="PELVIS")])
    assert finish(database, claim_next(database), 0.99)
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.flagged, row.label) == ("out of scope", False, None)


def test_an_image_of_a_body_part_the_model_does_not_know_does_not_count_in_its_study(database: Database) -> None:
    found = [found_file("study", "a.png"), found_file("study", "b.png", body_part="CHEST")]
    run = scan(database, found)
    claim = claim_next(database)
    first, second = ledger.unprocessed_images(database, claim)
    assert ledger.finish(database, claim, [scored(first.image_id, 0.1), scored(second.image_id, 0.99)])
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.score, row.label, row.images) == ("scored", 0.1, "negative", 2)
    (study,) = find_study(database, "study", run)
    assert [(image.state, image.label) for image in study.images] == [("scored", "negative"), ("out of scope", None)]


@pytest.mark.parametrize(("failing", "status"), [("HUMERUS", "not assessable"), ("CHEST", "scored")])
def test_a_failed_image_leaves_a_study_unassessed_only_where_the_model_knows_its_body_part(
    database: Database, failing: str, status: str
) -> None:
    run = scan(database, [found_file("study", f"{part}.png", body_part=part) for part in ("HUMERUS", "CHEST")])
    claim = claim_next(database)
    outcomes = [
        ImageOutcome(image.image_id, reason=Reason.CORRUPT) if failing in image.path else scored(image.image_id)
        for image in ledger.unprocessed_images(database, claim)
    ]
    assert ledger.finish(database, claim, outcomes)
    (row,) = results(database, ResultFilter(run=run))
    assert (row.status, row.failed) == (status, 1)


def test_sending_takes_an_equal_share_of_each_run_and_released_batches_come_last(database: Database) -> None:
    first = scan(database, found_files(40), archive="first")
    second = scan(database, found_files(40), archive="second")
    sent = dispatch.mark_sent(database, MODEL.queue, 4, "epoch")
    assert [run for run, _ in sent] == [first, first, second, second]
    claim = ledger.claim(database, *sent[0], "w")
    assert claim is not None
    ledger.release_claim(database, claim)
    later = dispatch.mark_sent(database, MODEL.queue, 4, "epoch")
    assert sent[0] not in later
    assert [run for run, _ in later] == [first, first, second, second]


def test_a_batch_lost_in_a_run_that_was_cancelled_meanwhile_is_not_split(database: Database) -> None:
    run = scan(database, found_files(40), batch_size=40)
    claim = claim_next(database)
    expire(database, claim.batch_id)
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(cancelled_at=Now()))
    assert dispatch.recover_expired(database) == 1
    assert states(database) == [(BatchState.CANCELLED, 40, 1)]


@pytest.mark.parametrize(
    ("left", "attempts", "state"),
    [
        (0, 1, BatchState.DONE),
        (1, 2, BatchState.PENDING),
        (1, 3, BatchState.QUARANTINED),
        (256, 1, BatchState.PENDING),
        (256, 2, BatchState.SPLIT),
    ],
)
def test_a_lost_batch_is_requeued_split_or_quarantined(left: int, attempts: int, state: BatchState) -> None:
    assert dispatch.state_after_worker_loss(left, attempts) is state
