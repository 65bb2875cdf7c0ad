"""Messages in a worker's queue, with a real worker: forged ones are refused, and a quiet consumer is replaced."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from db.heartbeats import list_heartbeats
from db.migrate import upgrade
from db.run_queries import RunState, run_summary
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.source import Source
from producer.transport import Transport
from tests.archives import png
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.forged_messages import forged, genuine
from worker.app import celery_app
from xray.message import queue_name
from xray.network.package import ModelPackage
from xray.vocabulary import Precision

WORKER = """
from worker import parent_watch
from worker.__main__ import main
parent_watch.CHECK_SECONDS, parent_watch.QUIET_PROBLEM_SECONDS, parent_watch.QUIET_END_SECONDS = 0.5, 1.0, 12.0
parent_watch.SILENT_CHILD_SECONDS = 12.0
main()
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'bonescreen.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@contextmanager
def working(home: Path, package: ModelPackage, broker: TcpBroker) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Run a worker until the end of the block; yield its process and its log."""
    environ = {
        "PATH": os.environ["PATH"],
        "BONESCREEN_HOME": str(home),
        "BONESCREEN_BROKER_URL": broker.url,
        "BONESCREEN_MODEL": str(package.path),
        "OMP_NUM_THREADS": "1",
    }
    log = home / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-c", WORKER], env=environ, stdout=output, stderr=output)
    try:
        await_that(lambda: "ready." in log.read_text(), 60, "the worker is ready")
        yield process, log
    finally:
        process.terminate()
        process.wait(120)


def fill_archive(home: Path, database: Database, package: ModelPackage) -> int:
    folder = home / "clinic" / "study1"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"image{number}.png").write_bytes(png(number))
    model = model_version(package, Precision.FP32)
    return scan_archive(database, "clinic", Source(home / "clinic"), model, batch_size=2).run_id


def test_malformed_and_forged_messages_are_refused_acknowledged_and_logged_and_the_worker_goes_on(
    tmp_path: Path, database: Database, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    queue = queue_name(tiny_package.digest, Precision.FP32)
    with broker.client() as client:
        message = genuine(queue, broker.url, client)
    with working(tmp_path, tiny_package, broker) as (process, log), broker.client() as client:
        parent = psutil.Process(process.pid)
        (child,) = parent.children()
        for one in forged(message):
            client.lpush(queue, one)
        remote_control = [*client.pubsub_channels("*pidbox*"), b"/0.celery.pidbox"]
        for one in (b"%%%", b"[]", b'{"body": 1}', b'{"properties": {}, "body": "%%%"}', json.dumps(message).encode()):
            assert sum(client.publish(channel, one) for channel in remote_control) > 0, "the worker listens there"
        await_that(lambda: client.llen(queue) == 0 and client.hlen("unacked") == 0, 60, "all are acknowledged")
        run = fill_archive(tmp_path, database, tiny_package)
        client.lpush(queue, json.dumps(message))
        await_that(lambda: run_summary(database, run).state is RunState.DONE, 60, "the archive is screened")
        assert process.poll() is None
        assert child.is_running()
        await_that(lambda: client.hlen("unacked") == 0, 20, "the last one is acknowledged too")
        refused = log.read_text().count("a message was refused")
    assert refused >= len(forged(message)) - 4, "four are odd, but do no more than wake the worker up"
    # kombu says itself, with a traceback, what of a remote control command is not JSON.
    assert "Unrecoverable" not in log.read_text()
    assert "DROP TABLE" not in log.read_text()


def test_a_worker_that_receives_none_of_the_messages_that_wait_says_so_and_ends(
    tmp_path: Path, database: Database, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    queue = queue_name(tiny_package.digest, Precision.FP32)
    with working(tmp_path, tiny_package, broker) as (process, log):
        # The consumer is cancelled as by an administrator; nothing tells the worker that this was wrong.
        celery_app(broker.url).control.cancel_consumer(queue, reply=True, limit=1, timeout=30)
        transport = Transport(broker.url)
        transport.send(queue, 1)
        transport.close()

        def says_so() -> bool:
            return any("receives none" in (beat.problem or "") for beat in list_heartbeats(database))

        await_that(says_so, 20, "the heartbeat says it")
        assert process.wait(240) == 1
        assert "to be started again" in log.read_text()


def test_a_worker_whose_child_cannot_even_end_itself_ends(
    tmp_path: Path, database: Database, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    with working(tmp_path, tiny_package, broker) as (process, log):
        (child,) = psutil.Process(process.pid).children()
        await_that(lambda: list_heartbeats(database), 20, "the child works")
        # It no longer runs, like one whose thread waits for a dead network mount.
        child.suspend()
        assert process.wait(240) == 1
        assert "does not end although it is hung" in log.read_text()
        await_that(lambda: not child.is_running(), 20, "the child is gone with it")
