"""Read a manifest: a CSV file that lists the images of an archive and the study of each.

Its first line names the columns ``study,image[,label,body_part,view,patient]`` in any order. It is separated by commas
or semicolons, in UTF-8 with or without a byte order mark, as spreadsheets write it.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from xray.archives.archive_file import MAX_PATH_BYTES, Placement
from xray.archives.layouts import MANIFEST_NAME
from xray.errors import UsageError
from xray.pseudonym import patient_mark, pseudonym
from xray.vocabulary import Label

REQUIRED = ("study", "image")
OPTIONAL = ("label", "body_part", "view", "patient")

MAX_LINE_BYTES = 65_536
PROBLEMS_IN_ERROR = 5
"""How many wrong lines an error names; the others are counted."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image that a manifest lists.

    Parameters
    ----------
    line : int
        Its line, from 1.
    image : str
        Its path below the archive's root, POSIX; a backslash, which Windows writes, separates folders too.
    placement : Placement
        Its study, and what else the columns say.
    """

    line: int
    image: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """A line of a manifest that is wrong, and why."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def read_manifest(file: BinaryIO, pseudonym_key: bytes | None = None) -> Iterator[ManifestRow | ManifestProblem]:
    """Read a manifest line by line, in constant memory.

    Parameters
    ----------
    file : BinaryIO
        The manifest.
    pseudonym_key : bytes or None
        Turns the patient's name or number into a keyed hash (`pseudonym`); without it only a mark is kept that tells
        patients within one study apart (`patient_mark`).

    Yields
    ------
    ManifestRow or ManifestProblem
        For each line that is not empty. A problem with the first line is the only one.
    """
    lines = _Lines(file)
    try:
        columns = _columns(lines)
    except (_WrongLine, csv.Error) as error:
        yield ManifestProblem(1, str(error))
        return
    rows = csv.reader(lines, delimiter=lines.delimiter, strict=True)
    while True:
        first = lines.number + 1
        try:
            row = next(rows, None)
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield _row(first, row, columns, pseudonym_key)
        except (_WrongLine, csv.Error) as error:
            yield ManifestProblem(first, str(error))


def count_images(file: BinaryIO) -> int:
    """Read a manifest to its end and return how many images it lists.

    Raises
    ------
    UsageError
        Lines are wrong; the text names the first `PROBLEMS_IN_ERROR`.
    """
    images = 0
    problems: list[ManifestProblem] = []
    wrong = 0
    for row in read_manifest(file):
        if isinstance(row, ManifestRow):
            images += 1
            continue
        wrong += 1
        if len(problems) < PROBLEMS_IN_ERROR:
            problems.append(row)
    if problems:
        more = f" (and {wrong - len(problems):,} more)" if wrong > len(problems) else ""
        raise UsageError(f"{MANIFEST_NAME} {'; '.join(map(str, problems))}{more}; correct it and scan again")
    return images


class _WrongLine(Exception):
    """A line is wrong; the text says why."""


class _Lines:
    """The lines of a file as text, counted; the csv module reads them one at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.delimiter = ","

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            raise _WrongLine(f"longer than {MAX_LINE_BYTES:,} bytes")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _WrongLine("not UTF-8; save it as CSV UTF-8") from error


def _columns(lines: _Lines) -> dict[str, int]:
    header = next(lines, "")
    if ";" in header and "," not in header:
        lines.delimiter = ";"
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=lines.delimiter), [])]
    # Spreadsheets write empty columns beside the filled ones.
    while names and not names[-1]:
        names.pop()
    expected = f"the first line must name the columns {','.join(REQUIRED)}, and may name {','.join(OPTIONAL)}"
    for name in REQUIRED:
        if name not in names:
            raise _WrongLine(f"there is no column {name!r}; {expected}")
    for name in names:
        if name not in REQUIRED + OPTIONAL:
            raise _WrongLine(f"there is no such column as {name!r}; {expected}")
        if names.count(name) > 1:
            raise _WrongLine(f"the column {name!r} is named twice")
    return {name: names.index(name) for name in names}


def _row(line: int, row: list[str], columns: dict[str, int], key: bytes | None) -> ManifestRow:
    while len(row) > len(columns) and not row[-1].strip():
        row.pop()
    if len(row) != len(columns):
        raise _WrongLine(f"{len(row)} fields where the first line names {len(columns)}")
    cells = {name: row[at].strip() for name, at in columns.items()}
    patient = cells.get("patient")
    placement = Placement(
        _study(cells["study"]),
        body_part=_term(cells, "body_part"),
        human_label=_label(cells.get("label", "")),
        view=_term(cells, "view"),
        patient_mark=patient_mark(cells["study"], patient or ""),
        patient=pseudonym(key, patient) if key and patient else None,
    )
    return ManifestRow(line, _image(row[columns["image"]].strip()), placement)


def _study(text: str) -> str:
    if not text:
        raise _WrongLine("no study")
    if len(text.encode()) > MAX_PATH_BYTES or not text.isprintable():
        raise _WrongLine(f"a study's name may have at most {MAX_PATH_BYTES:,} bytes and no control characters")
    return text


def _image(text: str) -> str:
    if not text:
        raise _WrongLine("no image")
    if len(text.encode()) > MAX_PATH_BYTES or "\0" in text:
        raise _WrongLine(f"an image's path may have at most {MAX_PATH_BYTES:,} bytes and no NUL")
    # Windows separates folders by a backslash.
    unified = text.replace("\\", "/")
    if re.match(r"[A-Za-z]:|//", unified):
        raise _WrongLine(
            f"the image {text!r} is on a drive or a server; write its path from the archive's folder on, "
            f"such as {'/'.join(unified.split('/')[-2:])!r}"
        )
    if unified.startswith("/") or ".." in unified.split("/"):
        raise _WrongLine(f"the image {text!r} is not below the archive's root; write its path from there, without '..'")
    return PurePosixPath(unified).as_posix()


def _label(text: str) -> Label | None:
    if not text:
        return None
    try:
        return Label(text.lower())
    except ValueError as error:
        raise _WrongLine(f"the label {text!r} is neither positive nor negative") from error


def _term(cells: dict[str, str], name: str) -> str | None:
    term = cells.get(name, "").upper()
    if term and not re.fullmatch(r"[A-Z0-9 _]{1,16}", term):
        raise _WrongLine(f"the {name} {term!r} is not a DICOM code string: up to 16 of A-Z, 0-9, blank and underscore")
    return term or None
