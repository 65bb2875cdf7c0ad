"""Faults of `bonescreen worker` and `enqueue` on PostgreSQL and a TCP broker: processes killed, services away."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from db.migrate import upgrade
from db.session import Database
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.conftest import postgres_server
from tests.faults.conftest import MakeArchive, MakeStack, join_cluster
from tests.faults.own_postgres import OwnPostgres
from tests.faults.stack import ARCHIVE, MORE_THAN_PREFETCHED, Archive, Command, Stack, fill
from tests.worker.blocked_files import blocked
from xray.network.package import ModelPackage
from xray.vocabulary import BatchState, Reason

END = 150.0


def start_workers(stack: Stack, workers: int = 1) -> list[Command]:
    """Start workers, enqueue the archive, and wait for the first results."""
    commands = [stack.start("worker") for _ in range(workers)]
    enqueue(stack)
    await_that(stack.ledger.processed, 90, "the first results")
    return commands


def enqueue(stack: Stack) -> None:
    code, text = stack.run("enqueue", ARCHIVE)
    assert code == 0, text


def test_killed_workers_parents_and_feeders_are_replaced(make_archive: MakeArchive, cluster_stack: MakeStack) -> None:
    stack = cluster_stack(make_archive(2000))
    (worker,) = start_workers(stack)
    child, batch = stack.suspended_at_work()
    child.kill()
    stack.assert_work_continues(45, after="SIGKILL of the worker child")
    worker.service("producer").kill()
    parent = worker.service("worker")
    (child,) = parent.children()
    parent.kill()
    await_that(lambda: not child.is_running(), 5, "the child has ended", patience=1)
    stack.assert_work_continues(60, after="SIGKILL of the feeder and of the Celery parent")
    stack.assert_run_finishes(END)
    assert stack.ledger.batch(batch.batch_id)[1] >= 1


def test_a_worker_that_is_shut_down_releases_the_batch_that_it_has_no_time_to_finish(
    make_archive: MakeArchive, cluster_stack: MakeStack
) -> None:
    stack = cluster_stack(make_archive(2000))
    (worker,) = start_workers(stack)
    _, batch = stack.suspended_at_work()
    worker.stop()
    assert worker.ended(0) == 0
    assert stack.ledger.batch(batch.batch_id) == (BatchState.PENDING, 0)


def test_a_feeder_finishes_the_scan_of_a_killed_producer_once_the_archive_is_available(
    make_archive: MakeArchive, cluster_stack: MakeStack
) -> None:
    archive = make_archive(4000, side=64)
    stack = cluster_stack(archive)
    stack.environ["BONESCREEN_BATCH_SIZE"] = "64"
    stack.start("worker")
    producer = stack.start("enqueue", ARCHIVE)
    await_that(stack.ledger.scanned, 60, "the scan has found files")
    producer.kill()
    scanned = stack.ledger.scanned()
    assert scanned is not None
    assert scanned > 0
    began = time.monotonic()
    # If the mount is missing when the feeder takes the scan over, it must not end the scan.
    archive.root.rename(archive.root.with_name("away"))
    archive.root.mkdir()
    await_that(lambda: _status_says(stack, str(archive.root), "waits"), 60, "status names the archive")
    archive.root.rmdir()
    archive.root.with_name("away").rename(archive.root)
    await_that(lambda: stack.ledger.scanned() is None, 60, "the scan is finished")
    print(f"SIGKILL of the producer: scan finished after {time.monotonic() - began:.1f} s")
    stack.assert_run_finishes(END)


def test_work_continues_after_the_broker_was_killed_or_stopped_for_a_while(
    make_archive: MakeArchive, cluster_stack: MakeStack, broker: TcpBroker
) -> None:
    # So many that some are left when the broker stops.
    stack = cluster_stack(make_archive(3000))
    start_workers(stack)
    broker.kill()
    broker.start()
    stack.assert_work_continues(45, after="SIGKILL of the broker, data kept", images=MORE_THAN_PREFETCHED)
    broker.kill()
    broker.delete_data()
    broker.start()
    stack.assert_work_continues(45, after="SIGKILL of the broker, data lost", images=MORE_THAN_PREFETCHED)
    broker.stop()
    began = time.monotonic()
    await_that(lambda: _status_says(stack, "broker", "does not answer"), 30, "status says it")
    assert TcpBroker.PASSWORD not in stack.run("status")[1]
    await_that(lambda: time.monotonic() - began > 15, 20, "15 s passed")
    broker.start()
    stack.assert_run_finishes(END)
    # The worker may have done all without the broker, so there is more to do.
    more = Archive(stack.archive.root, stack.archive.images + 64)
    fill(more, side=64, first=stack.archive.images)
    enqueue(stack)
    await_that(lambda: stack.ledger.processed() == more.images, 45, "work continues after 15 s without a broker")
    await_that(stack.ledger.is_done, 10, "the run is done")
    stack.ledger.assert_one_outcome_each(more.images)


def test_an_idle_worker_takes_work_again_after_the_broker_was_killed(
    make_archive: MakeArchive, cluster_stack: MakeStack, broker: TcpBroker
) -> None:
    stack = cluster_stack(make_archive(64))
    worker = stack.start("worker")
    await_that(lambda: "ready." in worker.text, 60, "the worker is ready")
    for data_lost in (False, True):
        broker.kill()
        if data_lost:
            broker.delete_data()
        broker.start()
    enqueue(stack)
    stack.assert_run_finishes(60)


def test_another_worker_processes_the_batches_of_a_suspended_worker_and_of_a_lost_machine(
    make_archive: MakeArchive, cluster_stack: MakeStack
) -> None:
    stack = cluster_stack(make_archive(2000))
    first, second = start_workers(stack, workers=2)
    child, batch = stack.suspended_at_work()
    await_that(lambda: stack.ledger.batch(batch.batch_id) == ("done", 1), 75, "the other worker has done its batch")
    child.resume()
    lost = second if child in first.descendants() else first
    lost.kill()
    await_that(lambda: not lost.survivors(), 5, "no process of a killed supervisor is alive", patience=1)
    stack.assert_run_finishes(END)


def test_an_archive_that_vanishes_for_a_while_fails_no_image(
    make_archive: MakeArchive, cluster_stack: MakeStack
) -> None:
    stack = cluster_stack(make_archive(1000))
    start_workers(stack)
    root = stack.archive.root
    root.rename(root.with_name("away"))
    await_that(lambda: _status_says(stack, f"The archive {ARCHIVE} is missing", "waits"), 60, "status names it")
    assert stack.ledger.failed() == []
    root.with_name("away").rename(root)
    stack.assert_work_continues(45, after="an archive that was away", images=MORE_THAN_PREFETCHED)
    stack.assert_run_finishes(END)


def test_an_image_that_kills_every_worker_is_quarantined_and_its_neighbours_are_scored(
    make_archive: MakeArchive, cluster_stack: MakeStack
) -> None:
    archive = make_archive(64)
    stack = cluster_stack(archive)
    enqueue(stack)
    deadly = stack.ledger.image_id(archive.path(7))
    # It is never read to its end, so its batch stays claimed until the worker is killed.
    with blocked([archive.root / archive.path(7)]):
        worker = stack.start("worker")
        while not stack.ledger.is_done():
            batch = await_that(
                lambda: stack.ledger.claim_on(deadly) or stack.ledger.is_done(), 60, "its batch is claimed"
            )
            if batch is True:
                break
            held = [each for each in stack.ledger.claimed_batches() if each.pid == batch.pid]
            psutil.Process(batch.pid).kill()
            for each in held:
                stack.ledger.expire_lease(each.batch_id)
            await_that(lambda held=held: not any(map(stack.ledger.is_claimed, held)), 60, "they are recovered")
        assert worker.runs()
    stack.ledger.assert_one_outcome_each(64, failed=[(deadly, Reason.QUARANTINED)])
    assert "killed on it, perhaps for lack of memory" in stack.run("failures", "--json")[1]


def _status_says(stack: Stack, *texts: str) -> bool:
    code, said = stack.run("status")
    return code == 1 and all(text in said for text in texts)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    with postgres_server(tmp_path) as server:
        yield OwnPostgres(server)


def test_work_continues_after_the_database_was_stopped_for_a_while(
    tmp_path: Path, make_archive: MakeArchive, tiny_package: ModelPackage, broker: TcpBroker, own_postgres: OwnPostgres
) -> None:
    database = Database(own_postgres.url)
    upgrade(database)
    database.close()
    stack = join_cluster(tmp_path / "home", make_archive(1000), tiny_package, broker, own_postgres.url)
    try:
        start_workers(stack)
        own_postgres.stop()
        await_that(lambda: _status_says(stack, "database", "does not answer"), 30, "status says it")
        own_postgres.start()
        stack.assert_work_continues(45, after="an immediate stop of PostgreSQL", images=MORE_THAN_PREFETCHED)
        stack.assert_run_finishes(END)
    finally:
        stack.close()
