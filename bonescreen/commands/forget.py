"""Remove what is stored about a study, a run or an archive."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bonescreen.commands.arguments import as_study_key
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import print_line, print_wrapped
from db.forget import Kind, Stored, Target, count_stored, find_targets
from db.forget import forget as forget_target
from db.session import Database
from db.sqlite_file import erase_deleted, sqlite_path
from xray.errors import Outage, UsageError
from xray.vocabulary import count

NOT_IN_THE_DATABASE = (
    "Not in the database, so not removed: the files of the archive, pictures of `bonescreen heatmap`, exported "
    "results, and backups of the database. The broker has numbers of runs and batches only."
)


def forget(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|RUN|ARCHIVE",
            callback=as_study_key,
            help="A study's name or an unambiguous ending of it, a run's number, or an archive's name.",
        ),
    ],
    kind: Annotated[
        Kind | None,
        typer.Option(metavar="KIND", help="What the name is of, where it could be several: study, run or archive."),
    ] = None,
    archive: Annotated[
        str | None, typer.Option(metavar="NAME", help="The archive, where several have a study of that name.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what is stored about a study, a run or an archive.

    Its images, predictions, class activation maps, failures and results are deleted from the database; the files of the
    archive are not touched. It says what it will remove, and asks. A run that is not finished must be cancelled first.

    A study or archive whose files stay where they are comes back with the next scan, so move them away first.

    The embedded database, and any other SQLite file, is then rewritten, so that the bytes are gone too. On PostgreSQL
    they stay in its files until it has run VACUUM, and in backups: that is for its administrator.

    Example: bonescreen forget patient00001/study1_positive
    """
    with open_ledger(settings_here()) as database:
        target = _chosen(find_targets(database, what, kind, archive), what, kind, archive)
        stored = count_stored(database, target)
        _announce(target, stored)
        if not yes and not _confirmed():
            print_line("Nothing was removed.")
            raise typer.Exit(1)
        _forget(database, target, stored)
        print_line(f"Removed the {target.kind} {target.name} from the database.")
        _erase(database)


def _chosen(found: Sequence[Target], name: str, kind: Kind | None, archive: str | None) -> Target:
    if not found:
        of = "" if kind is None else f" the {kind}"
        there = "" if archive is None else f" in the archive {archive!r}"
        raise UsageError(f"nothing is stored about{of} {name!r}{there}; see: bonescreen results, bonescreen runs")
    if len(found) == 1:
        return found[0]
    if len({target.kind for target in found}) > 1:
        kinds = " and ".join(f"a {target.kind}" for target in found)
        raise UsageError(f"{name!r} is {kinds}; say which with: --kind {' or --kind '.join(sorted(Kind))}")
    if len({target.name for target in found}) > 1:
        keys = ", ".join(target.name for target in found[:5])
        raise UsageError(f"{name!r} matches more than one study; give one of: {keys}")
    archives = " or ".join(f"--archive {target.archive}" for target in found)
    raise UsageError(f"the study {found[0].name!r} is in more than one archive; choose one with: {archives}")


def _announce(target: Target, stored: Stored) -> None:
    of_archive = "" if target.kind is Kind.ARCHIVE else f" of the archive {target.archive}"
    print_line(f"The {target.kind} {target.name}{of_archive} ({target.root}):", "bold")
    outcomes = f"{count(stored.outcomes, 'outcome')} (predictions and failures)"
    if target.kind is Kind.RUN:
        print_line(f"  {outcomes}, and the results of its studies, are removed.")
        print_wrapped(
            "  ", f"Its archive's studies and images stay; remove them with: bonescreen forget {target.archive}"
        )
    else:
        what = f"{count(stored.studies, 'study')}, " if target.kind is Kind.ARCHIVE else ""
        runs = f" of {count(stored.runs, 'run')}"
        print_line(f"  {what}{count(stored.images, 'image')}, {outcomes}{runs} are removed.")
        print_wrapped(
            "  ", "While the files stay in the archive, its next scan brings them back; move them away first."
        )
    print_wrapped("  ", NOT_IN_THE_DATABASE)


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nothing was removed, as nobody can be asked here; confirm with: --yes")
    return typer.confirm("Remove it?")


def _forget(database: Database, target: Target, stored: Stored) -> None:
    done, total = 0, stored.outcomes + stored.images
    with Console(stderr=True).status(Text("Removing ...")) as status:

        def deleted(rows: int) -> None:
            nonlocal done
            done += rows
            status.update(Text(f"Removing ... {100 * done // max(total, done, 1)} %"))

        forget_target(database, target, deleted)


def _erase(database: Database) -> None:
    if database.dialect != "sqlite":
        print_wrapped(
            "",
            "PostgreSQL keeps the bytes of deleted rows in its files until VACUUM, and in its archived logs and "
            "backups: removing them is for its administrator.",
        )
        return
    path = sqlite_path(database)
    try:
        erase_deleted(database)
    except Outage as outage:
        remedy = "once that is over, run: bonescreen db vacuum"
        raise type(outage)(f"the rows are deleted, but their bytes are still in {path}: {outage}; {remedy}") from outage
    print_line(f"Their bytes are gone from {path} and its write-ahead log.")
