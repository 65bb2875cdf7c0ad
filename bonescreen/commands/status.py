"""How the work stands, and what to do if it stands still."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from bonescreen.commands.arguments import LARGEST_NUMBER
from bonescreen.commands.runs import Json, percent, run_json
from bonescreen.context import open_ledger, settings_here
from bonescreen.problems import Facts, Problem, gather, is_open, problems
from bonescreen.scanning import counts
from bonescreen.terminal import count, print_line, print_table, write_json
from db.heartbeats import Heartbeat
from db.run_queries import RunState, RunSummary, list_runs, run_summary
from db.session import Database
from xray.errors import DatabaseOutage, StorageOutage


def status(
    run: Annotated[
        int | None,
        typer.Argument(
            metavar="RUN", min=1, max=LARGEST_NUMBER, help="One run; by default the open ones, else the newest."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far runs are, who works on them, and what is wrong.

    The exit code is 1 when something hinders an open run, else 0.

    Example: bonescreen status
    """
    settings = settings_here()
    facts, found = Facts([], {}, [], {}, embedded=False, broker=None, archives={}, database=None), []
    try:
        with open_ledger(settings) as database:
            facts = gather(settings, database, _chosen(database, run))
        found = problems(facts)
    except DatabaseOutage as outage:
        found = [Problem(f"{outage}.", "Start the database, or mend BONESCREEN_DATABASE_URL. Workers wait for it.")]
    except StorageOutage as outage:
        found = [Problem(f"{outage}.", "Make room on its disk. Nothing is lost meanwhile.")]
    if as_json:
        write_json(_as_json(facts, found))
    else:
        _print(facts, found)
    if any(problem.hinders for problem in found):
        raise typer.Exit(1)


def _chosen(database: Database, run: int | None) -> list[RunSummary]:
    if run is not None:
        return [run_summary(database, run)]
    listed = list_runs(database)
    return [summary for summary in listed if is_open(summary)] or listed[:1]


def _as_json(facts: Facts, found: Sequence[Problem]) -> dict[str, object]:
    return {
        "ok": not any(problem.hinders for problem in found),
        "runs": [{**run_json(run), "failures": facts.failures[run.run]} for run in facts.runs],
        "processes": [{**asdict(process), "alive": process.alive} for process in facts.processes],
        "problems": [asdict(problem) for problem in found],
    }


def _print(facts: Facts, found: Sequence[Problem]) -> None:
    for run in facts.runs:
        _print_run(run, facts)
    shown = [process for process in facts.processes if process.alive or facts.open_runs]
    if shown:
        print_table(("process", "name", "last heard", "state"), [_process(process) for process in shown])
        print_line("")
    for problem in found:
        print_line(f"PROBLEM: {problem.problem}" if problem.hinders else f"Note: {problem.problem}", "bold")
        print_line(f"  {problem.remedy}")
    if not any(problem.hinders for problem in found):
        print_line(_next_step(facts))


def _print_run(run: RunSummary, facts: Facts) -> None:
    print_line(f"Run {run.run}: {run.state}, {percent(run)} % settled", "bold")
    failed = ", ".join(f"{number:,} {reason}" for reason, number in facts.failures[run.run].items())
    processed = f"{run.processed:,} of {run.images:,} settled, {run.failed:,} failed"
    lines = (
        ("archive", f"{run.archive} at {run.root}"),
        ("model", f"{run.model}, study threshold {run.study_threshold:.3f}"),
        ("images", processed + (f" ({failed})" if failed else "")),
        ("studies", f"{run.flagged:,} of {run.studies:,} flagged (positive: {run.finding})"),
        ("work", count(run.open_batches, "open batch") + (", scan under way" if run.run in facts.scans else "")),
        *(("scan", text) for text in _last_scan(run)),
    )
    for name, text in lines:
        print_line(f"  {name:<8} {text}")
    print_line("")


def _last_scan(run: RunSummary) -> Iterator[str]:
    if run.skipped:
        yield f"passed over: {counts(run.skipped)}"
    if run.gone:
        yield f"no longer there: {count(run.gone, 'image')}"


def _process(process: Heartbeat) -> list[str]:
    state = ("waits" if process.problem else "alive") if process.alive else "silent: stopped, or its machine is down"
    return [process.role, process.name, f"{process.age_seconds:.0f} s ago", state]


def _next_step(facts: Facts) -> str:
    if not facts.runs:
        return "No runs yet. Start one: bonescreen screen PATH"
    if facts.open_runs:
        return "All is well: the work goes on by itself."
    run = facts.runs[0]
    if run.state is RunState.BEHIND:
        lacking = count(run.images - run.processed, "image")
        return f"A scan for another model found {lacking} more. Take them in with: bonescreen resume {run.run}"
    if run.state is RunState.CANCELLED:
        return f"Run {run.run} is cancelled. Take it up again with: bonescreen resume {run.run}"
    return f"Nothing is left to do. See what was found: bonescreen results --run {run.run} --flagged"
