"""``bonescreen screen``: scan archives, screen what is new, and print the results."""

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

from bonescreen.broker import broker_socket, wait_for_broker
from bonescreen.commands.arguments import ArchivePaths, DryRun, LayoutOption, as_score
from bonescreen.commands.results import print_results
from bonescreen.context import settings_here
from bonescreen.progress import RunProgress
from bonescreen.scanning import print_plans, raise_last, report_lines, scan_each
from bonescreen.stack import home_lock, name_archives, open_database, stack_services, with_archives
from bonescreen.supervisor import Supervisor
from bonescreen.terminal import escape_unprintable, print_to
from db import ledger
from db.heartbeats import ALIVE_SECONDS, list_heartbeats
from db.queries import ResultFilter
from db.run_queries import FINISHED_STATES, RunState, run_progress, run_summary
from db.runs import ModelVersion, archive_roots
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.scan_summary import ScanReport
from producer.source import Source
from xray.errors import Outage
from xray.network.open_engine import require_engine
from xray.network.package import ModelPackage, load_package
from xray.settings import Settings
from xray.vocabulary import Layout, count

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """The settings, database and model of one `screen`."""

    settings: Settings
    database: Database
    package: ModelPackage
    model: ModelVersion
    console: Console


def screen(
    paths: ArchivePaths,
    layout: LayoutOption = Layout.AUTO,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            callback=as_score,
            help="Use this study threshold, from 0 to 1, instead of the model's in the table at the end.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Screen folders of X-ray studies, or single images, for fractures.

    Shows progress, and ends with a table of all studies. You can stop it with Ctrl-C at any time: finished results are
    saved, and the same command continues. Only new and changed files are screened. If one folder cannot be scanned, the
    others still are.

    Then look at the results with: bonescreen results, bonescreen study, bonescreen heatmap

    Example: bonescreen screen /data/archive
    """
    settings = settings_here()
    if dry_run:
        print_plans(settings, paths, layout, for_workers=False)
        return
    require_engine(settings.engine)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        stack.enter_context(home_lock(settings))
        package = load_package(settings.model)
        database = open_database(settings)
        archives = name_archives(settings, archive_roots(database), paths)
        settings = with_archives(settings, archives)
        job = Job(settings, database, package, model_version(package), console)
        with _interruptible(job):
            reports, errors = scan_each(archives, partial(_scan, job, layout))
            unfinished = [_is_unfinished(job, report) for report in reports]
            if any(unfinished):
                _work(job, reports)
    concluded = zip(reports, unfinished, strict=True)
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
            # Its own worker had claimed them: each interrupt would else count as a worker that died on them.
            with suppress(Outage):
                ledger.release_claims(job.database)
        print_to(job.console, "Stopped. Finished results are saved; run the same command to continue.")
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


def _is_unfinished(job: Job, report: ScanReport) -> bool:
    return run_progress(job.database, report.run_id).state is not RunState.DONE


def _work(job: Job, reports: list[ScanReport]) -> None:
    with Supervisor(stack_services(job.settings, job.package.path)) as supervisor:
        try:
            if job.settings.broker_url is None:
                wait_for_broker(broker_socket(job.settings), supervisor.check)
            for report in reports:
                _await(job, report, supervisor)
        except KeyboardInterrupt:
            # The services need some seconds to stop; without a message, people press Ctrl-C again, which kills them.
            print_to(job.console, "Stopping ...")
            raise


def _await(job: Job, report: ScanReport, supervisor: Supervisor) -> None:
    """Print progress until a run is finished; an outage is printed and waited out."""
    starting_until = time.monotonic() + 2 * ALIVE_SECONDS
    with RunProgress(job.console) as progress:
        while True:
            try:
                now = run_progress(job.database, report.run_id)
                problem = _problem(job, supervisor.check(), starting=time.monotonic() < starting_until)
                progress.update(now, problem)
                if now.state in FINISHED_STATES:
                    return
            except Outage as outage:
                progress.problem(str(outage))
                supervisor.check()
            time.sleep(POLL_SECONDS)


def _conclude(job: Job, report: ScanReport, threshold: float | None, *, worked: bool) -> RunState:
    summary = run_summary(job.database, report.run_id)
    if not worked:
        print_to(job.console, f"Everything is already screened: {count(summary.studies, 'study')}, nothing new.")
    print_results(job.database, ResultFilter(run=report.run_id, threshold=threshold), [summary])
    if summary.failed:
        print_to(
            job.console, f"{count(summary.failed, 'image')} could not be read; see: bonescreen failures {summary.run}"
        )
    if summary.state is RunState.CANCELLED:
        processed = f"{summary.processed:,} of {count(summary.images, 'image')} processed"
        again = f"Continue it with: bonescreen resume {summary.run}"
        print_to(job.console, f"Run {summary.run} was cancelled, {processed}. {again}")
    print_to(job.console, "See one study with: bonescreen study STUDY, bonescreen heatmap STUDY -o DIR")
    return summary.state


def _problem(job: Job, dying: list[str], *, starting: bool) -> str | None:
    if dying:
        return f"the {dying[0]} process keeps failing; see {job.settings.home / 'logs'}/{dying[0]}.log"
    alive = [beat for beat in list_heartbeats(job.database) if beat.alive]
    if not alive and not starting:
        # While another process locks an SQLite database, they can report no problem in it, but it can still be read.
        logs = job.settings.home / "logs"
        return f"feeder and worker cannot write to the database {job.database.masked_url}; see {logs}"
    return next((beat.problem for beat in alive if beat.problem), None)
