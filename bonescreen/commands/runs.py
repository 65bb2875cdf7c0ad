"""Runs: list them and steer them."""

from dataclasses import asdict
from shlex import quote
from typing import Annotated

import typer

from bonescreen.commands.arguments import LARGEST_NUMBER
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import count, moment, print_line, print_notice, print_table, utc, write_json
from db import ledger, scans
from db.run_queries import RunState, RunSummary, list_runs, run_summary
from db.session import Database
from xray.errors import UsageError
from xray.settings import Settings
from xray.vocabulary import RESEARCH_NOTICE

Run = Annotated[
    int,
    typer.Argument(metavar="RUN", min=1, max=LARGEST_NUMBER, help="The run's number, as `bonescreen runs` lists it."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, for scripts.")]


def runs(as_json: Json = False) -> None:
    """List every run, the newest first.

    A run is one archive screened with one model version.

    Example: bonescreen runs
    """
    with open_ledger(settings_here()) as database:
        listed = list_runs(database)
    if as_json:
        write_json([run_json(run) for run in listed])
        print_notice(RESEARCH_NOTICE)
    elif not listed:
        print_line("No runs yet. Start one: bonescreen screen PATH")
    else:
        titles = (" run", "state", " settled", " images", " failed", " flagged", "begun", "model", "archive")
        print_table(titles, [_row(run) for run in listed])
        print_line(RESEARCH_NOTICE)


def resume(run: Run) -> None:
    """Go on with a run that was cancelled, or take in what a scan for another model found.

    Example: bonescreen resume 3
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        summary = run_summary(database, run)
        ledger.resume(database, run)
        waiting = ledger.open_batches(database, run)
    if not waiting:
        print_line(f"Run {run} has nothing left to do.")
        return
    print_line(f"Run {run} goes on: {count(waiting, 'batch')} open.")
    _say_how_to_go_on(settings, summary)


def cancel(run: Run) -> None:
    """Stop a run; its results so far stay.

    A worker that is in the middle of a batch stores nothing of it. `bonescreen resume` takes the run up again.

    Example: bonescreen cancel 3
    """
    with open_ledger(settings_here()) as database:
        summary = run_summary(database, run)
        if summary.state in (RunState.DONE, RunState.BEHIND):
            print_line(f"Run {run} has no open batches: there is nothing to cancel.")
            return
        _refuse_while_scanned(database, run)
        closed = ledger.cancel(database, run)
    print_line(
        f"Run {run} is cancelled, {count(closed, 'batch')} closed. Take it up again with: bonescreen resume {run}"
    )


def retry(run: Run) -> None:
    """Read the failed images of a run once more.

    For when the files were repaired or brought back.

    Example: bonescreen retry 3
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        summary = run_summary(database, run)
        if summary.state is RunState.CANCELLED:
            raise UsageError(f"run {run} is cancelled; first: bonescreen resume {run}")
        forgotten = ledger.retry(database, run)
    if not forgotten:
        print_line(f"Run {run} has no failed images.")
        return
    print_line(f"{count(forgotten, 'failed image')} of run {run} will be read again.")
    _say_how_to_go_on(settings, summary)


def run_json(run: RunSummary) -> dict[str, object]:
    """Return a run as `--json` shows it."""
    return {**asdict(run), "percent": percent(run), "created_at": utc(run.created_at)}


def percent(run: RunSummary) -> int:
    """Return how much of a run is settled, rounded down: 100 is all of it."""
    return 100 * run.processed // run.images if run.images else 0


def _row(run: RunSummary) -> list[str]:
    numbers = [f"{percent(run)} %", *(f"{n:,}" for n in (run.images, run.failed, run.flagged))]
    return [str(run.run), run.state, *numbers, moment(run.created_at), run.model, run.archive]


def _refuse_while_scanned(database: Database, run: int) -> None:
    # The scan would give the run new batches when it ends.
    for scan in scans.open_scans(database):
        if scan.run_id == run and not scan.expired:
            raise UsageError(
                f"run {run} is being scanned by {scan.holder}; stop that scan (Ctrl-C) or let it end, then cancel"
            )


def _say_how_to_go_on(settings: Settings, run: RunSummary) -> None:
    if settings.broker_url is None:
        print_line(f"If no screen is running, run: bonescreen screen {quote(run.root)}")
    else:
        print_line(f"Workers take it from here; watch them with: bonescreen status {run.run}")
