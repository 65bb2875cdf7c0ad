"""Metrics for Prometheus: print them, or serve them."""

import ipaddress
import signal
import socket
import sys
import threading
from contextlib import closing, suppress
from socketserver import ThreadingMixIn
from typing import Annotated
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import WSGIApplication

import typer

from bonescreen.commands.arguments import as_port
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import print_line, print_notice
from db.session import Database
from xray.errors import Outage

LOOPBACK = "127.0.0.1"
CLIENT_SECONDS = 10
"""How long a client may take to ask."""


def as_address(text: str | None) -> str | None:
    """Check ``[HOST:]PORT``; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is not of that form, or the port is not from 1 to 65535.
    """
    if text is not None:
        _split(text)
    return text


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise typer.BadParameter("must be a port, or an address and a port, such as 9109 or 10.0.0.5:9109")
    return host.strip("[]") or LOOPBACK, as_port(int(port))


def metrics(
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve",
            metavar="[HOST:]PORT",
            callback=as_address,
            help="Answer GET /metrics there until stopped; without a host, from this machine only.",
        ),
    ] = None,
) -> None:
    """Print metrics for Prometheus: queue, open batches, images, workers, feeders, scans.

    They are read from the database and the broker, and name no path, study or patient. Write them to a file for
    node_exporter's textfile collector, or serve them with --serve, without credentials. If the database does not
    answer, bonescreen_database_up is 0, and the exit code is 0 all the same.

    Alert rules and a dashboard: docs/monitoring. For people: bonescreen status

    Example: bonescreen metrics --serve 9109
    """
    # They take half a second to import, which the other commands need not wait for.
    from bonescreen.metrics import metrics_application, metrics_text

    settings = settings_here()
    # In an outage there are metrics too; anything else that is wrong with the database is an error.
    with suppress(Outage), open_ledger(settings):
        pass
    with closing(Database(settings.effective_database_url)) as database:
        if serve is None:
            sys.stdout.write(metrics_text(settings, database))
        else:
            _serve(metrics_application(settings, database), *_split(serve))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: Prometheus asks every few seconds."""


def _serve(application: WSGIApplication, host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = type("Listening", (_Server,), {"address_family": family})
        server: WSGIServer = make_server(host, port, application, listening, _QuietHandler)
    except OSError as error:
        raise Outage(f"cannot listen on {host} port {port} ({error.strerror}); choose a different one") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread, as shutdown waits for the loop that this handler interrupts.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    shown = f"[{host}]" if ":" in host else host
    print_line(f"Metrics: http://{shown}:{port}/metrics")
    if not ipaddress.ip_address(str(server.server_address[0])).is_loopback:
        print_notice("Whoever can reach this address can read these numbers: there are no credentials.")
    sys.stdout.flush()
    with server:
        server.serve_forever()
