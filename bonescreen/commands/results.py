"""Results: studies with their scores, as a table or for other programs."""

import csv
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from bonescreen.commands.arguments import LARGEST_NUMBER, as_utf8
from bonescreen.commands.runs import percent
from bonescreen.context import open_ledger, settings_here
from bonescreen.problems import is_open
from bonescreen.terminal import print_line, print_notice, print_table, write_json_list
from db import queries
from db.queries import ResultFilter, StudyRow
from db.run_queries import RunSummary, newest_runs, run_summary
from db.session import Database
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE, Label, StudyStatus

TABLE_ROWS = 50


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def results(
    run: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_NUMBER, help="One run; by default the newest of each archive.")
    ] = None,
    flagged: Annotated[bool, typer.Option("--flagged", help="Only studies at or over the study threshold.")] = False,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only studies with at least this score.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Judge by this study threshold instead of the model's.")
    ] = None,
    body_part: Annotated[
        str | None, typer.Option(callback=as_utf8, help="Only studies that show this body part, such as WRIST.")
    ] = None,
    label: Annotated[Label | None, typer.Option(help="Only studies with this predicted label.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_NUMBER, help=f"At most so many; by default {TABLE_ROWS} in a table, else all."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="csv and json go to standard output alone.")] = Format.TABLE,
) -> None:
    """List studies with their scores, the highest first.

    A study's score is the mean of its images' probabilities. Incomplete studies (an image could not be read) are
    never called negative.

    Example: bonescreen results --flagged --format csv > flagged.csv
    """
    wanted = ResultFilter(run, flagged, min_score, threshold, body_part, label, limit)
    with open_ledger(settings_here()) as database:
        runs = [run_summary(database, number) for number in ([run] if run is not None else newest_runs(database))]
        if not runs:
            raise UsageError("nothing has been screened yet; run: bonescreen screen PATH")
        if form is Format.TABLE:
            print_results(database, wanted, runs)
            return
        with closing(queries.results(database, wanted)) as rows:
            if form is Format.CSV:
                write_csv(rows)
            else:
                write_json_list(asdict(row) for row in rows)
        for text in (*(heading(summary, threshold) for summary in runs), RESEARCH_NOTICE):
            print_notice(text)


def heading(run: RunSummary, threshold: float | None = None) -> str:
    """Say in a line what a run's results are made of."""
    own = f"{run.study_threshold:.3f}"
    judged = own if threshold is None else f"{threshold:.3f} (the model's own: {own})"
    text = f"Run {run.run}: {run.archive}, {run.model}, study threshold {judged}"
    return text + (f" - {run.state}, {percent(run)} % settled" if is_open(run) else "")


def write_csv(rows: Iterable[StudyRow]) -> None:
    """Write results as CSV to standard output.

    A text that a spreadsheet would take for a formula (study keys are file names, which anybody may have chosen)
    gets an apostrophe in front; one that begins with an apostrophe gets another, so taking one off restores it.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [field.name for field in fields(StudyRow)]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_csv_cell(getattr(row, name)) for name in names])


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else value


def outcome(row: StudyRow, finding: str) -> Text:
    """Say in words what a run found of a study; only a study that was scored whole is ever called negative."""
    status = StudyStatus(row.status)
    if row.label == Label.POSITIVE:
        unread = f" ({status})" if status is not StudyStatus.SCORED else ""
        return Text(f"positive: {finding}{unread}", "bold red")
    return Text("negative") if row.label == Label.NEGATIVE else Text(status, "yellow")


def score(row: StudyRow) -> str:
    """Write a study's score, where it means something."""
    return "-" if row.score is None else f"{row.score:.3f}"


def print_results(database: Database, wanted: ResultFilter, runs: Sequence[RunSummary]) -> None:
    """Print the table of results, what is apart from it, and the research notice."""
    for summary in runs:
        print_line(heading(summary, wanted.threshold), "dim")
    shown = list(queries.results(database, replace(wanted, limit=wanted.limit or TABLE_ROWS)))
    findings = {summary.run: summary.finding for summary in runs}
    if shown:
        _print_rows(shown, findings)
    else:
        print_line("No study matches.")
    more = sum(queries.count_results(database, wanted).values()) - len(shown)
    if more > 0:
        print_line(f"... and {more:,} more; all of them: --format csv, or a higher --limit", "dim")
    everything = replace(wanted, flagged=False, min_score=None, label=None, limit=None)
    apart = queries.count_results(database, everything)
    unsaid = [
        f"{apart[status]:,} {status}" for status in StudyStatus if status in apart and status is not StudyStatus.SCORED
    ]
    if unsaid:
        print_line(f"Never counted as negative: {', '.join(unsaid)}.", "yellow")
    print_line(RESEARCH_NOTICE)


def _print_rows(rows: Sequence[StudyRow], findings: dict[int, str]) -> None:
    several, labelled = len(findings) > 1, any(row.human_label for row in rows)
    titles = ((" run",) if several else ()) + (" score", "result", " read", "body part")
    print_table(
        titles + (("human",) if labelled else ()) + ("study",),
        [
            [
                *([str(row.run)] if several else []),
                score(row),
                outcome(row, findings[row.run]),
                f"{row.images - row.failed}/{row.images}" if row.status != StudyStatus.PENDING else "-",
                row.body_part or "unknown",
                *([row.human_label or "-"] if labelled else []),
                row.study,
            ]
            for row in rows
        ],
    )
