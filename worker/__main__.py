"""``python -m worker``: one Celery worker for the configured model. `bonescreen worker` supervises it."""

import logging
import os
import sys
import time
from contextlib import suppress
from functools import partial

from celery.signals import after_setup_logger, after_setup_task_logger

from db.heartbeats import record_heartbeat, remove_heartbeat
from db.session import Database
from worker.app import make_app
from xray.errors import BonescreenError, Outage, PackageError, UsageError
from xray.log_lines import configure_logging, formatter, set_level
from xray.message import RENEW_SECONDS
from xray.network.package import ModelPackage, load_package
from xray.printable import escape_unprintable
from xray.settings import Settings, read_settings

log = logging.getLogger("worker")


def main() -> int:
    """Run the worker until it is shut down."""
    try:
        settings = read_settings(os.environ)
        if settings.broker_url is None:
            raise UsageError("a worker needs BONESCREEN_BROKER_URL; `bonescreen screen` starts a broker of its own")
        # Celery sets up handlers of its own; this is for what is said before.
        configure_logging(settings, "worker")
        package = _await_package(settings)
    except BonescreenError as error:
        print(f"error: {escape_unprintable(str(error))}", file=sys.stderr)
        return 2
    app = make_app(settings, package, settings.broker_url)
    # Celery's own banner is no log line.
    quiet = ["--quiet"] if settings.log_format == "json" else []
    name = f"--hostname=worker@{settings.worker_name}"
    if settings.log_format == "json":
        for signal in (after_setup_logger, after_setup_task_logger):
            signal.connect(partial(_write_json, formatter(settings, "worker")), weak=False)
    after_setup_logger.connect(lambda **_: set_level(settings), weak=False)
    level = f"--loglevel={settings.log_level.upper()}"
    options = ["--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", level]
    app.worker_main([*quiet, "worker", name, *options])
    return 0


def _await_package(settings: Settings) -> ModelPackage:
    """Load the model package; while it is missing, wait, and report that as what this worker waits for.

    The command that started this worker has loaded it before, so its storage is away.
    """
    try:
        return load_package(settings.model)
    except PackageError as error:
        log.warning("waiting: %s", escape_unprintable(str(error)))
    database = Database(settings.effective_database_url)
    name = f"{settings.worker_signature}:{os.getpid()}"
    try:
        while True:
            try:
                package = load_package(settings.model)
            except PackageError as error:
                with suppress(Outage):
                    record_heartbeat(database, name, "worker", None, f"the model cannot be loaded: {error}")
                time.sleep(RENEW_SECONDS)
            else:
                with suppress(Outage):
                    remove_heartbeat(database, name)
                return package
    finally:
        # The child process is forked from this one, and opens its own.
        database.close()


def _write_json(json_lines: logging.Formatter, logger: logging.Logger, **_: object) -> None:
    for handler in logger.handlers:
        handler.setFormatter(json_lines)


if __name__ == "__main__":
    sys.exit(main())
