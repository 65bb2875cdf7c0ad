"""How a worker claims, infers and stores at the same time, what a stop keeps, and what a lost claim does."""

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select, update

from db import ledger, recovery
from db.heartbeats import Activity, list_heartbeats
from db.ledger import BatchImage
from db.run_queries import run_progress, run_summary
from db.session import Database
from db.tables import batches
from tests.archives import png
from tests.awaiting import await_that
from tests.pipelines import claim_any, put, state, watched_worker
from worker import load_images as loading
from worker.lease_renewal import LeaseRenewer
from worker.load_images import LoadedImage
from worker.pipeline import NOTHING_DONE, BatchWorker
from xray.hours import Hours
from xray.images.preprocessing import Preprocessing
from xray.network.engine import Engine
from xray.vocabulary import BatchState, Precision


def test_a_message_without_a_batch_to_claim_does_nothing(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    assert worker.run() == NOTHING_DONE
    put(root, 1, png(1))
    run = scan(4)
    done = worker.run()
    assert (done.run, done.batch, done.images) == (run, 1, 1)
    before = run_summary(database, run)
    assert worker.run() == NOTHING_DONE
    assert run_summary(database, run) == before
    assert state(database, 1) == (BatchState.DONE, 0)


def test_a_batch_that_another_worker_has_claimed_is_left_alone(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    put(root, 1, png(1))
    scan(4)
    claim = claim_any(database)
    assert worker.run() == NOTHING_DONE
    assert ledger.renew_lease(database, claim)


def test_a_workers_memory_does_not_grow_with_the_number_of_batches(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(1200):
        put(root, number, png(number))
    scan(12)
    memory = []
    for number in range(1, 101):
        assert worker.run().inferred == 12
        if number in (30, 100):
            gc.collect()
            memory.append(psutil.Process().memory_info().rss)
    assert memory[1] - memory[0] < 10_000_000


def test_a_task_goes_on_with_the_next_batches_of_its_queue(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", 600.0)
    for number in range(10):
        put(root, number, png(number))
    run = scan(3)
    summary = worker.run()
    assert (summary.batches, summary.images, summary.inferred) == (4, 10, 10)
    assert run_summary(database, run).state == "done"
    # Further messages find nothing to do.
    assert worker.run() == NOTHING_DONE


def test_the_next_batch_is_claimed_while_the_last_images_of_one_are_inferred(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    small_groups: None,
) -> None:
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", 600.0)
    for number in range(16):
        put(root, number, png(number))
    scan(4)
    claimed: list[int] = []

    def count_claims(call: int) -> None:
        with database.read() as connection:
            states = list(connection.execute(select(batches.c.state)).scalars())
        claimed.append(states.count(BatchState.CLAIMED))

    assert watched_worker(worker, engine, count_claims).run().batches == 4
    assert max(claimed) == 2


def test_what_was_inferred_is_stored_while_the_rest_of_the_batch_is_in_work(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    small_groups: None,
) -> None:
    monkeypatch.setattr("worker.pipeline.STORE_SECONDS", 0.0)
    for number in range(12):
        put(root, number, png(number))
    run = scan(12)
    processed: list[int] = []
    summary = watched_worker(worker, engine, lambda call: processed.append(run_progress(database, run).processed)).run()
    assert summary.images == 12
    # At the fifth of six groups of two, at least the first one is stored.
    assert processed[0] == 0
    assert processed[4] >= 2
    assert processed == sorted(processed)


def test_a_worker_that_is_told_to_stop_keeps_what_was_inferred_and_releases_the_rest(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    small_groups: None,
) -> None:
    for number in range(20):
        put(root, number, png(number))
    run = scan(20)
    stop = threading.Event()
    stopped = watched_worker(worker, engine, lambda call: stop.set() if call == 3 else None, stop.is_set)
    summary = stopped.run()
    # Three groups of two, and those that were loaded when the stop came.
    assert 6 <= summary.images < 20
    assert run_summary(database, run).processed == summary.images
    assert state(database, 1) == (BatchState.PENDING, 0)
    assert stopped.run() == NOTHING_DONE
    assert worker.run().images == 20 - summary.images
    assert run_summary(database, run).state == "done"


def test_a_worker_that_loses_its_claim_stores_nothing_more_and_goes_on_with_its_other_batch(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    small_groups: None,
) -> None:
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", 600.0)
    for number in range(8):
        put(root, number, png(number))
    run = scan(4)

    def take_away(call: int) -> None:
        if call == 1:
            with database.write() as connection:
                connection.execute(update(batches).where(batches.c.id == 1).values(token=batches.c.token + 1))

    summary = watched_worker(worker, engine, take_away).run()
    assert summary.batches == 1
    assert summary.images == 4
    assert run_summary(database, run).processed == 4
    assert state(database, 1)[0] == BatchState.CLAIMED
    assert state(database, 2)[0] == BatchState.DONE


def test_a_worker_claims_as_many_images_as_it_screens_in_some_seconds(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(30):
        put(root, number, png(number))
    scan(1000)
    worker.rates[Precision.FP32] = 4.0
    assert worker.run().images == 12
    with database.read() as connection:
        waiting = connection.execute(select(batches.c.images).where(batches.c.state == BatchState.PENDING)).scalars()
        assert list(waiting) == [18]


def test_files_that_fail_fast_do_not_make_a_worker_take_more_than_it_can_infer(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(60):
        put(root, number, png(number)[:-40])
    scan(60)
    worker.rates[Precision.FP32] = 20.0
    assert worker.run().failures == 60
    assert worker.rates[Precision.FP32] == 20.0


def test_what_was_inferred_is_stored_while_the_next_image_takes_long_to_decode(
    worker: BatchWorker,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    small_groups: None,
) -> None:
    monkeypatch.setattr("worker.pipeline.STORE_SECONDS", 0.05)
    for number in range(6):
        put(root, number, png(number))
    run = scan(6)
    decode, others_are_stored = loading.load_image, threading.Event()

    def slow_at_the_end(root: Path, image: BatchImage, preprocessing: Preprocessing) -> LoadedImage:
        if "patient00005" in image.path:
            assert others_are_stored.wait(60), "the others were never stored"
        return decode(root, image, preprocessing)

    def watch() -> None:
        await_that(lambda: run_progress(database, run).processed >= 4, 30, "four images are stored", patience=1)
        others_are_stored.set()

    monkeypatch.setattr("worker.pipeline.load_image", slow_at_the_end)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        assert worker.run().images == 6
        watching.result()


def test_an_unexpected_error_leaves_no_lease_that_is_renewed_for_ever(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(root, 1, png(1))
    scan(1)
    renewer = LeaseRenewer(database, "test:1", "queue", "fp32", parent=os.getppid())
    failing = BatchWorker(
        database, worker.settings, worker.package, [Precision.FP32], lambda precision: engine, renewer, "test:1"
    )

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("worker.pipeline.ClaimedBatch", fail)
    with pytest.raises(ValueError, match="a bug"):
        failing.run()
    with database.write() as connection:
        connection.execute(update(batches).values(lease_expires_at=0.0))
    renewer.start()
    try:
        renewer.activity = Activity.LOADING
        await_that(
            lambda: any(beat.activity == Activity.LOADING for beat in list_heartbeats(database)), 20, "a renewal"
        )
    finally:
        renewer.stop()
    assert recovery.recover_expired(database) == 1


def test_a_batch_on_which_a_worker_was_lost_is_screened_alone(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    monkeypatch: pytest.MonkeyPatch,
    small_groups: None,
) -> None:
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", 600.0)
    for number in range(8):
        put(root, number, png(number))
    scan(4)
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.id == 1).values(attempts=1))
    held: list[set[int]] = []

    def note(call: int) -> None:
        with database.read() as connection:
            claimed = select(batches.c.id).where(batches.c.state == BatchState.CLAIMED)
            held.append(set(connection.execute(claimed).scalars()))

    assert watched_worker(worker, engine, note).run().batches == 1
    assert held == [{1}] * len(held)
    assert worker.run().batches == 1


def test_outside_its_hours_a_worker_claims_nothing_and_within_them_it_goes_on(
    worker: BatchWorker, engine: Engine, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(4):
        put(root, number, png(number))
    run = scan(2)
    now = datetime.now()
    opens = (now + timedelta(minutes=2)).replace(second=0, microsecond=0)
    closed = replace(worker.settings, hours=Hours(opens.time(), (opens + timedelta(hours=1)).time()))
    stop = threading.Event()
    waiting = BatchWorker(
        database,
        closed,
        worker.package,
        [Precision.FP32],
        lambda precision: engine,
        worker.lease_renewer,
        worker.name,
        stop.is_set,
    )
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(waiting.run)
        await_that(lambda: worker.lease_renewer.activity is Activity.OUTSIDE_HOURS, 20, "it waits for its hours")
        assert run_progress(database, run).processed == 0
        assert not task.done()
        stop.set()
        assert task.result(60) == NOTHING_DONE
    opened = replace(worker.settings, hours=Hours((now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time()))
    waiting.settings = opened
    stop.clear()
    assert waiting.run().images == 2
