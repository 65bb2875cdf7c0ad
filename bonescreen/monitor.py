"""Flower, the monitor of Celery workers: read-only, and behind credentials unless only this host can reach it."""

import dbm
import logging
import os
import re
import signal
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

from bonescreen.listening import is_loopback, url
from bonescreen.terminal import print_line
from worker.app import celery_app
from xray.errors import Outage, StorageOutage, UsageError
from xray.message import transport_options

log = logging.getLogger(__name__)

MAX_TASKS = 20_000
"""The latest tasks are kept: at the default batch size, those of five million images."""

COLUMNS = "args,state,result,received,runtime,worker,uuid"
"""Columns of the table of tasks. All tasks have the same name, so it is left out."""

GONE_SECONDS = 30
"""Workers that have sent nothing for so long, and that Celery takes for offline, are no longer listed."""

BROKER_TIMEOUT_SECONDS = 5
"""Shorter than a worker's: a page must not wait for half a minute for a broker that does not respond."""


def require_credentials(host: str, user: str | None, password: str | None, settings: str) -> tuple[str, str] | None:
    """Return the user and password to ask for, or None if they are not set and only this host can reach the pages.

    Parameters
    ----------
    host : str
        The address or name to listen on.
    user, password : str or None
        The settings' values.
    settings : str
        The settings' names, for the error.

    Raises
    ------
    UsageError
        The address is unknown; or only one of user and password is set; or neither, and other hosts can reach it.
    """
    loopback = is_loopback(host)
    if user is not None and password is not None:
        return user, password
    if user is not None or password is not None:
        raise UsageError(f"only one of {settings} is set; set both, or unset it and listen on 127.0.0.1")
    if not loopback:
        raise UsageError(f"other hosts can reach {host}; set {settings}, or listen on 127.0.0.1")
    return None


def run_flower(broker_url: str, home: Path, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    """Serve Flower's pages until SIGTERM or SIGINT, then end this process.

    Parameters
    ----------
    broker_url : str
        Redis-protocol URL; pages show it without its password.
    home : Path
        Folder for Flower's history, ``flower.db``, which is kept when it restarts.
    host, port : str, int
        The address to listen on.
    credentials : tuple of str, or None
        User and password to ask for. With None, the pages are open and Flower refuses requests to its API.

    Raises
    ------
    Outage
        The port is in use or not allowed.
    StorageOutage
        The home cannot be written.
    """
    # It logs every request, also those of pages that refresh themselves.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    # It logs four warnings while no worker has started yet.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    _configure(home, host, port, credentials)
    app = celery_app(broker_url)
    app.conf.broker_transport_options = {**transport_options(), "socket_timeout": BROKER_TIMEOUT_SECONDS}
    flower = Flower(capp=app, options=options, **flower_settings)
    flower.inspector = _MaskingInspector(flower.io_loop, app, options.inspect_timeout / 1000)
    flower.add_handlers(".*", [("/metrics", _AuthenticatedMetrics)])
    try:
        flower.start_http_server()
    except OSError as error:
        raise Outage(
            f"cannot listen on {host} port {port} ({error.strerror}); choose a different one with --port"
        ) from error
    _serve(flower, host, port, credentials)


def _configure(home: Path, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageOutage(f"{home} cannot be written ({error.strerror}); set BONESCREEN_HOME") from error
    # It would open Flower's API, which tells more than the pages, without credentials.
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    options.address = host
    options.port = port
    options.basic_auth = [":".join(credentials)] if credentials else []
    # The ledger owns the work: nobody must send or revoke tasks here, or move a worker to a different queue.
    options.read_only = True
    options.purge_offline_workers = GONE_SECONDS
    options.persistent = True
    options.db = str(home / "flower.db")
    options.max_tasks = MAX_TASKS
    options.tasks_columns = COLUMNS
    options.format_task = format_task


def format_task(task: Any) -> Any:
    """Shorten a task's arguments and result for the pages, which truncate them at about 45 characters.

    The API is not affected.

    Parameters
    ----------
    task : celery.events.state.Task
        Its ``args`` and ``result`` are the values' `repr`; it is changed and returned.
    """
    numbers = dict(re.findall(r"'(\w+)': ([\d.]+)", task.result or ""))
    if numbers.keys() >= {"run", "batch"}:
        task.args = "run {run}, batch {batch}".format(**numbers)
    elif (run := re.fullmatch(r"\((\d+),\)", task.args or "")) is not None:
        task.args = f"run {run[1]}"
    if numbers.keys() >= {"images", "failures", "rate"}:
        task.result = "{images} images, {failures} failures, {rate} images/s".format(**numbers)
    return task


class _AuthenticatedMetrics(Metrics):  # type: ignore[misc]
    """Flower's metrics, which it would otherwise serve without credentials."""

    @authenticated
    async def get(self) -> None:
        """Serve the metrics if the request has the credentials."""
        await super().get()


class _MaskingInspector(Inspector):  # type: ignore[misc]
    """Removes the password from what workers report of their broker: kombu leaves it in a Unix socket's URL."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        if method == "stats" and "broker" in response:
            response["broker"]["hostname"] = maybe_sanitize_url(response["broker"].get("hostname"))
        super()._on_update(workername, method, response)


def _serve(flower: Flower, host: str, port: int, credentials: tuple[str, str] | None) -> None:
    loop: IOLoop = flower.io_loop

    def stop() -> None:
        try:
            flower.stop()
        except (*dbm.error, OSError) as error:
            log.warning("the history was not saved: %s", error)
        finally:
            loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.asyncio_loop.add_signal_handler(number, stop)  # type: ignore[attr-defined]
    access = "asks for credentials" if credentials else "only from this host, without credentials and without the API"
    print_line(f"Flower: {url(host, port)} ({access})")
    flower.start()
    sys.stdout.flush()
    # Ends the process although a thread may still wait for a broker that does not respond.
    os._exit(0)
