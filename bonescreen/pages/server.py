"""The server of the pages: one process, threads, until SIGTERM or SIGINT."""

import asyncio
import logging
import os
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
    """Serve the pages until SIGTERM or SIGINT, then end this process.

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
    # At the end it cancels those that still wait, for an archive that does not answer, and that is no error.
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
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
    sys.stdout.flush()
    # Ends the process although a thread may still wait for an archive that does not answer.
    os._exit(0)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not record.exc_info or not isinstance(record.exc_info[1], asyncio.CancelledError)
