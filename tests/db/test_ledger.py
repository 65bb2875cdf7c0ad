"""The ledger, on SQLite and on PostgreSQL."""

import random
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from db import ledger, recovery
from db.failures import list_failures
from db.ledger import Claim, QueueWork
from db.migrate import upgrade
from db.queries import ResultFilter, find_study, results
from db.run_queries import RunState, run_progress, run_summary
from db.runs import set_priority
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, images, outcomes, predictions, runs
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, claim_next, found_file, found_files, image_ids, scan, scored
from xray.message import MAX_ATTEMPTS
from xray.vocabulary import OPEN_STATES, BatchState, Reason


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
    claim_next(database, "first")
    assert ledger.claim_next(database, MODEL.queue, "second") is None


def test_if_several_workers_claim_a_batch_at_the_same_time_exactly_one_gets_it(database: Database) -> None:
    scan(database, found_files(4))
    start = threading.Barrier(8)
    won: list[Claim | None] = []

    def race(name: str) -> None:
        start.wait()
        won.append(ledger.claim_next(database, MODEL.queue, name))

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
    assert recovery.recover_expired(database) == 1
    successor = claim_next(database, "successor")
    assert successor.token > zombie.token
    assert not ledger.renew_lease(database, zombie)
    assert not ledger.finish(database, zombie, [scored(image.image_id, 0.1) for image in work])
    assert outcome_count(database) == 0
    assert finish(database, successor, 0.9)
    with database.read() as connection:
        assert set(connection.execute(select(predictions.c.probability)).scalars()) == {0.9}


def test_a_batch_that_is_forgotten_while_others_are_recovered_is_left_alone(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path / 'test.db'}")) as database:
        upgrade(database)
        scan(database, found_files(2), batch_size=1)
        for number in (1, 2):
            assert claim_next(database) is not None
            expire(database, number)
        with database.write() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER forget AFTER UPDATE ON batches WHEN NEW.id = 1 BEGIN "
                "DELETE FROM batches WHERE id = 2; END"
            )
        assert recovery.recover_expired(database) == 1
        assert states(database) == [(BatchState.PENDING, 1, 1)]


def test_a_batch_whose_lease_is_renewed_in_time_is_not_recovered(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    expire(database, claim.batch_id)
    assert ledger.renew_lease(database, claim)
    assert recovery.recover_expired(database) == 0


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
    claims = [claim_next(database, worker) for worker in ("gpu1:7", "gpu1:8", "gpu10:7")]
    assert ledger.release_claims(database, "gpu1") == 2
    assert [ledger.renew_lease(database, claim) for claim in claims] == [False, False, True]


def test_a_batch_lost_twice_is_split_and_its_parts_cover_it(database: Database) -> None:
    scan(database, found_files(40), batch_size=40)
    for _ in range(recovery.SPLIT_AFTER):
        claim = claim_next(database)
        expire(database, claim.batch_id)
        recovery.recover_expired(database)
    parent, *parts = states(database)
    assert parent[0] == BatchState.SPLIT
    assert sum(part[1] for part in parts) == 40
    assert 1 < len(parts) <= recovery.SPLIT_INTO


def test_an_image_that_kills_every_worker_is_quarantined_and_its_neighbours_are_scored(database: Database) -> None:
    run = scan(database, found_files(20), batch_size=20)
    deadly = image_ids(database)[7]
    while ledger.count_open_batches(database, run):
        claim = claim_next(database)
        if deadly in {image.image_id for image in ledger.unprocessed_images(database, claim)}:
            expire(database, claim.batch_id)
            recovery.recover_expired(database)
        else:
            assert finish(database, claim)
    (failed,) = list_failures(database, run)
    assert (failed.reason, failed.attempts) == (Reason.QUARANTINED, MAX_ATTEMPTS)
    assert outcome_count(database) == 20
    assert run_progress(database, run).state is RunState.DONE


def test_a_worker_takes_no_more_images_than_it_asks_for_and_the_others_wait_in_a_new_batch(database: Database) -> None:
    run = scan(database, found_files(10), batch_size=10)
    every = image_ids(database)
    first = claim_next(database, images=3)
    assert ids_of(database, first) == every[:3]
    assert states(database) == [(BatchState.CLAIMED, 3, 0), (BatchState.PENDING, 7, 0)]
    second = claim_next(database, images=7)
    assert ids_of(database, second) == every[3:]
    assert finish(database, first)
    assert finish(database, second)
    assert run_progress(database, run).state is RunState.DONE


def test_a_batch_is_shrunk_to_unprocessed_images_and_keeps_its_parent(database: Database) -> None:
    scan(database, found_files(40), batch_size=40)
    for _ in range(recovery.SPLIT_AFTER):
        claim = claim_next(database)
        expire(database, claim.batch_id)
        recovery.recover_expired(database)
    part = claim_next(database)
    first, *others = ids_of(database, part)
    assert ledger.store(database, part, [scored(first)])
    assert ledger.release_claims(database) == 1
    assert ids_of(database, claim_next(database, images=1)) == others[:1]
    with database.read() as connection:
        rest = connection.execute(select(batches.c.parent_id, batches.c.images).order_by(batches.c.id.desc())).first()
    assert rest == (claim.batch_id, len(others) - 1)


def test_a_batch_that_was_lost_with_a_worker_is_claimed_whole_and_only_by_a_worker_that_has_no_other(
    database: Database,
) -> None:
    run = scan(database, found_files(4))
    claim = claim_next(database)
    expire(database, claim.batch_id)
    recovery.recover_expired(database)
    assert ledger.claim_more(database, run, "w", images=4) is None
    assert len(ids_of(database, claim_next(database, images=1))) == 4


def test_a_worker_gets_batches_of_its_own_queues_only(database: Database) -> None:
    run = scan(database, found_files(4))
    assert ledger.next_queue(database, ["another queue"]) is None
    assert ledger.claim_next(database, "another queue", "w") is None
    assert ledger.next_queue(database, ["another queue", MODEL.queue]) == MODEL.queue
    assert claim_next(database).run_id == run
    assert ledger.next_queue(database, [MODEL.queue]) is None


def test_the_oldest_run_of_the_highest_priority_comes_first(database: Database) -> None:
    first, second, urgent = (scan(database, found_files(8), archive=name) for name in ("first", "second", "urgent"))
    set_priority(database, urgent, 5)
    assert [claim_next(database).run_id for _ in range(6)] == [urgent, urgent, first, first, second, second]


def test_batches_released_in_an_outage_come_last_in_their_run_and_a_run_whose_archive_is_away_after_the_others(
    database: Database,
) -> None:
    away, other = (scan(database, found_files(12), archive=name) for name in ("away", "other"))
    released = claim_next(database)
    ledger.release_claim(database, released)
    claims = [ledger.claim_next(database, MODEL.queue, "w", last=[away]) for _ in range(6)]
    assert [claim and claim.run_id for claim in claims] == [other, other, other, away, away, away]
    assert claims[-1] is not None
    assert claims[-1].batch_id == released.batch_id


def test_queues_with_work_count_the_batches_that_wait_and_name_the_run_that_comes_next(database: Database) -> None:
    scan(database, found_files(12), archive="first")
    second = scan(database, found_files(12), archive="second")
    set_priority(database, second, 1)
    claim_next(database)
    assert ledger.queues_with_work(database, 64) == [QueueWork(MODEL.queue, second, 5)]
    assert ledger.queues_with_work(database, 3) == [QueueWork(MODEL.queue, second, 3)]
    for _ in range(5):
        claim_next(database)
    assert ledger.queues_with_work(database, 64) == []


@pytest.mark.parametrize("position", [0, 3, 7])
def test_an_image_that_cannot_be_loaded_is_tried_alone_and_its_neighbours_are_screened(
    database: Database, position: int
) -> None:
    run = scan(database, found_files(8), batch_size=8)
    bad = image_ids(database)[position]
    claim = claim_next(database)
    assert recovery.set_apart(database, claim, bad, "there is not enough memory for it")
    assert not finish(database, claim)
    tried = []
    while (again := ledger.claim_next(database, MODEL.queue, "w")) is not None:
        ids = ids_of(database, again)
        if bad in ids:
            tried.append(ids)
            assert recovery.set_apart(database, again, bad, "there is not enough memory for it")
        else:
            assert finish(database, again)
    assert tried == [[bad]] * (MAX_ATTEMPTS - 1)
    (failed,) = list_failures(database, run)
    assert (failed.reason, failed.attempts) == (Reason.QUARANTINED, MAX_ATTEMPTS)
    assert failed.detail == "there is not enough memory for it, 3 times"
    assert outcome_count(database) == 8
    assert run_progress(database, run).state is RunState.DONE
    assert kept_counts(database) == recount(database)


def test_a_worker_that_has_lost_its_claim_sets_no_image_apart(database: Database) -> None:
    scan(database, found_files(4))
    claim = claim_next(database)
    expire(database, claim.batch_id)
    recovery.recover_expired(database)
    assert not recovery.set_apart(database, claim, image_ids(database)[0], "it takes too long")
    assert states(database) == [(BatchState.PENDING, 4, 1)]


def test_outcomes_stored_before_a_batch_is_finished_count_at_once_and_outlive_its_worker(database: Database) -> None:
    run = scan(database, found_files(4))
    claim = claim_next(database)
    first, *others = ids_of(database, claim)
    assert ledger.store(database, claim, [scored(first)])
    assert run_progress(database, run).processed == 1
    assert not any(row.flagged for row in results(database, ResultFilter(run=run)) if row.status == "pending")
    expire(database, claim.batch_id)
    recovery.recover_expired(database)
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
    assert recovery.recover_expired(database) == 0
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
            if take is None or draw.random() < 0.5:
                claim = ledger.claim_next(database, MODEL.queue, f"w{seed}", images=take)
            else:
                claim = ledger.claim_more(database, run, f"w{seed}", images=take)
            if claim is None:
                recovery.recover_expired(database)
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
            fate = draw.choice(["finish", "finish", "release", "vanish", "set apart"]) if working.is_set() else "finish"
            if fate == "finish":
                assert ledger.finish(database, claim, done[stored:])
            elif fate == "release":
                assert ledger.release_claim(database, claim)
            elif fate == "set apart":
                assert recovery.set_apart(database, claim, draw.choice(ids or [0]), "it takes too long")
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
    assert ledger.claim_next(database, MODEL.queue, "again") is None
    assert not ledger.finish(database, first, [scored(image.image_id) for image in work])
    assert outcome_count(database) == 4


def test_a_cancelled_run_stores_nothing_more_and_resumes_where_it_stopped(database: Database) -> None:
    run = scan(database, found_files(8))
    assert finish(database, claim_next(database))
    claim = claim_next(database)
    assert ledger.cancel(database, run) == 1
    assert not finish(database, claim)
    assert run_progress(database, run).state is RunState.CANCELLED
    assert ledger.claim_next(database, MODEL.queue, "w") is None
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


def test_a_batch_lost_in_a_run_that_was_cancelled_meanwhile_is_not_split(database: Database) -> None:
    run = scan(database, found_files(40), batch_size=40)
    claim = claim_next(database)
    expire(database, claim.batch_id)
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run).values(cancelled_at=Now()))
    assert recovery.recover_expired(database) == 1
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
    assert recovery.state_after_worker_loss(left, attempts) is state
