"""The server of the pages: one process, threads, until SIGTERM or SIGINT."""

import logging
import signal
import sys

import uvicorn
from fastapi import FastAPI

from bonescreen import listening
from bonescreen.terminal import print_line

MOST_CONNECTIONS = 200
"""More get 503 at once: each may hold a picture of some megabytes."""

STOP_SECONDS = 5


def run_server(app: FastAPI, host: str, port: int, access: str) -> None:
    """Serve the pages until SIGTERM or SIGINT.

    Parameters
    ----------
    app : FastAPI
    host, port : str, int
        The address to listen on.
    access : str
        Who may use the pages, for the line that names their URL.

    Raises
    ------
    Outage
        The port is in use or not allowed.
    """
    # Its lines of each request would hold studies' numbers and what was searched for.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    # To stop on either is a success; uvicorn raises the signal again when it has stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with listening.bind(host, port) as listener:
        print_line(f"Pages: {listening.url(host, port)} ({access})")
        sys.stdout.flush()
        uvicorn.Server(config).run(sockets=[listener])
