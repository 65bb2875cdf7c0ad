"""Images that do not end to load, or need more memory than there is: counted alone, and the rest is screened."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from db.failures import list_failures
from db.ledger import queues_with_work
from db.migrate import upgrade
from db.recovery import recover_expired
from db.run_queries import RunState, run_summary
from db.session import Database
from db.tables import batches, outcomes
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import png, png_of
from tests.awaiting import PATIENCE, await_that
from tests.worker.blocked_files import blocked
from worker.load_images import ORDINARY_IMAGE_PIXELS
from xray.message import MAX_ATTEMPTS
from xray.network.package import ModelPackage
from xray.vocabulary import BatchState, Precision, Reason

MEMORY = 150_000_000
"""Bytes that a worker may still take: too few to read and decode an image of 81 million pixels."""

WORKER = """
import os, resource, sys, threading
from pathlib import Path
from db.ledger import queues_with_work
from db.session import Database
from worker import batch, load_images, pipeline
from worker.lease_renewal import LeaseRenewer
from worker.watchdog import start_watchdog
from xray.network.open_engine import open_engine
from xray.network.package import load_package
from xray.settings import read_settings
from xray.vocabulary import Precision

home, package, timeout, memory = Path(sys.argv[1]), load_package(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
batch.ANSWER_SECONDS = 2.0
pipeline.RETRY_SECONDS = 0.1
settings = read_settings(os.environ)
database = Database(settings.effective_database_url)
renewer = LeaseRenewer(database, "test:1", "queue", "fp32", parent=os.getppid())
engine = open_engine(package, "openvino", home / "graphs", threads=1)
worker = pipeline.BatchWorker(database, settings, package, [Precision.FP32], lambda _: engine, renewer, "test:1")
if timeout:
    start_watchdog(worker.count_hung, lambda: None, timeout)
if sys.argv[6:] == ["engine does not answer"]:
    engine.submit = lambda images: threading.Event().wait()
if memory:
    load_images.ORDINARY_IMAGE_PIXELS = int(sys.argv[5])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
while queues_with_work(database, 1):
    worker.run()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'bonescreen.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    for number in range(12):
        (folder / f"study{number:02}").mkdir(parents=True)
        (folder / f"study{number:02}" / "image.png").write_bytes(png(number))
    return folder


def scanned(database: Database, root: Path, package: ModelPackage) -> int:
    return scan_archive(database, "clinic", Source(root), model_version(package, Precision.FP32), batch_size=100).run_id


def work(
    home: Path, package: ModelPackage, *more: str, timeout: float = 0, memory: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Run a worker in its own process until it has nothing to do, or ends itself."""
    command = [*command_of(home, package, timeout, memory), str(ORDINARY_IMAGE_PIXELS), *more]
    return subprocess.run(command, env=environ(home), capture_output=True, text=True, timeout=100 * PATIENCE)


def command_of(home: Path, package: ModelPackage, timeout: float, memory: int) -> list[str]:
    return [sys.executable, "-c", WORKER, str(home), str(package.path), str(timeout), str(memory)]


def environ(home: Path) -> dict[str, str]:
    return {
        "BONESCREEN_HOME": str(home),
        "BONESCREEN_ARCHIVES": f"clinic={home / 'clinic'}",
        "PATH": "/usr/bin",
        # Otherwise each thread reserves memory of its own, which counts as taken.
        "MALLOC_ARENA_MAX": "1",
    }


def processed(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(outcomes.c.image_id)).all())


def alone(database: Database) -> list[tuple[int, int]]:
    """Return the images and attempts of the open batches on which something was lost."""
    query = select(batches.c.first_image_id, batches.c.attempts)
    with database.read() as connection:
        rows = connection.execute(query.where(batches.c.state == BatchState.PENDING, batches.c.attempts > 0)).all()
    return [(row[0], row[1]) for row in rows]


def test_an_image_that_never_ends_to_load_is_tried_alone_then_quarantined_and_the_others_are_screened(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    run = scanned(database, root, tiny_package)
    with blocked([root / "study05" / "image.png"]):
        for attempt in range(1, MAX_ATTEMPTS + 1):
            done = work(tmp_path, tiny_package, timeout=3.0)
            assert done.returncode == 1, done.stderr
            assert "in _read" in done.stderr
            if attempt < MAX_ATTEMPTS:
                assert alone(database) == [(6, attempt)]
    assert processed(database) == 12
    (failed,) = list_failures(database, run)
    assert (failed.image, failed.reason) == ("study05/image.png", Reason.QUARANTINED)
    assert failed.detail == "it did not end to load within two minutes, 3 times"
    assert run_summary(database, run).state is RunState.DONE


def test_an_archive_that_does_not_answer_at_all_counts_no_image(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    files = sorted(root.rglob("*.png"))
    run = scanned(database, root, tiny_package)
    with blocked(files[6:]):
        # One of them is set apart, as others can be read.
        assert work(tmp_path, tiny_package, timeout=3.0).returncode == 1
    before = alone(database)
    with blocked(files):
        assert work(tmp_path, tiny_package, timeout=3.0).returncode == 1
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.state == BatchState.CLAIMED).values(lease_expires_at=0.0))
    assert recover_expired(database) == 0, "it has released what it had"
    assert alone(database) == before
    assert list(list_failures(database, run)) == []


def test_an_engine_that_does_not_answer_ends_the_process_counts_no_image_and_releases_the_batch(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    run = scanned(database, root, tiny_package)
    assert work(tmp_path, tiny_package, "engine does not answer", timeout=3.0).returncode == 1
    with database.read() as connection:
        assert connection.execute(select(batches.c.state, batches.c.attempts)).all() == [(BatchState.PENDING, 0)]
    assert work(tmp_path, tiny_package).returncode == 0
    assert processed(database) == run_summary(database, run).inferred == 12


def test_an_image_that_does_not_fit_in_memory_is_tried_alone_then_quarantined_and_the_others_are_screened(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9_000, 9_000), np.uint8)
    (root / "study05" / "image.png").write_bytes(png_of(pixels, bits=8))
    run = scanned(database, root, tiny_package)
    done = work(tmp_path, tiny_package, memory=MEMORY)
    assert done.returncode == 0, done.stderr
    assert queues_with_work(database, 1) == []
    (failed,) = list_failures(database, run)
    assert (failed.image, failed.attempts) == ("study05/image.png", MAX_ATTEMPTS)
    assert failed.detail == "this host does not have enough memory to decode it, 3 times"
    assert processed(database) == 12
    assert run_summary(database, run).inferred == 11


def only_too_large(root: Path, images: int) -> None:
    """Leave an archive only images that need more memory than the tests allow."""
    pixels = np.random.default_rng(1).integers(0, 256, (9_000, 9_000), np.uint8)
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        file.unlink()
        if number < images:
            file.write_bytes(png_of(pixels, bits=8))


def test_several_images_that_do_not_fit_in_memory_do_not_keep_a_run_open(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    only_too_large(root, 2)
    run = scanned(database, root, tiny_package)
    done = work(tmp_path, tiny_package, memory=MEMORY)
    assert done.returncode == 0, done.stderr
    assert [failed.reason for failed in list_failures(database, run)] == [Reason.QUARANTINED] * 2
    assert run_summary(database, run).state is RunState.DONE


def test_a_host_without_memory_for_any_image_counts_none(
    database: Database, root: Path, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    only_too_large(root, 1)
    run = scanned(database, root, tiny_package)
    log = tmp_path / "worker.log"
    # No image of usual size fits either.
    command = [*command_of(tmp_path, tiny_package, 0, MEMORY), str(10**9)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ(tmp_path), stdout=output, stderr=output)
    try:
        await_that(lambda: log.read_text().count("released: StorageOutage") > MAX_ATTEMPTS, 20, "it waits for memory")
    finally:
        process.kill()
        process.wait()
    assert list(list_failures(database, run)) == []
    assert alone(database) == []
