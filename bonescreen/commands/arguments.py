"""Arguments and options that several commands share, checked before they reach a database or a disk."""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, TypeVar

import typer

from db import queries
from producer.selection import Selection
from xray.errors import UsageError
from xray.images.dicom.header import DEFINED_MODALITIES, MODALITIES
from xray.vocabulary import Layout

Number = TypeVar("Number", int, float)


def as_count(number: int | None) -> int | None:
    """Check a run's number or a limit; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is below 1, or larger than a database column stores.
    """
    return None if number is None else _checked(queries.as_count, number)


def as_score(score: float | None) -> float | None:
    """Check a score or threshold; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is not from 0 to 1.
    """
    return None if score is None else _checked(queries.as_score, score)


def _checked(check: Callable[[object], Number], value: Number) -> Number:
    try:
        return check(value)
    except UsageError as error:
        # `usage_error_text` takes a text with a cause for the library's, and replaces it.
        raise typer.BadParameter(str(error)) from None


def as_time(text: str) -> float:
    """Read a date or a time of this machine's clock, as seconds since 1970; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is neither.
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter("must be a date or time, such as 2026-11-30 or 2026-11-30T07:00") from None


def as_port(port: int) -> int:
    """Check a port; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is not from 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise typer.BadParameter("must be a whole number from 1 to 65535")
    return port


def as_utf8(text: str | None) -> str | None:
    """Read a text as UTF-8, as study keys are, whatever the locale; Typer calls it.

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
        raise typer.BadParameter("must be valid UTF-8") from error


def as_study_key(text: str) -> str | None:
    """Read a study's key; Typer calls it. A shell completes the path of a study's folder with a slash at its end."""
    return as_utf8(text.rstrip("/"))


def as_study_keys(texts: list[str] | None) -> list[str]:
    """Read the keys of studies; Typer calls it."""
    return [key for text in texts or () if (key := as_study_key(text))]


def as_archive(text: str) -> str:
    """Check an archive's path, name or URL; Typer calls it.

    Raises
    ------
    UsageError
        It is empty, as an unset variable would make it; it would mean the current folder.
    """
    if not text:
        raise UsageError("an empty path; give the folder that holds the studies")
    return text


def as_day(text: str) -> date:
    """Read a day; Typer calls it.

    Raises
    ------
    typer.BadParameter
        It is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a day, such as 2026-11-30") from None


def as_modalities(text: str | None) -> str | None:
    """Check terms of Modality (0008,0060), joined by commas; Typer calls it.

    Raises
    ------
    typer.BadParameter
        One is not defined by DICOM (PS3.3 C.7.3.1.1.1): no study would be found, and nobody would know why.
    """
    if text is None:
        return None
    terms = text.replace(" ", "").upper()
    if not all(re.fullmatch(r"[A-Z0-9_]{1,16}", term) for term in terms.split(",")):
        raise typer.BadParameter("must be DICOM's terms, joined by commas, such as CR,DX")
    if unknown := [term for term in terms.split(",") if term not in DEFINED_MODALITIES]:
        raise typer.BadParameter(
            f"{unknown[0]} is no modality that DICOM defines; those of radiographs are {', '.join(sorted(MODALITIES))}"
        )
    return terms


def selected(since: date | None, modality: str | None) -> Selection:
    """Return which studies of a DICOMweb service `Since` and `Modality` choose."""
    return Selection(since, tuple(dict.fromkeys(modality.split(","))) if modality else ())


ArchivePaths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        parser=as_archive,
        help="Folders of studies, zip or tar files of them, single images, DICOMweb services (dicomweb+https://...), "
        "or names from BONESCREEN_ARCHIVES.",
    ),
]
Since = Annotated[
    date | None,
    typer.Option(
        metavar="DATE",
        parser=as_day,
        help="Of a DICOMweb service, look only for studies of this date or later.",
    ),
]
Modality = Annotated[
    str | None,
    typer.Option(
        metavar="TERMS",
        callback=as_modalities,
        help="Of a DICOMweb service, look only for studies with one of these modalities, as in CR,DX.",
    ),
]
LayoutOption = Annotated[
    Layout, typer.Option(metavar="LAYOUT", help=f"How files are grouped into studies: {', '.join(Layout)}.")
]
Priority = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=-100,
        max=100,
        help="Runs with a higher priority are screened first, then older runs. Kept until it is changed; at first 0.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done without changing anything.")]
RunNumber = Annotated[
    int, typer.Argument(metavar="RUN", callback=as_count, help="The run's number, see: bonescreen runs")
]
RunOption = Annotated[
    int | None, typer.Option("--run", metavar="RUN", callback=as_count, help="This run only, see: bonescreen runs")
]
StudyKey = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        callback=as_study_key,
        help="The study's name in `bonescreen results`, or an unambiguous ending of it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, for scripts.")]
