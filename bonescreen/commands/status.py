"""How far runs are, which processes work on them, and what to do about a problem."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from bonescreen.commands.arguments import Json, as_count
from bonescreen.commands.runs import run_json
from bonescreen.context import open_ledger, settings_here
from bonescreen.problems import Problem, SystemState, chosen_runs, find_problems, read_system_state
from bonescreen.scanning import skipped_text
from bonescreen.terminal import print_line, print_table, print_wrapped, write_json
from db.heartbeats import Heartbeat
from db.run_queries import RunState, RunSummary
from xray.errors import DatabaseOutage, StorageOutage
from xray.vocabulary import count


def status(
    run: Annotated[
        int | None,
        typer.Argument(
            metavar="RUN",
            callback=as_count,
            help="Run number (default: all unfinished runs; if none, the newest).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far runs are, what is wrong and what to do about it.

    The exit code is 1 if a problem stops an unfinished run, else 0.

    Example: bonescreen status
    """
    settings = settings_here()
    facts, found = (
        SystemState(
            [],
            {},
            {},
            [],
            {},
            embedded=False,
            screen_runs=False,
            broker=None,
            eviction=None,
            archives={},
            database=None,
        ),
        [],
    )
    try:
        with open_ledger(settings) as database:
            facts = read_system_state(settings, database, chosen_runs(database, run))
        found = find_problems(facts)
    except DatabaseOutage as outage:
        found = [Problem(f"{outage}.", "Start the database, or correct BONESCREEN_DATABASE_URL. Workers wait for it.")]
    except StorageOutage as outage:
        found = [Problem(f"{outage}.", "Free space on its disk. Finished results are saved.")]
    if as_json:
        write_json(_as_json(facts, found))
    else:
        _print(facts, found)
    if any(problem.blocking for problem in found):
        raise typer.Exit(1)


def _as_json(facts: SystemState, found: Sequence[Problem]) -> dict[str, object]:
    return {
        "ok": not any(problem.blocking for problem in found),
        "runs": [
            {**run_json(run), "failures": facts.failures[run.run], "repairs": facts.repairs[run.run]}
            for run in facts.runs
        ],
        "processes": [{**asdict(process), "alive": process.alive} for process in facts.processes],
        "problems": [asdict(problem) for problem in found],
    }


def _print(facts: SystemState, found: Sequence[Problem]) -> None:
    for run in facts.runs:
        _print_run(run, facts)
    listed = [process for process in facts.processes if process.alive or facts.open_runs]
    if listed:
        print_table(("process", "name", "last heard", "state"), [_process(process) for process in listed])
        print_line("")
    for problem in found:
        print_wrapped("PROBLEM: " if problem.blocking else "Note: ", problem.problem, "bold")
        print_wrapped("  ", problem.remedy)
    if not any(problem.blocking for problem in found):
        print_line(_next_step(facts))


def _print_run(run: RunSummary, facts: SystemState) -> None:
    state = "stopped" if facts.is_stopped(run) else run.state
    print_line(f"Run {run.run}: {state}, {run.percent} % processed", "bold")
    failed = ", ".join(f"{number:,} {reason}" for reason, number in facts.failures[run.run].items())
    processed = f"{run.processed:,} of {count(run.images, 'image')} processed, {run.failed:,} failed"
    lines = (
        ("archive", f"{run.archive} at {run.root}"),
        ("model", f"{run.model} ({run.precision}), study threshold {run.study_threshold:.3f}"),
        ("images", processed + (f" ({failed})" if failed else "")),
        ("studies", f"{run.flagged:,} of {run.studies:,} flagged (positive: {run.finding})"),
        *((("priority", str(run.priority)),) if run.priority else ()),
        ("to do", count(run.open_batches, "batch") + _scan_text(facts, run)),
        *(("repaired", f"{count(number, 'image')}: {detail}") for detail, number in facts.repairs[run.run].items()),
        *(("scan", text) for text in _last_scan(run)),
    )
    for name, text in lines:
        print_wrapped(f"  {name:<8} ", text)
    print_line("")


def _scan_text(facts: SystemState, run: RunSummary) -> str:
    if run.run not in facts.scans:
        return ""
    return ", its scan has stopped" if facts.scans[run.run].expired else ", a scan is running"


def _last_scan(run: RunSummary) -> Iterator[str]:
    if run.skipped:
        yield skipped_text(run.skipped)
    if run.gone:
        yield f"no longer in the archive: {count(run.gone, 'image')}"


def _process(process: Heartbeat) -> list[str]:
    state = "no heartbeat: stopped, or its host is down"
    if process.alive:
        state = "waits" if process.problem else process.activity or "alive"
    return [process.role, process.name, f"{process.age_seconds:.0f} s ago", state]


def _next_step(facts: SystemState) -> str:
    if not facts.runs:
        return "No runs yet. Start one: bonescreen screen PATH"
    if facts.open_runs:
        return "No problems: the work continues by itself."
    run = facts.runs[0]
    if run.state is RunState.BEHIND:
        missing = count(run.images - run.processed, "image")
        return f"A scan for a different model found {missing} more. Screen them with: bonescreen resume {run.run}"
    if run.state is RunState.CANCELLED:
        return f"Run {run.run} is cancelled. Continue it with: bonescreen resume {run.run}"
    return f"Finished. See the flagged studies: bonescreen results --run {run.run} --flagged"
