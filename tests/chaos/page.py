"""The table of a campaign, for the terminal and as a page."""

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import date

import psutil

from tests.chaos.campaign import Campaign, Injection
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.screening import LIMIT_SECONDS, NAMED_SECONDS, Kind
from tests.chaos.verdict import KINDS
from xray.vocabulary import count

TITLES = ("fault", "times", "lost", "doubled", "stale", "falsified", "median, s", "worst, s")

NAMED_TITLES = ("fault that only a person can put right", "times", "median, s", "worst, s", "late")

NOT_COVERED = """\
- Faults one at a time. Two overlap only where the second comes while work already goes on and the first one's batches
  still wait for their leases. The database, the broker and the archive are each in one place.
- The machine's clock. Its power: a killed process loses nothing that the kernel has, so `fsync` is not tested.
- A disk or a network that answers wrongly, or loses packets; PgBouncer; Redis with replicas.
- GPUs, real models and real radiographs: the network is a small one with random weights, the images are random fields.
- On SQLite, *stale* shows only a result that no claimed batch covers. PostgreSQL's record has the connection of each
  write too, so there it also shows a worker that stores under the claim of another one."""


def rows(campaign: Campaign) -> list[tuple[str, ...]]:
    """Return a row for each fault that was injected, in the order of the table of faults.

    A violation is of a run, and counts for each fault of that run.
    """
    return [_row(campaign, one) for one in FAULTS if _of(campaign, one)]


def named_rows(campaign: Campaign) -> list[tuple[str, ...]]:
    """Return a row for each fault that only a person can put right: times, and seconds until `status` named it."""
    found: list[tuple[str, ...]] = []
    for one in FAULTS:
        injected = _of(campaign, one)
        if one.needs_a_person and injected:
            seconds = [injection.named for injection in injected if injection.named is not None]
            late = len(injected) - len(seconds)
            found.append((one.name, str(len(injected)), *_median_and_worst(seconds), str(late)))
    return found


def _of(campaign: Campaign, one: Fault) -> list[Injection]:
    return [injection for injection in campaign.injections if injection.fault is one]


def _row(campaign: Campaign, one: Fault) -> tuple[str, ...]:
    injected = _of(campaign, one)
    runs = {injection.run for injection in injected}
    found = [violation.kind for report in campaign.reports if report.number in runs for violation in report.violations]
    seconds = [injection.recovered for injection in injected if injection.recovered is not None]
    counted = (str(found.count(kind)) for kind in KINDS)
    return (one.name, str(len(injected)), *counted, *_median_and_worst(seconds))


def _median_and_worst(seconds: Sequence[float]) -> tuple[str, str]:
    return (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("-", "-")


def summary(campaign: Campaign) -> str:
    """Return what a campaign found, in one sentence."""
    found = [violation.kind for report in campaign.reports for violation in report.violations]
    counted = ", ".join(f"{found.count(kind)} {kind}" for kind in KINDS)
    ended = sum(not {"unfinished", "driver"} & {one.kind for one in report.violations} for report in campaign.reports)
    return (
        f"{len(campaign.injections)} faults in {len(campaign.reports)} runs with {campaign.outcomes:,} outcomes: "
        f"{counted}; {ended} of {len(campaign.reports)} runs ended by themselves."
    )


def page(campaign: Campaign, command: str, minutes: float) -> str:
    """Return the page, in Markdown."""
    runs = {kind: sum(report.kind is kind for report in campaign.reports) for kind in Kind}
    quarantined = sum(report.quarantined for report in campaign.reports)
    memory = psutil.virtual_memory().total / 1e9
    lines = [
        "# Reliability",
        "",
        f"{summary(campaign)}",
        "",
        f"`{command}`, {date.today()}, {minutes:.0f} minutes on {os.cpu_count()} cores and {memory:.0f} GB "
        f"({platform.machine()}, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}). `make "
        "chaos` does it again and writes this page. The same seed draws the same faults in the same order; the moments "
        "at which they meet the work differ, as real processes run.",
        "",
        "## What was done",
        "",
        f"{runs[Kind.ONE_MACHINE]} runs of `bonescreen screen` (SQLite, embedded broker) and {runs[Kind.CLUSTER]} of "
        "`bonescreen enqueue` with one or two `bonescreen worker` (PostgreSQL, Valkey on TCP), "
        f"of {len(campaign.pool)} images each, on storage that takes its time to open a file, so that work is open for "
        "long enough. Every process is real. A fault is injected at a drawn moment while work is open. The next one "
        "comes soon after more outcomes were stored. A command that a fault ended is started again, as a supervisor or "
        "a person would.",
        "",
        "At the end of each run:",
        "",
        "- *lost*: an image of the archive without an outcome.",
        "- *doubled*: a result that was stored twice or changed. Triggers record every write.",
        "- *stale*: a result that was stored without a valid claim on its batch.",
        "- *falsified*: a readable image that failed; a logit, probability or map that is not, to the bit, that of a "
        "run without faults; a count that is not that of the rows.",
        f"- The run must end by itself, within {LIMIT_SECONDS:.0f} s after its last fault.",
        "",
        "An image on which three workers were lost is quarantined, as documented, and `bonescreen retry` screens it at "
        f"the end. Quarantined were {count(quarantined, 'image')}.",
        "",
        "## Faults",
        "",
        "The seconds are those until more outcomes were stored, from when the cause was gone. The batch that a killed "
        "or suspended worker had is done by another one when its lease of 30 s has run out.",
        "",
        *_table(TITLES, rows(campaign)),
        "",
        "## What only a person can put right",
        "",
        "`bonescreen status` was asked again and again until it named the cause; more than "
        f"{NAMED_SECONDS:.0f} s is late. Then the cause was taken away, and the run went on by itself.",
        "",
        *_table(NAMED_TITLES, named_rows(campaign)),
        "",
        "## What this does not show",
        "",
        NOT_COVERED,
        "",
    ]
    return "\n".join(lines)


def _table(titles: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    align = ["---", *("---:" for _ in titles[1:])]
    return [f"| {' | '.join(row)} |" for row in (titles, align, *body)]


def text_table(titles: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in columns, for a terminal."""
    widths = [max(len(row[column]) for row in (titles, *body)) for column in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for row in (titles, *body)
        for pairs in [list(zip(row, widths, strict=True))]
    )
