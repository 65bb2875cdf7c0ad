"""Failures: the images that could not be read."""

import sys
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer

from bonescreen.commands.arguments import Json, as_count
from bonescreen.context import open_ledger, settings_here
from bonescreen.exports.json_text import write_objects
from bonescreen.terminal import print_line, print_table
from db.failures import FailureRow, count_failures, list_failures
from db.runs import require_run
from xray.vocabulary import count, reason_text

TABLE_ROWS = 50


def failures(
    run: Annotated[
        int | None,
        typer.Argument(metavar="RUN", callback=as_count, help="This run only; by default each archive's newest."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the images that could not be read, and why.

    Their studies are incomplete, or not assessable when no image is left: never negative. Once the files are repaired,
    read them again with: bonescreen retry RUN

    Example: bonescreen failures
    """
    with open_ledger(settings_here()) as database:
        if run is not None:
            require_run(database, run)
        with closing(list_failures(database, run)) as found:
            if as_json:
                write_objects((asdict(row) for row in found), sys.stdout)
                return
            listed = list(islice(found, TABLE_ROWS))
        reasons = count_failures(database, run)
    if not listed:
        print_line("No failed images.")
        return
    runs = sorted({row.run for row in listed})
    print_table((" run", "reason", " attempts", "detail", "image"), [_row(row) for row in listed])
    more = sum(reasons.values()) - len(listed)
    if more > 0:
        print_line(f"... and {more:,} more; all of them: bonescreen failures --json", "dim")
    print_line("")
    for reason, number in reasons.items():
        print_line(f"{count(number, 'image')} {reason}: {reason_text(reason)}")
    commands = ", ".join(f"bonescreen retry {number}" for number in runs)
    print_line(f"Once the files are repaired, read them again with: {commands}")


def _row(row: FailureRow) -> list[str]:
    return [str(row.run), row.reason, str(row.attempts), row.detail or "-", row.image]
