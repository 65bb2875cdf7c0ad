"""Reviews that were made away from the database, in a report."""

from collections import Counter
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bonescreen.command_group import CommandGroup, PlainCommand
from bonescreen.commands.arguments import as_utf8
from bonescreen.context import open_ledger, settings_here
from bonescreen.report.check_reviews import check_reviews
from bonescreen.report.review_table import WrongLine, read_review_table
from bonescreen.terminal import print_line, print_notice
from db.review_import import Added, add_reviews
from db.reviews import check_reviewer
from xray.errors import UsageError
from xray.vocabulary import Decision, count

MOST_LISTED = 20

app = typer.Typer(cls=CommandGroup, help="Store reviews that were made in a report.")


@app.command("import", cls=PlainCommand)
def import_reviews(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="The file that a report's `Save as CSV` has saved.")],
    reviewer: Annotated[
        str, typer.Option(metavar="NAME", callback=as_utf8, help="The name of the person who made the decisions.")
    ],
) -> None:
    """Store the decisions that somebody ticked in a report and saved as CSV.

    Every line is checked first: run, archive, model and study must be those of this database. If one is wrong, nothing
    is stored. A decision that this reviewer made in the same words before is not stored again.

    Example: bonescreen review import reviews-run1.csv --reviewer "Ada Lovelace"
    """
    check_reviewer(reviewer)
    table = read_review_table(file)
    with open_ledger(settings_here()) as database:
        lines = table.lines
        if not (lines or table.wrong):
            raise UsageError(f"{file} has no decision; tick some in the report, and save it again")
        checked = check_reviews(database, lines) if lines else None
        wrong = sorted([*table.wrong, *(checked.wrong if checked else [])], key=lambda each: each.line)
        if wrong or checked is None:
            _refuse(file, wrong)
        done = add_reviews(database, lines[0].run, reviewer, checked.reviews)
    _print(done, reviewer.strip(), lines[0].run, checked.changed)
    if table.only_notes:
        where = ", ".join(map(str, table.only_notes[:MOST_LISTED])) + (", ..." * (len(table.only_notes) > MOST_LISTED))
        print_line(f"Left out, as there is a note but no decision: line {where}", "yellow")


def _refuse(file: Path, wrong: list[WrongLine]) -> NoReturn:
    for each in wrong[:MOST_LISTED]:
        print_notice(f"{file}, {each}")
    if len(wrong) > MOST_LISTED:
        print_notice(f"... and {len(wrong) - MOST_LISTED:,} more")
    are = "is" if len(wrong) == 1 else "are"
    raise UsageError(f"{count(len(wrong), 'line')} of {file} {are} wrong, so nothing is stored; correct the file")


def _print(done: Added, reviewer: str, run: int, changed: int) -> None:
    decisions = Counter(one.decision for one in done.added)
    if done.added:
        kinds = ", ".join(f"{decisions[each]:,} {each}" for each in Decision if decisions[each])
        print_line(f"Stored {count(len(done.added), 'review')} by {reviewer} in run {run}: {kinds}")
    else:
        print_line(f"Nothing to store: run {run} has all these reviews by {reviewer}")
    if done.added and done.before:
        print_line(f"{count(len(done.before), 'review')} stored before, not again")
    if done.outdated:
        print_line(
            f"{count(len(done.outdated), 'review')} followed by a newer one by {reviewer}, which counts", "yellow"
        )
    if changed:
        print_line(f"{count(changed, 'study')} with another result now than in the report", "yellow")
