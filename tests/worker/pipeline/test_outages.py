"""What is an outage of an archive or an engine, and what the fault of the files."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from db.failures import list_failures
from db.run_queries import run_progress, run_summary
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import png
from tests.pipelines import WatchedEngine, put, state
from worker.lease_renewal import LeaseRenewer
from worker.pipeline import NOTHING_DONE, BatchWorker
from xray.errors import EngineOutage
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.vocabulary import BatchState, Precision, Reason


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


def test_a_problem_that_does_not_occur_again_is_no_longer_reported(
    lease_renewer: LeaseRenewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_renewer.problem = "the archive is away"
    assert lease_renewer.problem == "the archive is away"
    monkeypatch.setattr("worker.lease_renewal.PROBLEM_SECONDS", 0.0)
    assert lease_renewer.problem is None
