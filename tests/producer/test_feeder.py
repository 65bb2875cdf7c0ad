"""The feeder with a real broker: what is in a message, how many there are, and how lost ones come back."""

import base64
import json
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
from producer.feeder import HIGH_WATER, LOW_WATER, Feeder
from producer.scan import finish_abandoned_scan, scan_archive
from producer.source import Source
from producer.transport import Transport
from tests.archives import png
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.seeding import MODEL, found_files, scan
from xray.errors import ArchiveOutage, BrokerOutage, UsageError
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


def test_a_message_is_two_integers_and_small(feeder: Feeder, database: Database, broker: TcpBroker) -> None:
    run = scan(database, found_files(1), archive="secret-clinic")
    assert feeder.do_round().sent == 1
    (message,) = messages(broker)
    assert arguments(message) == [run, 1]
    assert len(message) < 1500
    decoded = message + base64.b64decode(json.loads(message)["body"])
    for word in (b"study0000", b"image0", b"secret-clinic", b"HUMERUS", b"positive"):
        assert word not in decoded


def test_a_queue_is_filled_to_the_high_water_mark_and_again_only_below_the_low_one(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(150), batch_size=1)
    assert feeder.do_round().sent == HIGH_WATER
    assert feeder.do_round().sent == 0
    take(broker, HIGH_WATER - LOW_WATER)
    assert feeder.do_round().sent == 0
    take(broker, 1)
    assert feeder.do_round().sent == HIGH_WATER - LOW_WATER + 1
    assert len(messages(broker)) == HIGH_WATER


def test_a_database_that_nobody_upgraded_is_said_to_be_instead_of_waited_for(
    database_url: str, transport: Transport, settings: Settings
) -> None:
    with closing(Database(database_url)) as database, pytest.raises(UsageError, match="bonescreen db upgrade"):
        Feeder(database, transport, settings).run(threading.Event())


def test_what_a_broker_forgot_is_sent_again(feeder: Feeder, database: Database, broker: TcpBroker) -> None:
    scan(database, found_files(8), batch_size=1)
    assert feeder.do_round().sent == 8
    broker.kill()
    broker.delete_data()
    broker.start()
    done = feeder.do_round()
    assert (done.lost, done.sent) == (8, 8)
    assert sorted(arguments(message)[1] for message in messages(broker)) == list(range(1, 9))


def test_what_a_broker_kept_is_not_sent_again(feeder: Feeder, database: Database, broker: TcpBroker) -> None:
    scan(database, found_files(8), batch_size=1)
    assert feeder.do_round().sent == 8
    broker.kill()
    broker.start()
    assert len(messages(broker)) == 8
    done = feeder.do_round()
    assert (done.lost, done.sent) == (0, 0)


def test_messages_that_died_in_a_workers_hands_are_sent_again_once_the_queue_is_empty(
    feeder: Feeder, database: Database, broker: TcpBroker
) -> None:
    scan(database, found_files(8), batch_size=1)
    assert feeder.do_round().sent == 8
    with database.write() as connection:
        connection.execute(update(batches).values(sent_at=Now() - 21))
    assert feeder.do_round().lost == 0
    take(broker, 8)
    done = feeder.do_round()
    assert (done.lost, done.sent) == (8, 8)


def test_feeders_side_by_side_send_each_batch_once(
    database: Database, transport: Transport, settings: Settings, broker: TcpBroker
) -> None:
    scan(database, found_files(30), batch_size=1)
    start = threading.Barrier(3)

    def feed() -> None:
        start.wait()
        Feeder(database, transport, settings).do_round()

    threads = [threading.Thread(target=feed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(arguments(message)[1] for message in messages(broker)) == list(range(1, 31))


def test_while_the_broker_is_away_batches_stay_pending_and_its_password_is_not_told(
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


def test_a_feeder_that_was_away_itself_gives_workers_time_before_it_calls_them_dead(
    feeder: Feeder, database: Database
) -> None:
    scan(database, found_files(4))
    feeder.do_round()
    held = ledger.claim(database, 1, 1, "worker")
    assert held is not None
    with database.write() as connection:
        connection.execute(update(batches).values(lease_expires_at=Now() - 1))
    feeder.note_pause(seconds=40.0)
    assert feeder.do_round().expired == 0
    assert ledger.renew_lease(database, held)


@pytest.fixture
def abandoned(tmp_path: Path, database: Database) -> scans.Scan:
    """A scan whose producer has died after its first files."""
    folder = tmp_path / "clinic" / "XR_HAND" / "patient1" / "study1_negative"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"image{number}.png").write_bytes(png(number))
    archive_id = register_archive(database, "clinic", str(tmp_path / "clinic"))
    run_id = open_run(database, archive_id, register_model(database, MODEL), 4)
    held = scans.begin_scan(database, run_id, "mura", "elsewhere:1")
    assert held is not None
    merge.stage(database, held, found_files(1))
    return held


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


def test_an_abandoned_scan_that_cannot_be_finished_is_told_without_a_path(
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
        # A folder with nothing in it that could be screened: the scan is given up.
        root.mkdir()
        (root / "DOE-JANE.txt").write_text("no radiograph")
        await_that(lambda: not scans.open_scans(database), 30, "the scan is given up")
        await_that(lambda: "scan the archive again" in caplog.text, 10, "the log tells of it")
    finally:
        stop.set()
        running.join()
    assert "waiting: an abandoned scan cannot be finished" in caplog.text
    assert not [mark for mark in (str(tmp_path), "clinic", "DOE-JANE") if mark in caplog.text]


def test_an_archive_whose_scan_goes_on_elsewhere_is_not_scanned_and_one_whose_holder_is_silent_is(
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
