"""Runs: list them, cancel, resume and retry them."""

from dataclasses import asdict

from bonescreen.commands.arguments import Json, RunNumber
from bonescreen.context import open_ledger, settings_here
from bonescreen.continue_run import next_step, retry_failures
from bonescreen.problems import is_open
from bonescreen.terminal import local_time, print_line, print_notice, print_table, utc_time, write_json
from db import ledger, scans
from db.run_queries import RunState, RunSummary, list_runs, run_summary
from db.session import Database
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE, count


def runs(as_json: Json = False) -> None:
    """List all runs, the newest first.

    A run is one archive screened with one version of a model. Screening the archive again continues its run.

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
        titles = (" run", "state", " images", " failed", " flagged", "started", "model", "archive")
        print_table(titles, [_row(run) for run in listed])
        print_line(RESEARCH_NOTICE)


def resume(run: RunNumber) -> None:
    """Continue a cancelled run.

    Also screens images that a later scan for a different model has added (state 'behind').

    Example: bonescreen resume 3
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        summary = run_summary(database, run)
        ledger.resume(database, run)
        waiting = ledger.count_open_batches(database, run)
    if not waiting:
        print_line(f"Run {run} has nothing left to do.")
        return
    print_line(f"Run {run} is resumed: {count(waiting, 'batch')} to do.")
    print_line(next_step(settings, summary))


def cancel(run: RunNumber) -> None:
    """Stop a run; its results so far are kept.

    A batch that a worker is screening at that moment is not stored. Continue the run with: bonescreen resume RUN

    Example: bonescreen cancel 3
    """
    with open_ledger(settings_here()) as database:
        summary = run_summary(database, run)
        if summary.state in (RunState.DONE, RunState.BEHIND):
            print_line(f"Run {run} has no open batches: there is nothing to cancel.")
            return
        _refuse_while_scanned(database, run)
        closed = ledger.cancel(database, run)
    print_line(f"Run {run} is cancelled, {count(closed, 'batch')} closed. Continue it with: bonescreen resume {run}")


def retry(run: RunNumber) -> None:
    """Retry the failed images of a run.

    Use it once their files are repaired or back in the archive; `bonescreen failures` lists them.

    Example: bonescreen retry 3
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        summary = run_summary(database, run)
        retried = retry_failures(database, summary)
    if not retried:
        print_line(f"Run {run} has no failed images.")
        return
    print_line(f"{count(retried, 'failed image')} of run {run} will be read again.")
    print_line(next_step(settings, summary))


def run_json(run: RunSummary) -> dict[str, object]:
    """Return a run as `--json` writes it."""
    return {**asdict(run), "percent": run.percent, "created_at": utc_time(run.created_at)}


def _row(run: RunSummary) -> list[str]:
    state = f"{run.state} {run.percent} %" if is_open(run) or run.processed < run.images else run.state
    numbers = [f"{n:,}" for n in (run.images, run.failed, run.flagged)]
    return [str(run.run), state, *numbers, local_time(run.created_at), f"{run.model} ({run.precision})", run.archive]


def _refuse_while_scanned(database: Database, run: int) -> None:
    # The scan would give the run new batches when it ends.
    for scan in scans.open_scans(database):
        if scan.run_id == run and not scan.expired:
            raise UsageError(
                f"run {run} is being scanned by {scan.holder}; stop that scan (Ctrl-C) or let it end, then cancel"
            )
