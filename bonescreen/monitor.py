"""Where pages may be served: on loopback to this host alone, elsewhere to those who know the credentials."""

import dbm
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from flower.app import Flower
from flower.inspector import Inspector
from flower.options import options
from flower.urls import settings as flower_settings
from flower.views.monitor import Metrics
from kombu.utils.url import maybe_sanitize_url
from tornado.ioloop import IOLoop
from tornado.web import authenticated

from bonescreen.terminal import print_line
from worker.app import celery_app
from xray.errors import Outage, StorageOutage, UsageError
from xray.message import transport_options


def is_loopback(host: str) -> bool:
    """Tell whether only this host reaches what is bound to an address or name.

    Raises
    ------
    UsageError
        It is no address of this host and no name of one.
    """
    unknown = UsageError(f"--host {host!r} is no address or name known here; 127.0.0.1 is this host alone")
    if not host:
        raise unknown
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise unknown from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def require_credentials(host: str, user: str | None, password: str | None, settings: str) -> tuple[str, str] | None:
    """Return the credentials to ask for, None for none, which is well on loopback only.

    Parameters
    ----------
    host : str
        Where the pages are to be bound.
    user, password : str or None
        What is set.
    settings : str
        The names of the two settings, for the error.

    Raises
    ------
    UsageError
        There is no such address, half of the credentials is missing, or all of them where others reach it.
    """
    loopback = is_loopback(host)
    if user is not None and password is not None:
        return user, password
    if user is not None or password is not None:
        raise UsageError(f"only one of {settings} is set; set both, or neither and stay on 127.0.0.1")
    if not loopback:
        raise UsageError(f"others can reach {host}: set {settings}, or stay on 127.0.0.1")
    return None


log = logging.getLogger(__name__)

TASKS_SHOWN = 20_000
"""Tasks kept, the latest: at the default batch size those of five million images."""

COLUMNS = "args,state,result,received,runtime,worker,uuid"
"""Of the table of tasks: all have the same name, so their arguments come first."""


def worded(task: Any) -> Any:
    """Word a batch's numbers for the pages, which cut a result off at about 45 characters; the API has them bare.

    Parameters
    ----------
    task : celery.events.state.Task
        Its ``args`` and ``result`` are texts, as Python would write the values; it is changed and returned.
    """
    if (ids := re.fullmatch(r"\((\d+), (\d+)\)", task.args or "")) is not None:
        task.args = f"run {ids[1]}, batch {ids[2]}"
    numbers = dict(re.findall(r"'(\w+)': ([\d.]+)", task.result or ""))
    if numbers.keys() >= {"images", "failures", "rate"}:
        task.result = "{images} images, {failures} failures, {rate} images/s".format(**numbers)
    return task


class _GuardedMetrics(Metrics):  # type: ignore[misc]
    """Flower's counters by worker, which it would show to anybody."""

    @authenticated
    async def get(self) -> None:
        """Answer like Flower, to those who may see the pages."""
        await super().get()


class _MaskingInspector(Inspector):  # type: ignore[misc]
    """Takes the password out of what workers tell of their broker: kombu leaves it in a Unix socket's address."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        if method == "stats" and "broker" in response:
            response["broker"]["hostname"] = maybe_sanitize_url(response["broker"].get("hostname"))
        super()._on_update(workername, method, response)


def run_flower(broker_url: str, home: Path, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    """Serve Flower's pages until SIGTERM or SIGINT, and end this process.

    Parameters
    ----------
    broker_url : str
        Redis-protocol URL; shown without its password.
    home : Path
        Keeps what was seen over a restart, in ``flower.db``.
    host, port : str, int
        Where to listen.
    credentials : tuple of str, or None
        User and password to ask for; None asks nobody, and Flower then refuses its API.

    Raises
    ------
    Outage
        The port is taken or not allowed.
    StorageOutage
        The home cannot be written.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s flower %(levelname)s %(message)s")
    # One line for each request, pages that refresh themselves included.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    # It warns four times when no worker has come up yet.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    _configure(home, host, port, credentials)
    app = celery_app(broker_url)
    # For a worker's half minute nobody would wait for a page while a broker hangs.
    app.conf.broker_transport_options = {**transport_options(), "socket_timeout": 5}
    flower = Flower(capp=app, options=options, **flower_settings)
    flower.inspector = _MaskingInspector(flower.io_loop, app, options.inspect_timeout / 1000)
    flower.add_handlers(".*", [("/metrics", _GuardedMetrics)])
    try:
        flower.start_http_server()
    except OSError as error:
        raise Outage(f"cannot listen on {host} port {port} ({error.strerror}); choose another with --port") from error
    _serve(flower, host, port, credentials)


def _configure(home: Path, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageOutage(f"{home} cannot be written ({error.strerror}); set BONESCREEN_HOME") from error
    # Flower would open its API, which tells more than the pages, to anybody.
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    options.address = host
    options.port = port
    options.basic_auth = [":".join(credentials)] if credentials else []
    # The ledger owns what is done: a task sent or revoked here, or a worker put on another queue, only disturbs it.
    options.read_only = True
    options.persistent = True
    options.db = str(home / "flower.db")
    options.max_tasks = TASKS_SHOWN
    options.tasks_columns = COLUMNS
    options.format_task = worded


def _serve(flower: Flower, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    loop: IOLoop = flower.io_loop

    def stop() -> None:
        try:
            flower.stop()
        except (*dbm.error, OSError) as error:
            log.warning("what was seen is not kept: %s", error)
        finally:
            loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.asyncio_loop.add_signal_handler(number, stop)  # type: ignore[attr-defined]
    asks = "asks for credentials" if credentials else "for this host alone, without credentials and API"
    print_line(f"Flower: http://{f'[{host}]' if ':' in host else host}:{port}/ ({asks})")
    flower.start()
    sys.stdout.flush()
    # A thread that waits for a broker that hangs would keep the process, and nothing is left to be done.
    os._exit(0)
