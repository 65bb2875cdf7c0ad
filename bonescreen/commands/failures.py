"""Failures: the images that could not be read."""

from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer

from bonescreen.commands.arguments import LARGEST_NUMBER
from bonescreen.commands.runs import Json
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import count, print_line, print_table, write_json_list
from db.queries import FailureRow, count_failures, list_failures
from db.runs import require_run
from xray.vocabulary import REASON_TEXT, Reason

TABLE_ROWS = 50


def failures(
    run: Annotated[
        int | None,
        typer.Argument(
            metavar="RUN", min=1, max=LARGEST_NUMBER, help="One run only; by default the newest of each archive."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the images that have no prediction, and why.

    A study with such an image is incomplete, or not assessable if it has no other: never negative.

    Example: bonescreen failures 3 --json
    """
    with open_ledger(settings_here()) as database:
        if run is not None:
            require_run(database, run)
        with closing(list_failures(database, run)) as found:
            if as_json:
                write_json_list(asdict(row) for row in found)
                return
            listed = list(islice(found, TABLE_ROWS))
        reasons = count_failures(database, run)
    if not listed:
        print_line("No failed images.")
        return
    held = sorted({row.run for row in listed})
    print_table((" run", "reason", " attempts", "image"), [_row(row) for row in listed])
    more = sum(reasons.values()) - len(listed)
    if more > 0:
        print_line(f"... and {more:,} more; all of them: bonescreen failures --json", "dim")
    print_line("")
    for reason, number in reasons.items():
        print_line(f"{count(number, 'image')} {reason}: {reason_text(reason)}")
    print_line("After repair, read them again with: " + ", ".join(f"bonescreen retry {number}" for number in held))


def reason_text(reason: str) -> str:
    """Say in words why an image has no prediction."""
    return REASON_TEXT[Reason(reason)] if reason in set(Reason) else "unknown to this version of bonescreen"


def _row(row: FailureRow) -> list[str]:
    return [str(row.run), row.reason, str(row.attempts), row.image + (f"  ({row.detail})" if row.detail else "")]
