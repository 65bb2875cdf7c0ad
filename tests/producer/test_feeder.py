"""The feeder with a real broker: the content and number of messages, and lost workers and scans."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db import ledger, merge, scans
from db.heartbeats import list_heartbeats
from db.run_queries import RunState, run_progress
from db.runs import open_run, register_archive, register_model
from db.session import Database, Now
from db.tables import batches
from db.tables import scans as scans_table
from producer.feeder import HIGH_WATER, Feeder
from producer.scan import finish_abandoned_scan, scan_archive
from producer.source import Source
from producer.transport import Transport
from tests.archives import png
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.seeding import MODEL, claim_next, found_files, scan
from worker.app import celery_app
from xray.errors import ArchiveOutage, BrokerOutage, UsageError
from xray.network.package import ModelPackage
from xray.settings import Settings, read_settings
from xray.vocabulary import BatchState

QUEUE = MODEL.queue


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    archives = f"clinic={tmp_path / 'clinic'}"
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_ARCHIVES": archives, "BONESCREEN_QUIET_SECONDS": "0"}
    return read_settings(environ)


@pytest.fixture
def transport(broker: TcpBroker) -> Iterator[Transport]:
    opened = Transport(broker.url)
    yield opened
    opened.close()


@pytest.fixture
def feeder(database: Database, transport: Transport, settings: Settings) -> Feeder:
    return Feeder(database, transport, settings)


def messages(broker: TcpBroker) -> list[bytes]:
    """The queue's raw content."""
    with broker.client() as client:
        return list(client.lrange(QUEUE, 0, -1))


def take(broker: TcpBroker, number: int) -> None:
    """Take messages out of the queue, as workers do."""
    with broker.client() as client:
        client.rpop(QUEUE, number)


def arguments(message: bytes) -> list[object]:
    positional, named, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert named == {}
    return list(positional)


def states(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(batches.c.state)).scalars())


def test_a_message_is_small_and_holds_one_integer(feeder: Feeder, database: Database, broker: TcpBroker) -> None:
    run = scan(database, found_files(1), archive="secret-clinic")
    assert feeder.do_round().sent == 1
    (message,) = messages(broker)
    assert arguments(message) == [run]
    assert len(message) < 1500
    decoded = message + base64.b64decode(json.loads(message)["body"])
    for word in (b"study0000", b"image0", b"secret-clinic", b"HUMERUS", b"positive"):
        assert word not in decoded


def test_as_many_messages_wait_in_a_queue_as_batches_up_to_the_high_water_mark(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(HIGH_WATER + 6), batch_size=1)
    assert feeder.do_round().sent == HIGH_WATER
    assert feeder.do_round().sent == 0
    take(broker, 10)
    for _ in range(10):
        claim_next(database)
    assert feeder.do_round().sent == 6
    assert len(messages(broker)) == HIGH_WATER - 4
    while ledger.claim_next(database, QUEUE, "w") is not None:
        pass
    take(broker, HIGH_WATER)
    assert feeder.do_round().sent == 0


def test_a_database_that_needs_an_upgrade_is_an_error_and_not_waited_for(
    database_url: str, transport: Transport, settings: Settings
) -> None:
    with closing(Database(database_url)) as database, pytest.raises(UsageError, match="bonescreen db upgrade"):
        Feeder(database, transport, settings).run(threading.Event())


def test_messages_that_are_lost_are_sent_again_and_those_that_a_broker_kept_are_not(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(8), batch_size=1)
    assert feeder.do_round().sent == 8
    # It writes its file when the disk has time.
    with broker.client() as client:
        await_that(lambda: client.info("persistence")["aof_buffer_length"] == 0, 20, "the messages are written")
    broker.kill()
    broker.start()
    assert len(messages(broker)) == 8
    assert feeder.do_round().sent == 0
    broker.kill()
    broker.delete_data()
    broker.start()
    assert feeder.do_round().sent == 8
    take(broker, 3)
    assert feeder.do_round().sent == 3


def test_while_the_broker_is_away_batches_stay_pending_and_its_password_is_not_shown(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(8))
    broker.stop()
    with pytest.raises(BrokerOutage) as outage:
        feeder.do_round()
    assert broker.PASSWORD not in str(outage.value)
    assert states(database) == {BatchState.PENDING}
    broker.start()
    assert feeder.do_round().sent == 2


def test_a_feeder_that_was_paused_gives_workers_time_to_renew_their_leases(feeder: Feeder, database: Database) -> None:
    scan(database, found_files(4))
    feeder.do_round()
    claim = claim_next(database)
    with database.write() as connection:
        connection.execute(update(batches).values(lease_expires_at=Now() - 1))
    feeder.note_pause(seconds=40.0)
    assert feeder.do_round().recovered == 0
    assert ledger.renew_lease(database, claim)


def test_a_feeder_that_starts_removes_the_lists_of_workers_that_are_gone_and_living_ones_still_get_commands(
    feeder: Feeder, broker: TcpBroker, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    gone = "_kombu.binding.celery.pidbox", "worker@gone.celery.pidbox"
    app = celery_app(broker.url)
    environ = {**os.environ, "BONESCREEN_BROKER_URL": broker.url, "BONESCREEN_MODEL": str(tiny_package.path)}
    environ |= {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    stop = threading.Event()
    running = threading.Thread(target=feeder.run, args=(stop,))
    with (tmp_path / "log").open("wb") as log, broker.client() as client:
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environ, stdout=log, stderr=log)
        try:
            await_that(lambda: app.control.ping(timeout=5.0, limit=1), 60, "the worker answers")
            client.sadd(*gone)
            running.start()
            await_that(lambda: not client.exists(gone[0]), 20, "the list is deleted")
            assert app.control.ping(timeout=60.0, limit=1)
        finally:
            stop.set()
            if running.is_alive():
                running.join()
            worker.terminate()
            worker.wait(120)
    app.close()


@pytest.fixture
def abandoned(tmp_path: Path, database: Database) -> scans.Scan:
    """A scan whose producer has died after its first files."""
    folder = tmp_path / "clinic" / "XR_HAND" / "patient1" / "study1_negative"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"image{number}.png").write_bytes(png(number))
    archive_id = register_archive(database, "clinic", str(tmp_path / "clinic"))
    run_id = open_run(database, archive_id, register_model(database, MODEL), 4)
    begun = scans.begin_scan(database, run_id, "mura", "elsewhere:1")
    assert begun is not None
    merge.stage(database, begun, found_files(1))
    return begun


def expire(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))


def test_a_feeder_finishes_an_abandoned_scan(
    abandoned: scans.Scan, feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    feeder.do_round()
    assert len(scans.open_scans(database)) == 1
    expire(database)
    feeder.do_round()
    await_that(lambda: not scans.open_scans(database), 10, "the scan is finished")
    assert run_progress(database, abandoned.run_id).images == 3
    feeder.do_round()
    assert len(messages(broker)) == 1


@pytest.mark.parametrize("empty", [True, False])
def test_an_abandoned_scan_of_an_archive_that_is_away_waits_for_it(
    abandoned: scans.Scan, database: Database, tmp_path: Path, *, empty: bool
) -> None:
    root, away = tmp_path / "clinic", tmp_path / "away"
    expire(database)
    root.rename(away)
    if empty:
        root.mkdir()
    with pytest.raises(ArchiveOutage):
        finish_abandoned_scan(database, abandoned.scan_id, Source(root), "me")
    assert run_progress(database, abandoned.run_id).state is RunState.SCANNING
    if empty:
        root.rmdir()
    away.rename(root)
    report = finish_abandoned_scan(database, abandoned.scan_id, Source(root), "me")
    assert report is not None
    assert report.found == 3


def test_an_abandoned_scan_that_cannot_be_finished_is_logged_without_a_path(
    abandoned: scans.Scan, feeder: Feeder, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root, stop = tmp_path / "clinic", threading.Event()
    root.rename(tmp_path / "away")
    expire(database)
    running = threading.Thread(target=feeder.run, args=(stop,))
    running.start()
    try:
        await_that(lambda: any(beat.problem for beat in list_heartbeats(database)), 30, "the feeder waits")
        assert str(root) in str([beat.problem for beat in list_heartbeats(database)])
        # A folder with nothing in it that could be screened: the scan is abandoned.
        root.mkdir()
        (root / "DOE-JANE.txt").write_text("not a radiograph")
        await_that(lambda: not scans.open_scans(database), 30, "the scan is abandoned")
        await_that(lambda: "scan the archive again" in caplog.text, 10, "the log names it")
    finally:
        stop.set()
        running.join()
    assert "waiting: an abandoned scan cannot be finished" in caplog.text
    assert not [mark for mark in (str(tmp_path), "clinic", "DOE-JANE") if mark in caplog.text]


def test_an_archive_is_scanned_only_if_another_scan_of_it_no_longer_renews_its_lease(
    abandoned: scans.Scan, database: Database, tmp_path: Path
) -> None:
    def again() -> int:
        return scan_archive(database, "clinic", Source(tmp_path / "clinic"), MODEL, batch_size=4).found

    renewing = threading.Timer(1.0, scans.renew_scan, (database, abandoned))
    renewing.start()
    with pytest.raises(UsageError, match="is being scanned by elsewhere:1"):
        again()
    renewing.join()
    expiring = threading.Timer(1.0, expire, (database,))
    expiring.start()
    assert again() == 3
    expiring.join()


def test_a_feeder_says_that_its_broker_is_a_read_only_replica(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(1))
    with broker.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(BrokerOutage, match="is a read-only replica; set BONESCREEN_BROKER_URL to the primary server"):
        feeder.do_round()
