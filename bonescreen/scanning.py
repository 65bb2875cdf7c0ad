"""Scan several archives, and report of each what was found and what was skipped."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TypeVar

import typer
from rich.console import Console
from rich.text import Text

from bonescreen.choose_model import model_for_archive
from bonescreen.context import open_ledger
from bonescreen.stack import name_archives, require_configured
from bonescreen.terminal import print_error, print_line, print_notice
from db.runs import archive_roots
from db.session import Database
from producer.dry_run import dry_run
from producer.scan import model_version
from producer.scan_summary import DryRunReport, ScanReport, ScanSummary
from producer.selection import Selection
from producer.source import Source
from xray.archive_root import Root
from xray.archives.archive_file import path_as_text
from xray.errors import ArchiveOutage, BonescreenError, UsageError
from xray.hours import Hours
from xray.network.package import ModelPackage, load_package
from xray.network.precision import choose_precision, machine_precisions
from xray.printable import escape_unprintable
from xray.settings import Settings
from xray.thresholds import Scope
from xray.vocabulary import Layout, count, describe_skipped

T = TypeVar("T")

PARTIAL_EXIT = 3
"""Exit code of a command that did its work, but could not look at a part of what it was asked for."""

MAX_WAIT_SECONDS = 10.0

MAX_TERMS = 20
"""How many body part terms a report names; the images of the others are counted."""


def scan_each(
    archives: Mapping[str, Root], hours: Hours | None, scan: Callable[[str, Root], T]
) -> tuple[list[T], list[BonescreenError]]:
    """Scan archives, each by its name and root, within the hours; if one cannot be scanned, the others still are.

    Returns
    -------
    tuple of (list, list of BonescreenError)
        The reports of those that were scanned, and the errors of the others, for `raise_last` at the command's end.
    """
    reports: list[T] = []
    errors: list[BonescreenError] = []
    for name, root in archives.items():
        _wait_for(hours)
        try:
            reports.append(scan(name, root))
        except (UsageError, ArchiveOutage) as error:
            errors.append(error)
            if len(archives) > 1:
                # Shown immediately, and repeated at the end.
                print_notice(f"not screened: {error}")
    return reports, errors


def _wait_for(hours: Hours | None) -> None:
    if hours is None or hours.includes(datetime.now()):
        return
    print_notice(f"Waiting until {hours.start:%H:%M}, as BONESCREEN_HOURS says. Stop with Ctrl-C.")
    # In steps, as a machine may sleep meanwhile, or its clock be set.
    while left := hours.seconds_until_start(datetime.now()):
        time.sleep(min(left, MAX_WAIT_SECONDS))


def raise_last(errors: list[BonescreenError]) -> None:
    """Print the errors of a command and raise the last one, if there are any; usage errors come last."""
    ordered = sorted(errors, key=lambda error: isinstance(error, UsageError))
    for error in ordered[:-1]:
        print_error(str(error))
    if ordered:
        raise ordered[-1]


def report_lines(report: ScanReport, root: Root, scope: Scope) -> Iterator[str]:
    """Report in lines what a scan of an archive found; what somebody should check is named.

    Parameters
    ----------
    report : ScanReport
        What the scan found.
    root : Path or DicomWebService
        The archive's root.
    scope : Scope
        The model's: other images are out of it.
    """
    yield f"Scanned {root}: {count(report.found, 'image')} (layout {report.layout})"
    yield from _skipped_lines(report)
    for key in report.of_several_patients:
        yield f"  warning, images of several patients under one study, which has no score: {path_as_text(key)}"
    if more := report.several_patients - len(report.of_several_patients):
        yield f"  ... and {count(more, 'study')} more of several patients"
    yield from _out_of_scope_lines(report, scope)
    if report.gone:
        yield f"  no longer in the archive: {count(report.gone, 'image')}; their results are kept"


def raise_if_partial(reports: Sequence[ScanSummary]) -> None:
    """End a command with `PARTIAL_EXIT` if a part of what it was asked for could not be looked at."""
    if any(report.is_partial for report in reports):
        print_notice(f"A part could not be looked at, see above and bonescreen status: exit code {PARTIAL_EXIT}.")
        raise typer.Exit(PARTIAL_EXIT)


def plan_lines(plan: DryRunReport, root: Root, scope: Scope) -> Iterator[str]:
    """Report in lines what a scan of an archive would find and a run would screen; as `report_lines`."""
    kinds = ((plan.new, "new"), (plan.changed, "changed"), (plan.unprocessed, "not finished"))
    parts = ", ".join(f"{number:,} {kind}" for number, kind in kinds if number)
    yield f"Would scan {root}: {count(plan.found, 'image')} (layout {plan.layout})"
    to_screen = plan.new + plan.changed + plan.unprocessed
    yield f"  to screen: {count(to_screen, 'image')}" + (f" ({parts})" if parts else "")
    if plan.processed:
        yield f"  screened already: {count(plan.processed, 'image')}"
    yield from _skipped_lines(plan)
    yield from _out_of_scope_lines(plan, scope)
    if plan.gone:
        yield f"  no longer in the archive: {count(plan.gone, 'image')}"


def _skipped_lines(found: ScanSummary) -> Iterator[str]:
    if found.skipped:
        yield f"  {skipped_text(found.skipped)}"
    for place in found.warnings:
        yield f"  warning, not screened: {place}"
    if found.unread:
        yield "  earlier results of files that could not be read are kept"


def _out_of_scope_lines(found: ScanSummary, scope: Scope) -> Iterator[str]:
    parts = Counter({term: n for term, n in found.body_parts.items() if term not in scope.body_parts})
    modalities = Counter({term: n for term, n in found.modalities.items() if term not in scope.modalities})
    for outside in filter(None, (parts, modalities)):
        first, *others = outside.most_common(MAX_TERMS)
        terms = [f"{count(first[1], 'image')} {first[0]}", *(f"{number:,} {term}" for term, number in others)]
        if rest := outside.total() - sum(number for _, number in outside.most_common(MAX_TERMS)):
            terms.append(f"{rest:,} others")
        yield f"  out of scope: {', '.join(terms)} (not known to the model)"
    if parts:
        yield "  if these are a site's own words for known body parts, map them with BONESCREEN_BODY_PARTS"


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Write what was skipped, the largest number first: ``skipped 12 hidden files, 3 files that are not images``."""
    ordered = sorted(skipped.items(), key=lambda item: -item[1])
    return "skipped " + ", ".join(describe_skipped(reason, number) for reason, number in ordered)


def print_plans(
    settings: Settings, paths: Sequence[str], layout: Layout, selection: Selection, *, for_workers: bool
) -> None:
    """Print what scanning archives would find, and what the configured model would have to screen.

    With `for_workers`, archives that workers elsewhere could not find are refused, as `enqueue` would.

    Raises
    ------
    UsageError
        A scan would refuse an archive; the others are printed.
    """
    package = load_package(settings.model)
    with _ledger_if_any(settings) as database:
        archives = name_archives(settings, archive_roots(database) if database else {}, paths)
        if for_workers:
            require_configured(settings, archives)
        plans, errors = scan_each(
            archives, settings.hours, partial(_plan, settings, database, layout, selection, package, for_workers)
        )
    if plans:
        print_line("Nothing was changed: this was a dry run.")
    raise_last(errors)
    raise_if_partial(plans)


@contextmanager
def _ledger_if_any(settings: Settings) -> Iterator[Database | None]:
    if settings.database_url is None and not (settings.home / "bonescreen.db").exists():
        yield None
        return
    with open_ledger(settings) as database:
        yield database


def _plan(
    settings: Settings,
    database: Database | None,
    layout: Layout,
    selection: Selection,
    package: ModelPackage,
    for_workers: bool,
    name: str,
    root: Root,
) -> DryRunReport:
    if database is None:
        precision = choose_precision(package, settings.precision, machine_precisions(settings.engine))
        model = model_version(package, precision)
    else:
        model = model_for_archive(settings, database, package, name, works_here=not for_workers)
    with Console(stderr=True).status(Text(f"Reading {escape_unprintable(str(root))} ...")):
        plan = dry_run(database, name, Source.configured(root, settings, layout, selection), model.queue)
    for line in plan_lines(plan, root, package.card.scope):
        print_line(line)
    return plan
