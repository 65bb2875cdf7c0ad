"""``bonescreen screen``: scan, enqueue, work, wait: the whole job."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bonescreen.broker import await_broker, broker_socket
from bonescreen.commands.arguments import ArchivePaths, DryRun, LayoutOption
from bonescreen.commands.results import print_results
from bonescreen.progress import RunProgress
from bonescreen.scanning import raise_last, report_lines, scan_each, show_plans
from bonescreen.stack import home_lock, name_archives, open_database, stack_services, with_archives
from bonescreen.supervisor import Supervisor
from bonescreen.terminal import count, escape_unprintable, print_to
from db import ledger
from db.heartbeats import ALIVE_SECONDS, list_heartbeats
from db.queries import ResultFilter
from db.run_queries import AT_AN_END, RunState, run_progress, run_summary
from db.runs import ModelVersion, archive_roots
from db.session import Database
from producer.find import Source
from producer.scan import model_version, scan_archive
from producer.scan_report import ScanReport
from xray.errors import Outage
from xray.network.open_engine import require_engine
from xray.network.package import ModelPackage, load_package
from xray.settings import Settings, read_settings
from xray.vocabulary import Layout

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One `screen`: what it works with."""

    settings: Settings
    database: Database
    package: ModelPackage
    model: ModelVersion
    console: Console


def screen(
    paths: ArchivePaths,
    layout: LayoutOption = Layout.AUTO,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Flag studies at or over this score in the table shown.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Screen folders of X-ray studies: score, label and heat map for every study.

    Scans the folders, screens what is new with the model, shows progress, and ends with a table. Interrupt it
    whenever you like; run again, it does only what is left. A folder that cannot be scanned does not keep the others
    from it.

    It always brings a worker of its own; to leave the work to other machines, see `bonescreen enqueue`.

    Example: bonescreen screen /data/archive
    """
    settings = read_settings(os.environ)
    if dry_run:
        show_plans(settings, paths, layout, for_workers=False)
        return
    require_engine(settings.engine)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as held:
        held.enter_context(home_lock(settings))
        package = load_package(settings.model)
        database = open_database(settings)
        archives = name_archives(settings, archive_roots(database), paths)
        settings = with_archives(settings, archives)
        job = Job(settings, database, package, model_version(package), console)
        with _interruptible(job):
            reports, errors = scan_each(archives, partial(_scan, job, layout))
            opened = [_open(job, report) for report in reports]
            if any(opened):
                _work(job, reports)
    concluded = zip(reports, opened, strict=True)
    ended = [_conclude(job, report, threshold, worked=worked) for report, worked in concluded]
    raise_last(errors)
    if RunState.CANCELLED in ended:
        raise typer.Exit(1)


@contextmanager
def _interruptible(job: Job) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if job.settings.database_url is None:
            # Its own worker held them: else each interrupt would count as one that was lost on them.
            with suppress(Outage):
                ledger.hand_back_all(job.database)
        print_to(job.console, "Stopped. Nothing is lost: run the same command again to do what is left.")
        raise typer.Exit(130) from None


def _scan(job: Job, layout: Layout, name: str, root: Path) -> ScanReport:
    with job.console.status(Text(f"Scanning {escape_unprintable(str(root))} ...")) as status:

        def found(images: int) -> None:
            status.update(Text(f"Scanning ... {images:,} images"))

        report = scan_archive(
            job.database,
            name,
            Source.configured(root, job.settings, layout),
            job.model,
            batch_size=job.settings.batch_size,
            progress=found,
        )
    for line in report_lines(report, root):
        print_to(job.console, line)
    return report


def _open(job: Job, report: ScanReport) -> bool:
    return run_progress(job.database, report.run_id).state is not RunState.DONE


def _work(job: Job, reports: list[ScanReport]) -> None:
    with Supervisor(stack_services(job.settings, job.package.path)) as supervisor:
        try:
            if job.settings.broker_url is None:
                await_broker(broker_socket(job.settings), supervisor.check)
            for report in reports:
                _await(job, report, supervisor)
        except KeyboardInterrupt:
            # The services take their time to stop; without a word, people press it again, which kills them.
            print_to(job.console, "Stopping ...")
            raise


def _await(job: Job, report: ScanReport, supervisor: Supervisor) -> None:
    """Show progress until a run is done; an outage is shown and waited out."""
    patient_until = time.monotonic() + 2 * ALIVE_SECONDS
    with RunProgress(job.console) as shown:
        while True:
            try:
                now = run_progress(job.database, report.run_id)
                problem = _problem(job, supervisor.check(), starting=time.monotonic() < patient_until)
                shown.update(now, problem)
                if now.state in AT_AN_END:
                    return
            except Outage as outage:
                shown.problem(str(outage))
                supervisor.check()
            time.sleep(POLL_SECONDS)


def _conclude(job: Job, report: ScanReport, threshold: float | None, *, worked: bool) -> RunState:
    summary = run_summary(job.database, report.run_id)
    if not worked:
        print_to(job.console, f"Everything is already screened: {count(summary.studies, 'study')}, nothing new.")
    print_results(job.database, ResultFilter(run=report.run_id, threshold=threshold), [summary])
    if summary.failed:
        print_to(job.console, f"{count(summary.failed, 'image')} could not be read: bonescreen failures {summary.run}")
    if summary.state is RunState.CANCELLED:
        processed = f"{summary.processed:,} of {count(summary.images, 'image')} settled"
        again = f"Take it up again with: bonescreen resume {summary.run}"
        print_to(job.console, f"Run {summary.run} was cancelled, {processed}. {again}")
    print_to(job.console, "Look closer: bonescreen study STUDY, bonescreen heatmap STUDY -o DIR")
    return summary.state


def _problem(job: Job, dying: list[str], *, starting: bool) -> str | None:
    if dying:
        return f"the {dying[0]} keeps ending; see {job.settings.home / 'logs'}/{dying[0]}.log"
    alive = [beat for beat in list_heartbeats(job.database) if beat.alive]
    if not alive and not starting:
        # They can write down no problem while another process locks an SQLite database, which can still be read.
        return (
            f"feeder and worker cannot write to the database {job.database.shown_url}; see {job.settings.home / 'logs'}"
        )
    return next((beat.problem for beat in alive if beat.problem), None)
