"""Report: a run in one file that can be sent to a colleague."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bonescreen.commands.arguments import RunNumber, as_count
from bonescreen.context import open_ledger, roots_here, settings_here
from bonescreen.exports.private_file import check_target, open_private
from bonescreen.terminal import print_line, print_notice
from db.run_queries import run_summary
from training.progress import Bar
from xray.vocabulary import RESEARCH_NOTICE, count

STUDIES = 100


def report(
    run: RunNumber,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file, which only you may read.")
    ],
    flagged: Annotated[bool, typer.Option("--flagged", help="Show flagged studies only.")] = False,
    limit: Annotated[
        int, typer.Option(metavar="N", callback=as_count, help="Show at most N studies, the highest score first.")
    ] = STUDIES,
) -> None:
    """Write a run's report: one HTML file that needs no other, to read, print, or send to a colleague.

    It has a summary, the scores, studies with their images and heat maps, failures and what to do about them, the
    model's card, and how well the results agree with human labels, if the archive has any. Whoever reads it can tick
    agree, disagree or unsure for each study and save that as CSV, also offline; store it with: bonescreen review import

    The file shows patients' images. Send it only where these may go.

    Example: bonescreen report 1 --flagged -o report.html
    """
    check_target(output)
    settings = settings_here()
    with open_ledger(settings) as database:
        summary = run_summary(database, run)
        roots = roots_here(settings, database)
        from bonescreen.report.page import write_report

        shown = min(limit, summary.flagged if flagged else summary.studies)
        with open_private(output) as file, Bar(Console(stderr=True), "Drawing", shown, unit="study") as bar:
            drawn = write_report(
                database, summary, settings, roots, file, flagged=flagged, limit=limit, step=bar.advance
            )
    print_line(str(output))
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    print_notice(f"{count(drawn.studies, 'study')}, {size}. {RESEARCH_NOTICE}")
    if drawn.problems:
        print_notice("Some images could not be drawn; the report says which, and why.")
        raise typer.Exit(1)
