"""The supervisor replaces a real broker that runs but cannot be reached."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bonescreen.broker import broker_service, broker_socket, is_ready, is_responding, wait_for_broker
from bonescreen.supervisor import Supervisor
from tests.awaiting import await_that
from xray.settings import Settings, read_settings


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings of a home of this test's own."""
    return read_settings(os.environ)


@pytest.fixture
def supervisor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Run the embedded broker, with more frequent checks than usual."""
    monkeypatch.setattr("bonescreen.supervisor.CHECK_SECONDS", 0.1)
    with Supervisor([broker_service(settings)]) as supervisor:
        wait_for_broker(broker_socket(settings), supervisor.check)
        yield supervisor


def _broker_pid(supervisor: Supervisor) -> int | None:
    (broker,) = supervisor._processes
    return None if broker.popen is None else broker.popen.pid


def _replaced(supervisor: Supervisor, settings: Settings, before: int) -> bool:
    supervisor.check()
    return _broker_pid(supervisor) not in (None, before) and is_ready(broker_socket(settings))


def test_a_broker_whose_socket_was_removed_is_replaced(supervisor: Supervisor, settings: Settings) -> None:
    before = _broker_pid(supervisor)
    assert before is not None
    broker_socket(settings).unlink()
    await_that(lambda: _replaced(supervisor, settings, before), 20, "another broker answers")
    assert not Path(f"/proc/{before}").exists()


def test_a_hung_broker_is_replaced(supervisor: Supervisor, settings: Settings) -> None:
    before = _broker_pid(supervisor)
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    await_that(lambda: _replaced(supervisor, settings, before), 20, "another broker answers")


def test_a_broker_that_does_not_respond_for_a_moment_is_not_replaced(
    supervisor: Supervisor, settings: Settings
) -> None:
    before = _broker_pid(supervisor)
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    assert supervisor.check() == []
    os.kill(before, signal.SIGCONT)
    await_that(lambda: is_responding(broker_socket(settings)), 20, "it answers again")
    supervisor.check()
    assert _broker_pid(supervisor) == before


def test_others_may_not_read_the_brokers_files_even_in_a_home_that_they_may_list(settings: Settings) -> None:
    settings.home.mkdir(mode=0o755)
    with Supervisor([broker_service(settings)]) as supervisor:
        wait_for_broker(broker_socket(settings), supervisor.check)
        assert (settings.home / "broker" / "appendonly.aof.manifest").exists()
        assert stat.S_IMODE((settings.home / "broker").stat().st_mode) == 0o700


def test_a_broker_that_is_loading_its_data_is_responding_but_not_ready(settings: Settings) -> None:
    service = broker_service(settings)
    listening = broker_socket(settings)
    with subprocess.Popen(service.command, stdout=subprocess.DEVNULL) as first:
        await_that(lambda: is_ready(listening), 20, "it answers")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(listening))
            client.sendall(b"".join(b"SET key%d value\r\n" % number for number in range(5_000)))
            with client.makefile("rb") as said:
                assert {said.readline() for _ in range(5_000)} == {b"+OK\r\n"}
        first.terminate()
    slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]
    with subprocess.Popen([*service.command, *slow], stdout=subprocess.DEVNULL) as second:
        await_that(lambda: is_responding(listening), 20, "it responds")
        loading = not is_ready(listening)
        second.kill()
    assert loading
