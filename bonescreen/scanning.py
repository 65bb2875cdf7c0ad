"""Scans of several archives, and what each has to say: what it found, and what it passed over."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from bonescreen.context import open_ledger
from bonescreen.stack import name_archives, require_configured
from bonescreen.terminal import count, escape_unprintable, print_line, print_notice
from db.runs import archive_roots
from db.session import Database
from producer.find import Source
from producer.plan import plan_archive
from producer.scan_report import Found, Plan, ScanReport
from xray.errors import ArchiveOutage, BonescreenError, UsageError
from xray.network.package import load_package
from xray.settings import Settings
from xray.vocabulary import Layout

T = TypeVar("T")


def scan_each(archives: Mapping[str, Path], scan: Callable[[str, Path], T]) -> tuple[list[T], list[BonescreenError]]:
    """Scan archives, each by its name and root; one that cannot be scanned does not keep the others from it.

    Returns
    -------
    tuple of (list, list of BonescreenError)
        What was scanned, and why the others were not, for `raise_last` once the work on what was is done.
    """
    reports: list[T] = []
    errors: list[BonescreenError] = []
    for name, root in archives.items():
        try:
            reports.append(scan(name, root))
        except (UsageError, ArchiveOutage) as error:
            errors.append(error)
            if len(archives) > 1:
                # Whoever watches need not wait for the end to hear of it; whoever comes back then hears it there.
                print_notice(f"not screened: {error}")
    return reports, errors


def raise_last(errors: list[BonescreenError]) -> None:
    """End a command with what went wrong on the way, if anything did; an error that asks for a change goes last."""
    ordered = sorted(errors, key=lambda error: isinstance(error, UsageError))
    for error in ordered[:-1]:
        print_notice(f"error: {error}")
    if ordered:
        raise ordered[-1]


def report_lines(report: ScanReport, root: Path) -> Iterator[str]:
    """Say in lines what a scan of an archive found; what somebody should look at is named."""
    yield f"Scanned {root}: {count(report.found, 'image')} (layout {report.layout})"
    yield from _passed_over(report)
    if report.gone:
        yield f"  no longer there: {count(report.gone, 'image')}; results are kept for when they come back"


def plan_lines(plan: Plan, root: Path) -> Iterator[str]:
    """Say in lines what a scan of an archive would find and a run would do."""
    kinds = ((plan.new, "new"), (plan.changed, "changed"), (plan.left, "left from before"))
    what = ", ".join(f"{number:,} {kind}" for number, kind in kinds if number)
    yield f"Would scan {root}: {count(plan.found, 'image')} (layout {plan.layout})"
    yield f"  to screen: {count(plan.new + plan.changed + plan.left, 'image')}" + (f" ({what})" if what else "")
    if plan.processed:
        yield f"  screened already: {count(plan.processed, 'image')}"
    yield from _passed_over(plan)
    if plan.gone:
        yield f"  no longer there: {count(plan.gone, 'image')}"


def _passed_over(found: Found) -> Iterator[str]:
    if found.skipped:
        yield f"  passed over: {counts(found.skipped)}"
    for place in found.look_at:
        yield f"  warning, not screened: {place}"
    if found.not_looked_at:
        yield "  what is known of files that could not be looked at is kept as it was"


def counts(skipped: Mapping[str, int]) -> str:
    """Write counts by reason, the largest first: ``12 hidden, 3 not an image``."""
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(skipped.items(), key=lambda item: -item[1]))


def show_plans(settings: Settings, paths: Sequence[Path], layout: Layout, *, for_workers: bool) -> None:
    """Print what scanning archives would find, and what the configured model would have to screen.

    With `for_workers` what `enqueue` would refuse is refused: archives that workers elsewhere could not find.

    Raises
    ------
    UsageError
        A scan would refuse an archive; the others are shown.
    """
    digest = load_package(settings.model).digest
    with _ledger_if_any(settings) as database:
        archives = name_archives(settings, archive_roots(database) if database else {}, paths)
        if for_workers:
            require_configured(settings, archives)
        _, errors = scan_each(archives, partial(_plan, settings, database, layout, digest))
    print_line("Nothing was changed: this was a dry run.")
    raise_last(errors)


@contextmanager
def _ledger_if_any(settings: Settings) -> Iterator[Database | None]:
    if settings.database_url is None and not (settings.home / "bonescreen.db").exists():
        yield None
        return
    with open_ledger(settings) as database:
        yield database


def _plan(settings: Settings, database: Database | None, layout: Layout, digest: str, name: str, root: Path) -> Plan:
    with Console(stderr=True).status(Text(f"Reading {escape_unprintable(str(root))} ...")):
        plan = plan_archive(database, name, Source.configured(root, settings, layout), digest)
    for line in plan_lines(plan, root):
        print_line(line)
    return plan
