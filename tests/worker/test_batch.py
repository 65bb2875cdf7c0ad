"""One batch with a real network: what is screened, what is a failure, and what is an outage."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from db import ledger
from db.migrate import upgrade
from db.queries import ResultFilter, list_failures, results
from db.run_queries import run_summary
from db.session import Database
from db.tables import batches
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import png
from worker.batch import NOTHING, BatchWorker
from worker.lease_renewal import LeaseRenewer
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.settings import Settings, read_settings
from xray.vocabulary import BatchState, Reason


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    return folder


@pytest.fixture
def pulse(database: Database) -> LeaseRenewer:
    return LeaseRenewer(database, "test:1", "queue", parent=1)


@pytest.fixture
def worker(
    database: Database, tmp_path: Path, clinic: Path, tiny_package: ModelPackage, engine: Engine, pulse: LeaseRenewer
) -> BatchWorker:
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_ARCHIVES": f"clinic={clinic}"}
    settings: Settings = read_settings(environ)
    return BatchWorker(database, settings, tiny_package, lambda: engine, pulse, "test:1")


@pytest.fixture
def scanned(database: Database, clinic: Path, tiny_package: ModelPackage) -> Callable[[int], int]:
    """Scan the clinic into batches of a size; gives the run."""

    def scan(batch_size: int) -> int:
        return scan_archive(
            database, "clinic", Source(clinic), model_version(tiny_package), batch_size=batch_size
        ).run_id

    return scan


def put(clinic: Path, number: int, data: bytes) -> Path:
    file = clinic / f"XR_HAND/patient{number:05}/study1_positive/image1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def state(database: Database, batch_id: int) -> tuple[str, int]:
    with database.read() as connection:
        row = connection.execute(select(batches.c.state, batches.c.attempts).where(batches.c.id == batch_id)).one()
    return row[0], row[1]


def test_a_message_for_a_batch_that_is_not_to_be_had_does_nothing(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    put(clinic, 1, png(1))
    run = scanned(4)
    assert worker.run(run, 1).images == 1
    before = run_summary(database, run)
    assert worker.run(run, 1) == NOTHING
    assert worker.run(run, 999) == NOTHING
    assert worker.run(run + 1, 1) == NOTHING
    assert run_summary(database, run) == before
    assert state(database, 1) == (BatchState.DONE, 0)


def test_a_batch_that_another_worker_holds_is_left_alone(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    put(clinic, 1, png(1))
    run = scanned(4)
    held = ledger.claim(database, run, 1, "another")
    assert worker.run(run, 1) == NOTHING
    assert held is not None
    assert ledger.renew(database, held)


def test_copies_of_a_file_are_inferred_once_within_a_batch_and_across_batches(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    for number in range(6):
        put(clinic, number, png(0 if number % 2 else number))
    run = scanned(3)
    done = [worker.run(run, batch_id) for batch_id in (1, 2)]
    assert [summary.images for summary in done] == [3, 3]
    assert sum(summary.inferred for summary in done) == 3
    assert run_summary(database, run).inferred == 3
    copies = {row.score for row in results(database, ResultFilter(run=run)) if int(row.study[-21:-16]) % 2}
    assert len(copies) == 1


def test_a_problem_that_is_not_met_again_is_forgotten(pulse: LeaseRenewer, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.problem = "the archive is away"
    assert pulse.problem == "the archive is away"
    monkeypatch.setattr("worker.lease_renewal.PROBLEM_SECONDS", 0.0)
    assert pulse.problem is None


def test_one_truncated_file_is_a_failure_and_its_neighbours_are_scored(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    for number in range(5):
        put(clinic, number, png(number)[:-40] if number == 2 else png(number))
    run = scanned(8)
    summary = worker.run(run, 1)
    assert (summary.images, summary.failures, summary.inferred) == (5, 1, 4)
    # Both are rounded, the seconds to a hundredth.
    assert 5 / (summary.seconds + 0.006) - 0.1 < summary.rate < 5 / max(summary.seconds - 0.006, 1e-9) + 0.1
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.TRUNCATED
    assert [row.status for row in results(database, ResultFilter(run=run))].count("scored") == 4


def test_one_file_that_vanished_is_a_failure(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    files = [put(clinic, number, png(number)) for number in range(3)]
    run = scanned(8)
    files[1].unlink()
    summary = worker.run(run, 1)
    assert (summary.images, summary.failures) == (3, 1)
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.VANISHED


def test_a_whole_batch_with_the_same_io_error_is_an_outage(
    worker: BatchWorker,
    database: Database,
    clinic: Path,
    scanned: Callable[[int], int],
    pulse: LeaseRenewer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    files = [put(clinic, number, png(number)) for number in range(4)]
    run = scanned(8)
    for file in files:
        file.rename(file.with_name("away"))
    assert worker.run(run, 1) == NOTHING
    assert state(database, 1) == (BatchState.PENDING, 0)
    assert pulse.problem is not None
    assert "all 4 images of a batch of clinic are" in pulse.problem
    # A service's log names numbers and kinds, never an archive or a path.
    assert "batch 1 of run 1 handed back: ArchiveOutage" in caplog.text
    assert "clinic" not in caplog.text
    assert run_summary(database, run).processed == 0
    for file in files:
        file.with_name("away").rename(file)
    assert worker.run(run, 1).inferred == 4
    assert pulse.problem is None


def test_a_file_that_has_changed_since_its_scan_gets_no_prediction_until_it_is_scanned_again(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    files = [put(clinic, number, png(number)) for number in range(3)]
    run = scanned(8)
    files[0].write_bytes(png(100))
    os.utime(files[0], ns=(0, 0))
    files[1].write_bytes(png(101) + bytes(1))
    assert worker.run(run, 1).inferred == 1
    assert [row.reason for row in list_failures(database, run)] == [Reason.CHANGED, Reason.CHANGED]
    assert scanned(8) == run
    assert list(list_failures(database, run)) == []
    assert worker.run(run, 2).inferred == 2


def test_a_host_that_sees_all_times_of_an_archive_shifted_takes_it_for_an_outage(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int], pulse: LeaseRenewer
) -> None:
    files = [put(clinic, number, png(number)) for number in range(4)]
    run = scanned(2)
    assert worker.run(run, 1).inferred == 2
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 3600 * 10**9))
    assert worker.run(run, 2) == NOTHING
    assert pulse.problem is not None
    assert "are changed" in pulse.problem
    assert list(list_failures(database, run)) == []


def test_a_batch_whose_files_are_all_gone_is_settled_while_the_rest_of_the_archive_can_be_read(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    files = [put(clinic, number, png(number)) for number in range(6)]
    run = scanned(3)
    assert worker.run(run, 1).inferred == 3
    for file in files:
        if int(file.parts[-3][-5:]) >= 3:
            file.unlink()
    assert worker.run(run, 2).failures == 3
    assert {row.reason for row in list_failures(database, run)} == {Reason.VANISHED}


def test_links_that_lead_nowhere_are_failures_even_when_they_are_all_there_is(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    for number in range(3):
        (clinic / f"image{number}.png").symlink_to("nowhere.png")
    run = scanned(8)
    assert worker.run(run, 1).failures == 3
    assert {row.reason for row in list_failures(database, run)} == {Reason.BROKEN_LINK}


def test_an_archive_that_is_away_is_an_outage(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    put(clinic, 1, png(1))
    run = scanned(8)
    clinic.rename(clinic.with_name("away"))
    assert worker.run(run, 1) == NOTHING
    assert state(database, 1) == (BatchState.PENDING, 0)
    clinic.with_name("away").rename(clinic)
    assert worker.run(run, 1).inferred == 1


def test_a_workers_memory_does_not_grow_with_the_batches_it_does(
    worker: BatchWorker, database: Database, clinic: Path, scanned: Callable[[int], int]
) -> None:
    for number in range(1200):
        put(clinic, number, png(number))
    run = scanned(12)
    memory = []
    for batch_id in range(1, 101):
        assert worker.run(run, batch_id).inferred == 12
        if batch_id in (30, 100):
            gc.collect()
            memory.append(psutil.Process().memory_info().rss)
    assert memory[1] - memory[0] < 10_000_000
