"""The processes that `screen` runs on one machine, each as a command for a cluster, and their health check."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Annotated

import typer

from bonescreen.broker import broker_socket, is_ready
from bonescreen.broker import broker_url as embedded_broker_url
from bonescreen.choose_model import model_for_archive
from bonescreen.commands.arguments import (
    ArchivePaths,
    DryRun,
    LayoutOption,
    Modality,
    Priority,
    Since,
    as_port,
    selected,
)
from bonescreen.context import open_ledger, require_access, settings_here
from bonescreen.problems import broker_fault
from bonescreen.scanning import print_plans, raise_if_partial, raise_last, report_lines, scan_each
from bonescreen.stack import name_archives, open_database, require_configured, service_environ, work_services
from bonescreen.supervisor import Supervisor
from bonescreen.terminal import print_line
from db import ledger
from db.heartbeats import Heartbeat, list_heartbeats
from db.runs import archive_roots
from producer.scan import scan_archive
from producer.scan_summary import ScanReport
from producer.source import Source
from xray.archive_root import Root
from xray.errors import BrokerOutage, Outage, UsageError
from xray.log_lines import configure_logging
from xray.network.open_engine import require_engine
from xray.network.package import load_package
from xray.network.precision import served_precisions
from xray.settings import Settings
from xray.vocabulary import Layout, count

log = logging.getLogger(__name__)


def enqueue(
    paths: ArchivePaths,
    layout: LayoutOption = Layout.AUTO,
    since: Since = None,
    modality: Modality = None,
    priority: Priority = None,
    dry_run: DryRun = False,
) -> None:
    """Scan archives, and leave the screening to workers.

    With a configured database, every archive needs a name in BONESCREEN_ARCHIVES, by which workers find it on their
    own machine. Run it again when an archive has grown: only new and changed files are screened. If one archive cannot
    be scanned, the others still are. Watch the workers with: bonescreen status

    The exit code is 3 if a part could not be looked at, such as a folder without rights or a damaged zip.

    Example: BONESCREEN_ARCHIVES=hospital=/data/archive bonescreen enqueue hospital
    """
    settings = settings_here()
    selection = selected(since, modality)
    if dry_run:
        print_plans(settings, paths, layout, selection, for_workers=True)
        return
    package = load_package(settings.model)
    if settings.database_url is None:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(settings)
    archives = name_archives(settings, archive_roots(database), paths)
    require_configured(settings, archives)

    def scan(name: str, root: Root) -> ScanReport:
        source = Source.configured(root, settings, layout, selection)
        # With a database of its own, this machine does the work too.
        model = model_for_archive(settings, database, package, name, works_here=settings.database_url is None)
        report = scan_archive(database, name, source, model, batch_size=settings.batch_size, priority=priority)
        for line in report_lines(report, root, package.card.scope):
            print_line(line)
        print_line(f"Run {report.run_id} in {model.precision}: {count(report.batches, 'batch')} to do")
        return report

    reports, errors = scan_each(archives, settings.hours, scan)
    raise_last(errors)
    raise_if_partial(reports)


def worker() -> None:
    """Screen batches with the configured model until stopped.

    Start one on each machine, or for each GPU. It keeps one Celery worker and a feeder running.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 BONESCREEN_ARCHIVES=hospital=/data/archive bonescreen worker
    """
    settings = settings_here()
    if settings.broker_url is None:
        raise UsageError("set BONESCREEN_BROKER_URL; to screen on this machine alone, use: bonescreen screen PATH")
    require_engine(settings.engine)
    require_access(settings.archives.values())
    package = load_package(settings.model)
    served_precisions(package, settings.engine, settings.precision)
    database = open_database(settings)
    services = work_services(service_environ(settings, package.path))
    configure_logging(settings, "worker")
    stop = threading.Event()
    # To stop on SIGTERM is a success: exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with Supervisor(services) as supervisor:
            try:
                while not stop.wait(0.5):
                    supervisor.check()
            finally:
                log.info("stopping")
    finally:
        # A batch that was not finished in time would else count as one on which a worker died.
        with suppress(Outage):
            ledger.release_claims(database, settings.worker_signature)


def feed() -> None:
    """Send batches from the database to the broker until stopped.

    Each worker runs a feeder too. An additional one near the database keeps the queue filled when workers come and go.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 bonescreen feed
    """
    # Celery takes half a second to import, which the other commands need not wait for.
    from producer.__main__ import run_feeder

    settings = settings_here()
    require_access(settings.archives.values())
    run_feeder(settings)


def flower(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", callback=as_port, help="The port to listen on.")] = 5555,
) -> None:
    """Serve Flower, a web page of the workers and their batches.

    It is read-only: to control runs, use cancel, resume and retry. It requires the login set in BONESCREEN_FLOWER_USER
    and BONESCREEN_FLOWER_PASSWORD; without these it is reachable from this machine only and has no API. Stop it with
    Ctrl-C.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 bonescreen flower
    """
    # Flower takes a second to import, which the other commands need not wait for.
    from bonescreen.monitor import require_credentials, run_flower

    settings = settings_here()
    credentials = require_credentials(
        host,
        settings.flower_user,
        settings.flower_password,
        "BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD",
    )
    url = _broker_url(settings)
    if (fault := broker_fault(url)) is not None:
        raise BrokerOutage(fault.problem)
    configure_logging(settings, "flower")
    run_flower(url, settings.home, host, port, credentials)


def _broker_url(settings: Settings) -> str:
    if settings.broker_url is not None:
        return settings.broker_url
    if not is_ready(broker_socket(settings)):
        raise UsageError(
            f"there is no broker to show: set BONESCREEN_BROKER_URL, or start `bonescreen screen` in {settings.home}"
        )
    return embedded_broker_url(settings)


class Role(StrEnum):
    """The role of a process, as its heartbeats name it."""

    WORKER = "worker"
    FEEDER = "feeder"


def health(roles: Annotated[list[Role], typer.Argument(metavar="ROLE", help="worker, feeder, or both.")]) -> None:
    """Check that this machine's worker and feeder are alive and not waiting.

    Intended as a container health check: the exit code is 0 if they are, and 1 if not or if the database does not
    answer. For interactive use, run: bonescreen status

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
        The roles to check, and this host's name in each.
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
