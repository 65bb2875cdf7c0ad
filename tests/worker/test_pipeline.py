"""Batches with a real network: which images are scored, which fail, when it is an outage, and what a stop keeps."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from sqlalchemy import select, update

from db import ledger, recovery
from db.failures import list_failures
from db.heartbeats import Activity, list_heartbeats
from db.ledger import BatchImage, Claim
from db.migrate import upgrade
from db.queries import ResultFilter, results
from db.run_queries import run_progress, run_summary
from db.session import Database
from db.tables import batches, outcomes
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import png
from tests.awaiting import await_that
from tests.dicoms import dicom, phantom
from worker import load_images as loading
from worker.lease_renewal import LeaseRenewer
from worker.load_images import LoadedImage
from worker.pipeline import NOTHING_DONE, BatchWorker
from xray.errors import EngineOutage
from xray.hours import Hours
from xray.images.preprocessing import Preprocessing
from xray.network.engine import Engine, Inference, PendingInference
from xray.network.package import ModelPackage
from xray.settings import Settings, read_settings
from xray.vocabulary import BatchState, Precision, Reason, Repair


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    return folder


@pytest.fixture
def lease_renewer(database: Database) -> LeaseRenewer:
    return LeaseRenewer(database, "test:1", "queue", "fp32", parent=1)


@pytest.fixture
def worker(
    database: Database,
    tmp_path: Path,
    root: Path,
    tiny_package: ModelPackage,
    engine: Engine,
    lease_renewer: LeaseRenewer,
    monkeypatch: pytest.MonkeyPatch,
) -> BatchWorker:
    """A worker whose tasks screen one batch each."""
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", -1.0)
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_ARCHIVES": f"clinic={root}"}
    settings: Settings = read_settings(environ)
    return BatchWorker(
        database, settings, tiny_package, [Precision.FP32], lambda precision: engine, lease_renewer, "test:1"
    )


@pytest.fixture
def scan(database: Database, root: Path, tiny_package: ModelPackage) -> Callable[[int], int]:
    """Scan the archive into batches of the given size and return the run."""

    def scan_into_batches(batch_size: int) -> int:
        model = model_version(tiny_package, Precision.FP32)
        return scan_archive(database, "clinic", Source(root), model, batch_size=batch_size).run_id

    return scan_into_batches


def put(root: Path, number: int, data: bytes) -> Path:
    file = root / f"XR_HAND/patient{number:05}/study1_positive/image1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def claim_any(database: Database) -> Claim:
    """Claim the next batch as another worker."""
    queue = ledger.queues_with_work(database, 1)[0].queue
    claim = ledger.claim_next(database, queue, "another")
    assert claim is not None
    return claim


def state(database: Database, batch_id: int) -> tuple[str, int]:
    with database.read() as connection:
        row = connection.execute(select(batches.c.state, batches.c.attempts).where(batches.c.id == batch_id)).one()
    return row[0], row[1]


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


def test_copies_of_a_file_are_inferred_once_within_a_batch_and_across_batches(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(6):
        put(root, number, png(0 if number % 2 else number))
    run = scan(3)
    done = [worker.run() for _ in range(2)]
    assert [summary.images for summary in done] == [3, 3]
    assert sum(summary.inferred for summary in done) == 3
    assert run_summary(database, run).inferred == 3
    copies = {row.score for row in results(database, ResultFilter(run=run)) if int(row.study[-21:-16]) % 2}
    assert len(copies) == 1


def test_what_was_read_otherwise_than_the_header_says_is_kept_with_each_outcome_copies_included(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    contradictory = dicom(phantom(), WindowCenter=127, WindowWidth=255, PresentationLUTShape="INVERSE")
    for number, data in enumerate((contradictory, png(1), contradictory, contradictory)):
        put(root, number, data)
    scan(3)
    assert [worker.run().failures for _ in range(2)] == [0, 0]
    with database.read() as connection:
        kept = connection.execute(select(outcomes.c.detail, outcomes.c.reason).order_by(outcomes.c.image_id)).all()
    repaired = (f"{Repair.WINDOW}; {Repair.CONTRADICTION}", None)
    assert [tuple(row) for row in kept] == [repaired, (None, None), repaired, repaired]


def test_a_problem_that_does_not_occur_again_is_no_longer_reported(
    lease_renewer: LeaseRenewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_renewer.problem = "the archive is away"
    assert lease_renewer.problem == "the archive is away"
    monkeypatch.setattr("worker.lease_renewal.PROBLEM_SECONDS", 0.0)
    assert lease_renewer.problem is None


def test_one_truncated_file_is_a_failure_and_its_neighbours_are_scored(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(5):
        put(root, number, png(number)[:-40] if number == 2 else png(number))
    run = scan(8)
    summary = worker.run()
    assert (summary.images, summary.failures, summary.inferred) == (5, 1, 4)
    # Both numbers are rounded, the seconds to 0.01.
    assert 5 / (summary.seconds + 0.006) - 0.1 < summary.rate < 5 / max(summary.seconds - 0.006, 1e-9) + 0.1
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.TRUNCATED
    assert [row.status for row in results(database, ResultFilter(run=run))].count("scored") == 4


def test_one_file_that_vanished_is_a_failure(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    run = scan(8)
    files[1].unlink()
    summary = worker.run()
    assert (summary.images, summary.failures) == (3, 1)
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.VANISHED


def test_a_whole_batch_with_the_same_io_error_is_an_outage(
    worker: BatchWorker,
    database: Database,
    root: Path,
    scan: Callable[[int], int],
    lease_renewer: LeaseRenewer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    files = [put(root, number, png(number)) for number in range(4)]
    run = scan(8)
    for file in files:
        file.rename(file.with_name("away"))
    assert worker.run() == NOTHING_DONE
    assert state(database, 1) == (BatchState.PENDING, 0)
    assert lease_renewer.problem is not None
    assert "every image of a batch of clinic (4) is" in lease_renewer.problem
    # A service's log has numbers and types of errors, but no archive and no path.
    assert "batch 1 of run 1 released: ArchiveOutage" in caplog.text
    assert "clinic" not in caplog.text
    assert run_summary(database, run).processed == 0
    for file in files:
        file.with_name("away").rename(file)
    assert worker.run().inferred == 4
    assert lease_renewer.problem is None


def test_a_file_that_has_changed_since_its_scan_gets_no_prediction_until_it_is_scanned_again(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    run = scan(8)
    files[0].write_bytes(png(100))
    os.utime(files[0], ns=(0, 0))
    files[1].write_bytes(png(101) + bytes(1))
    assert worker.run().inferred == 1
    assert [row.reason for row in list_failures(database, run)] == [Reason.CHANGED, Reason.CHANGED]
    assert scan(8) == run
    assert list(list_failures(database, run)) == []
    assert worker.run().inferred == 2


def test_if_all_file_times_of_an_archive_are_shifted_on_a_host_it_is_an_outage(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int], lease_renewer: LeaseRenewer
) -> None:
    files = [put(root, number, png(number)) for number in range(4)]
    run = scan(2)
    assert worker.run().inferred == 2
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 3600 * 10**9))
    assert worker.run() == NOTHING_DONE
    assert lease_renewer.problem is not None
    assert "is changed" in lease_renewer.problem
    assert list(list_failures(database, run)) == []


def test_if_all_files_of_a_batch_are_gone_but_the_archive_can_be_read_its_images_fail(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(6)]
    run = scan(3)
    assert worker.run().inferred == 3
    for file in files:
        if int(file.parts[-3][-5:]) >= 3:
            file.unlink()
    assert worker.run().failures == 3
    assert {row.reason for row in list_failures(database, run)} == {Reason.VANISHED}


def test_broken_links_are_failures_even_if_the_archive_holds_nothing_else(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(3):
        (root / f"image{number}.png").symlink_to("nowhere.png")
    run = scan(8)
    assert worker.run().failures == 3
    assert {row.reason for row in list_failures(database, run)} == {Reason.BROKEN_LINK}


def test_a_missing_archive_is_an_outage(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    put(root, 1, png(1))
    scan(8)
    root.rename(root.with_name("away"))
    assert worker.run() == NOTHING_DONE
    assert state(database, 1) == (BatchState.PENDING, 0)
    root.with_name("away").rename(root)
    assert worker.run().inferred == 1


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


class WatchedEngine:
    """An engine that calls a function with the number of each call before it computes."""

    def __init__(self, engine: Engine, before: Callable[[int], None]) -> None:
        self._engine, self._before, self._calls = engine, before, 0
        self.name, self.precision, self.batch = engine.name, engine.precision, engine.batch

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        return self.submit(images).result()

    def submit(self, images: NDArray[np.uint8]) -> PendingInference:
        self._calls += 1
        self._before(self._calls)
        return self._engine.submit(images)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pipeline.MAX_GROUP", 2)


def watched_worker(
    worker: BatchWorker, engine: Engine, before: Callable[[int], None], stopping: Callable[[], bool] = lambda: False
) -> BatchWorker:
    watched = WatchedEngine(engine, before)
    return BatchWorker(
        worker.database,
        worker.settings,
        worker.package,
        [Precision.FP32],
        lambda precision: watched,
        worker.lease_renewer,
        worker.name,
        stopping,
    )


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


def test_an_engine_that_fails_is_an_outage_and_is_loaded_again(
    worker: BatchWorker, engine: Engine, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(3):
        put(root, number, png(number))
    scan(3)

    def fail_once(call: int) -> None:
        if call == 1:
            raise RuntimeError("device lost")

    loaded: list[Precision] = []
    watched = WatchedEngine(engine, fail_once)

    def start(precision: Precision) -> Engine:
        loaded.append(precision)
        return watched

    failing = BatchWorker(
        database, worker.settings, worker.package, [Precision.FP32], start, worker.lease_renewer, worker.name
    )
    assert failing.run() == NOTHING_DONE
    assert worker.lease_renewer.problem == "the openvino engine failed: device lost"
    assert state(database, 1) == (BatchState.PENDING, 0)
    assert failing.run().inferred == 3
    assert loaded == [Precision.FP32, Precision.FP32]


def test_a_precision_whose_engine_cannot_be_loaded_keeps_the_others_of_a_worker_from_nothing(
    worker: BatchWorker,
    engine: Engine,
    database: Database,
    root: Path,
    tiny_package: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.pipeline.RETRY_SECONDS", 0.05)
    for number in range(3):
        put(root, number, png(number))
    older, later = (
        scan_archive(database, "clinic", Source(root), model_version(tiny_package, precision), batch_size=8).run_id
        for precision in (Precision.INT8, Precision.FP32)
    )

    def start(precision: Precision) -> Engine:
        if precision is Precision.INT8:
            raise EngineOutage("the model cannot be loaded: its golden outputs differ")
        return engine

    both = [Precision.INT8, Precision.FP32]
    two = BatchWorker(database, worker.settings, worker.package, both, start, worker.lease_renewer, worker.name)
    tasks = threading.Thread(target=lambda: [two.run() for _ in range(3)], daemon=True)
    tasks.start()
    tasks.join(20)
    assert not tasks.is_alive()
    assert [run_progress(database, run).processed for run in (older, later)] == [0, 3]
    assert worker.lease_renewer.problem == "the model cannot be loaded: its golden outputs differ"


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


def test_an_archive_that_goes_away_is_an_outage_for_batches_of_one_image_too(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    run = scan(1)
    assert worker.run().inferred == 1
    for file in files:
        file.rename(file.with_name("away"))
    assert worker.run() == NOTHING_DONE
    assert state(database, 2) == (BatchState.PENDING, 0)
    assert list(list_failures(database, run)) == []


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
