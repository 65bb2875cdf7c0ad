"""What several commands are given, bounded and looked at before it reaches a database or a disk."""

from pathlib import Path
from typing import Annotated

import typer

from xray.errors import UsageError
from xray.vocabulary import Layout

LARGEST_NUMBER = 2**63 - 1
"""What the databases' integers hold."""


def as_utf8(text: str | None) -> str | None:
    """Read a text as UTF-8, as study keys are, whatever the locale; typer calls it.

    Raises
    ------
    typer.BadParameter
        It is not UTF-8.
    """
    if text is None:
        return None
    try:
        # What the locale could not decode is in the text as surrogates, byte for byte.
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        raise typer.BadParameter("not UTF-8, as every text in the database is") from error


def as_archive(text: str) -> Path:
    """Read an archive's path; typer calls it.

    Raises
    ------
    UsageError
        It is empty, as of a variable that is not set: it would mean the current folder.
    """
    if not text:
        raise UsageError("an empty path; give the folder that holds the studies")
    return Path(text)


ArchivePaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        parser=as_archive,
        help="Folders of X-ray studies, zip or tar files of them, or archives' names.",
    ),
]
LayoutOption = Annotated[Layout, typer.Option(help="How files make studies.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
