"""``enqueue``, ``worker`` and ``feed``: the parts that `screen` joins, each by itself, for many machines."""

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonescreen.broker import answers, broker_socket
from bonescreen.broker import broker_url as embedded_broker_url
from bonescreen.commands.arguments import ArchivePaths, DryRun, LayoutOption
from bonescreen.context import open_ledger, settings_here
from bonescreen.monitor import require_credentials
from bonescreen.problems import broker_fault
from bonescreen.scanning import raise_last, report_lines, scan_each, show_plans
from bonescreen.stack import name_archives, open_database, require_configured, service_environ, work_services
from bonescreen.supervisor import Supervisor
from bonescreen.terminal import count, print_line, print_notice
from db import ledger
from db.heartbeats import Heartbeat, list_heartbeats
from db.runs import archive_roots
from producer.find import Source
from producer.scan import model_version, scan_archive
from producer.scan_report import ScanReport
from xray.errors import BrokerOutage, Outage, UsageError
from xray.network.open_engine import require_engine
from xray.network.package import load_package
from xray.settings import Settings, read_settings
from xray.vocabulary import Layout


def enqueue(
    paths: ArchivePaths,
    layout: LayoutOption = Layout.AUTO,
    dry_run: DryRun = False,
) -> None:
    """Scan archives into the database and leave the work to workers.

    An archive that cannot be scanned does not keep the others from it. With a database configured, every archive must
    be named in BONESCREEN_ARCHIVES, as workers find it by its name.

    Example: BONESCREEN_ARCHIVES=hospital=/data/archive bonescreen enqueue hospital
    """
    settings = read_settings(os.environ)
    if dry_run:
        show_plans(settings, paths, layout, for_workers=True)
        return
    model = model_version(load_package(settings.model))
    if settings.database_url is None:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(settings)
    archives = name_archives(settings, archive_roots(database), paths)
    require_configured(settings, archives)

    def scan(name: str, root: Path) -> ScanReport:
        source = Source.configured(root, settings, layout)
        report = scan_archive(database, name, source, model, batch_size=settings.batch_size)
        for line in report_lines(report, root):
            print_line(line)
        print_line(f"Run {report.run_id}: {count(report.batches, 'batch')} to do")
        return report

    _, errors = scan_each(archives, scan)
    raise_last(errors)


def worker() -> None:
    """Screen batches from the broker with the configured model, until stopped.

    Runs one Celery worker and a feeder and keeps both running; start one on each machine or device.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 BONESCREEN_ARCHIVES=hospital=/data/archive bonescreen worker
    """
    settings = read_settings(os.environ)
    if settings.broker_url is None:
        raise UsageError("set BONESCREEN_BROKER_URL; without a broker of your own, `bonescreen screen` does it all")
    require_engine(settings.engine)
    package = load_package(settings.model)
    database = open_database(settings)
    services = work_services(service_environ(settings, package.path))
    stop = threading.Event()
    # Asked to stop, it has done what it was asked: exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with Supervisor(services) as supervisor:
            try:
                while not stop.wait(0.5):
                    supervisor.check()
            finally:
                print_notice("Stopping ...")
    finally:
        # A batch that it had no time to end would else count as one on which a worker was lost.
        with suppress(Outage):
            ledger.hand_back_all(database, settings.worker_signature)


def feed() -> None:
    """Feed the broker from the database, until stopped.

    Every worker brings a feeder of its own; one more, near the database, does no harm and survives them all.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 bonescreen feed
    """
    # Celery takes half a second to import, which the other commands need not wait for.
    from producer.__main__ import run_feeder

    run_feeder(read_settings(os.environ))


def flower(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 5555,
) -> None:
    """Serve Flower's pages: the workers on this broker and their batches, until stopped.

    They only show; steer with `cancel`, `resume` and `retry`. Whoever opens them is asked for the credentials in
    BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD, without which Flower stays on this host and has no API.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 bonescreen flower
    """
    settings = settings_here()
    credentials = require_credentials(
        host,
        settings.flower_user,
        settings.flower_password,
        "BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD",
    )
    url = _broker_url(settings)
    if (fault := broker_fault(url)) is not None:
        raise BrokerOutage(fault)
    # Flower takes a second to import, which the other commands need not wait for.
    from bonescreen.monitor import run_flower

    run_flower(url, settings.home, host, port, credentials)


def _broker_url(settings: Settings) -> str:
    if settings.broker_url is not None:
        return settings.broker_url
    if not answers(broker_socket(settings)):
        raise UsageError(
            f"set BONESCREEN_BROKER_URL; no `bonescreen screen`, whose broker could be shown, runs in {settings.home}"
        )
    return embedded_broker_url(settings)


class Role(StrEnum):
    """What a process does, as its heartbeats say."""

    WORKER = "worker"
    FEEDER = "feeder"


def health(roles: Annotated[list[Role], typer.Argument(metavar="ROLE...", help="worker, feeder, or both.")]) -> None:
    """Tell whether this host has a process of each role that is alive in the database and waits for nothing.

    The exit code is 0 if so, 1 if not or when the database does not answer.

    Example: bonescreen health worker feeder
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        processes = list_heartbeats(database)
    names = {Role.WORKER: settings.worker_signature, Role.FEEDER: socket.gethostname()}
    found = list(faults(processes, {role: names[role] for role in roles}))
    for fault in found:
        print_line(fault)
    if found:
        raise typer.Exit(1)
    print_line(f"Alive here: {', '.join(roles)}.")


def faults(processes: Sequence[Heartbeat], names: Mapping[Role, str]) -> Iterator[str]:
    """Yield a line for each role that no process of this host fills, and for each process that waits.

    Parameters
    ----------
    processes : sequence of Heartbeat
        Of every host; a process is listed as ``name:pid``.
    names : mapping of Role to str
        The roles looked at, and this host's name in each.
    """
    for role, name in names.items():
        here = [
            process
            for process in processes
            if process.alive and process.role == role and process.name.rpartition(":")[0] == name
        ]
        if not here:
            yield f"No {role} {name} is alive."
        yield from (f"The {role} {process.name} waits: {process.problem}" for process in here if process.problem)
