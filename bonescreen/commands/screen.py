"""``bonescreen screen``: scan archives, screen what is new, and print the results."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bonescreen.broker import broker_socket, wait_for_broker
from bonescreen.choose_model import model_for_archive
from bonescreen.commands.arguments import (
    ArchivePaths,
    DryRun,
    LayoutOption,
    Modality,
    Priority,
    Since,
    as_score,
    selected,
)
from bonescreen.context import settings_here
from bonescreen.progress import RunProgress
from bonescreen.results_table import count_studies, print_studies
from bonescreen.scanning import print_plans, raise_if_partial, raise_last, report_lines, scan_each
from bonescreen.stack import home_lock, name_archives, open_database, stack_services, with_archives
from bonescreen.supervisor import Supervisor
from bonescreen.terminal import print_line, print_to
from db import ledger
from db.failures import count_repairs
from db.heartbeats import ALIVE_SECONDS, Activity, Heartbeat, list_heartbeats, remove_all_heartbeats
from db.queries import ResultFilter
from db.run_queries import FINISHED_STATES, RunState, RunSummary, run_progress, run_summary
from db.runs import archive_roots
from db.session import Database
from producer.scan import scan_archive
from producer.scan_summary import ScanReport
from producer.selection import Selection
from producer.source import Source
from xray.archive_root import Root
from xray.errors import Outage
from xray.network.open_engine import require_engine
from xray.network.package import ModelPackage, load_package
from xray.printable import escape_unprintable
from xray.settings import Settings
from xray.vocabulary import RESEARCH_NOTICE, Layout, count

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ScannedArchive:
    """An archive that was scanned, its run and that one's queue, and how many images of it were processed before."""

    name: str
    run: int
    queue: str
    processed: int


@dataclass(frozen=True)
class Job:
    """The settings, database and model of one `screen`, the command that continues it, and what it has scanned."""

    settings: Settings
    database: Database
    package: ModelPackage
    console: Console
    command: str
    scanned: list[ScannedArchive] = field(default_factory=list)


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
    since: Since = None,
    modality: Modality = None,
    priority: Priority = None,
    dry_run: DryRun = False,
) -> None:
    """Screen folders of X-ray studies, single images, or the studies of a DICOMweb service, for fractures.

    Shows progress, and ends with a table of studies and a summary. You can stop it with Ctrl-C at any time: finished
    results are saved, and the same command continues. Only new and changed files are screened. If one folder cannot be
    scanned, the others still are.

    Then look at the results with: bonescreen serve, bonescreen results, bonescreen report

    The exit code is 3 if a part could not be looked at, such as a folder without rights or a damaged zip; the rest is
    screened. It is 1 or 2 after an error, else 0.

    Example: bonescreen screen /data/archive
    """
    settings = settings_here()
    selection = selected(since, modality)
    if dry_run:
        print_plans(settings, paths, layout, selection, for_workers=False)
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
        job = Job(settings, database, package, console, _command(paths, layout, threshold, selection, priority))
        with _interruptible(job):
            reports, errors = scan_each(archives, settings.hours, partial(_scan, job, layout, selection, priority))
            unfinished = [_is_unfinished(job, archive) for archive in job.scanned]
            seconds = _work(job) if any(unfinished) else 0.0
    summaries = [run_summary(database, archive.run) for archive in job.scanned]
    for summary, worked in zip(summaries, unfinished, strict=True):
        if not worked:
            studies = count(summary.studies, "study")
            print_to(console, f"Everything is already screened: {studies}, nothing new.")
        print_studies(database, ResultFilter(run=summary.run, threshold=threshold), [summary])
    if summaries:
        done = sum(summary.processed for summary in summaries) - sum(archive.processed for archive in job.scanned)
        _sum_up(job, summaries, threshold, done, seconds)
    raise_last(errors)
    if RunState.CANCELLED in [summary.state for summary in summaries]:
        raise typer.Exit(1)
    raise_if_partial(reports)


def _command(
    paths: Sequence[str], layout: Layout, threshold: float | None, selection: Selection, priority: int | None
) -> str:
    """Return the command that continues this one."""
    options = ["--layout", layout] if layout is not Layout.AUTO else []
    options += ["--threshold", f"{threshold}"] if threshold is not None else []
    options += ["--since", selection.since.isoformat()] if selection.since else []
    options += ["--modality", ",".join(selection.modalities)] if selection.modalities else []
    options += ["--priority", f"{priority}"] if priority is not None else []
    return " ".join(["bonescreen", "screen", *(quote(word) for word in (*paths, *options))])


@contextmanager
def _interruptible(job: Job) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        done = "Stopped while scanning."
        with suppress(Outage):
            found = [run_progress(job.database, archive.run) for archive in job.scanned]
            if found:
                processed, images = sum(run.processed for run in found), sum(run.images for run in found)
                done = f"Stopped: {processed:,} of {count(images, 'image')} done and saved."
        print_to(job.console, done)
        print_to(job.console, f"Continue with: {job.command}")
        raise typer.Exit(130) from None


def _scan(job: Job, layout: Layout, selection: Selection, priority: int | None, name: str, root: Root) -> ScanReport:
    with job.console.status(Text(f"Scanning {escape_unprintable(str(root))} ...")) as status:

        def found(images: int) -> None:
            status.update(Text(f"Scanning ... {images:,} images"))

        model = model_for_archive(job.settings, job.database, job.package, name, works_here=True)
        report = scan_archive(
            job.database,
            name,
            Source.configured(root, job.settings, layout, selection),
            model,
            batch_size=job.settings.batch_size,
            priority=priority,
            progress=found,
        )
    for line in report_lines(report, root, job.package.card.scope):
        print_to(job.console, line)
    processed = run_progress(job.database, report.run_id).processed
    job.scanned.append(ScannedArchive(name, report.run_id, model.queue, processed))
    return report


def _is_unfinished(job: Job, archive: ScannedArchive) -> bool:
    return run_progress(job.database, archive.run).state is not RunState.DONE


def _work(job: Job) -> float:
    """Screen what was scanned; return how many seconds it took, without the stopping of the services."""
    started = time.monotonic()
    try:
        with Supervisor(stack_services(job.settings, job.package.path)) as supervisor:
            try:
                if job.settings.broker_url is None:
                    wait_for_broker(broker_socket(job.settings), supervisor.check)
                for archive in job.scanned:
                    _await(job, archive, supervisor)
                seconds = time.monotonic() - started
            except KeyboardInterrupt:
                # The services need some seconds to stop; without a message, people press Ctrl-C again, which kills
                # them.
                print_to(job.console, "Stopping ...")
                raise
    finally:
        if job.settings.database_url is None:
            # What its own worker had claimed: each interrupt would else count as a worker that died on it. And a
            # process that had to be killed would count as alive for a while.
            with suppress(Outage):
                ledger.release_claims(job.database)
                remove_all_heartbeats(job.database)
    return seconds


def _await(job: Job, archive: ScannedArchive, supervisor: Supervisor) -> None:
    """Print progress until a run is finished; an outage is printed and waited out."""
    starting_until = time.monotonic() + 2 * ALIVE_SECONDS
    with RunProgress(job.console, archive.name if len(job.scanned) > 1 else None) as progress:
        while True:
            try:
                now = run_progress(job.database, archive.run)
                alive = [beat for beat in list_heartbeats(job.database) if beat.alive]
                problem = _problem(job, alive, supervisor.check(), starting=time.monotonic() < starting_until)
                progress.update(now, _activity(archive, alive), problem)
                if now.state in FINISHED_STATES:
                    return
            except Outage as outage:
                progress.problem(str(outage))
                supervisor.check()
            time.sleep(POLL_SECONDS)


def _sum_up(job: Job, summaries: Sequence[RunSummary], threshold: float | None, done: int, seconds: float) -> None:
    """Print at the end, where a tired person looks, how many studies are flagged, and what to do next."""
    option = "" if threshold is None else f" --threshold {threshold}"
    next_steps = []
    for summary in summaries:
        counts = count_studies(job.database, ResultFilter(run=summary.run, threshold=threshold))
        print_line(f"Run {summary.run}, {summary.archive}: {count(summary.studies, 'study')}", "bold")
        at = summary.study_threshold if threshold is None else threshold
        print_line(
            f"  {counts.positive:,} flagged (positive: {summary.finding})", "bold red" if counts.positive else ""
        )
        print_line(f"  {counts.negative:,} negative (scored below {at:.3f})")
        if without := sum(counts.without_result.values()):
            print_line(f"  {without:,} without result ({counts.reasons}): review yourself", "yellow")
        if counts.pending:
            print_line(f"  {counts.pending:,} not screened yet", "yellow")
        if counts.positive:
            next_steps.append(f"See the flagged studies: bonescreen results --run {summary.run} --flagged{option}")
        if summary.failed:
            failed = count(summary.failed, "image")
            print_line(f"  {failed} could not be read: bonescreen failures {summary.run}", "yellow")
        if repaired := sum(count_repairs(job.database, summary.run).values()):
            read = f"{count(repaired, 'image')} read although the file is wrong"
            print_line(f"  {read}: bonescreen status {summary.run}", "yellow")
        if summary.state is RunState.CANCELLED:
            processed = f"{summary.processed:,} of {count(summary.images, 'image')} processed"
            again = f"Continue it with: bonescreen resume {summary.run}"
            next_steps.append(f"Run {summary.run} was cancelled, {processed}. {again}")
    # Others may have screened, or removed, images of a shared database meanwhile.
    if done > 0 and seconds > 0:
        print_line(f"Screened {count(done, 'image')} in {seconds:.0f} s, {done / seconds:.1f} images/s")
    print_line(RESEARCH_NOTICE)
    for step in (*next_steps, "Look at them in a browser, and review them: bonescreen serve"):
        print_to(job.console, step)


def _activity(archive: ScannedArchive, alive: Sequence[Heartbeat]) -> str:
    """Return what the worker that is furthest does."""
    activities = {beat.activity for beat in alive if archive.queue in (beat.queue or "").split()}
    order = (Activity.SCREENING, Activity.IDLE, Activity.LOADING, Activity.OUTSIDE_HOURS)
    return next((activity for activity in order if activity in activities), Activity.STARTING)


def _problem(job: Job, alive: Sequence[Heartbeat], dying: Sequence[str], *, starting: bool) -> str | None:
    if dying:
        return f"the {dying[0]} process keeps failing; see {job.settings.home / 'logs'}/{dying[0]}.log"
    if not alive and not starting:
        # While another process locks an SQLite database, they can report no problem in it, but it can still be read.
        logs = job.settings.home / "logs"
        return f"feeder and worker cannot write to the database {job.database.masked_url}; see {logs}"
    return next((beat.problem for beat in alive if beat.problem), None)
