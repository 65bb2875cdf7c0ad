"""``enqueue``, ``worker`` and ``feed``: the parts that `screen` joins, each by itself, for many machines."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from bonescreen.commands.arguments import ArchivePaths, DryRun, LayoutOption
from bonescreen.planned import show_plans
from bonescreen.scanned import raise_last, report_lines, scan_each
from bonescreen.show import count, notice, say
from bonescreen.stack import name_archives, open_database, require_configured, service_environ, work_services
from bonescreen.supervisor import Supervisor
from db import ledger
from db.runs import archive_roots
from producer.find import Source
from producer.model import model_version
from producer.report import ScanReport
from producer.scan import scan_archive
from xray.engine import require_engine
from xray.errors import Outage, UsageError
from xray.package import load_package
from xray.settings import read_settings
from xray.studies import Layout


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
            say(line)
        say(f"Run {report.run_id}: {count(report.batches, 'batch')} to do")
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
                notice("Stopping ...")
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
