"""A manifest: a CSV file that says which images of an archive make which studies.

``study,image[,label,body_part,view,patient]``, in any order, named in the first line. Comma or semicolon, UTF-8, with
or without a byte order mark, as spreadsheets write it.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from xray.archives.layouts import MANIFEST_NAME, MAX_PATH_BYTES, Placement
from xray.errors import UsageError
from xray.pseudonym import pseudonym
from xray.vocabulary import Label

REQUIRED = ("study", "image")
OPTIONAL = ("label", "body_part", "view", "patient")

MAX_LINE_BYTES = 65_536
SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a manifest: an image's path below the archive's root, and its place."""

    line: int
    image: str
    placed: Placement


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one line."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def read_manifest(file: BinaryIO, pseudonym_key: bytes | None = None) -> Iterator[Listed | Problem]:
    """Read a manifest line by line; memory does not grow with it.

    Parameters
    ----------
    file : BinaryIO
        The manifest.
    pseudonym_key : bytes or None
        Turns the patient's name or number into a keyed hash (`pseudonym`); without one it is dropped.

    Yields
    ------
    Listed or Problem
        For each line that is not empty. After a problem with the first line there is nothing else.
    """
    lines = _Lines(file)
    try:
        columns = _columns(lines)
    except (_Bad, csv.Error) as error:
        yield Problem(1, str(error))
        return
    rows = csv.reader(lines, delimiter=lines.delimiter, strict=True)
    while True:
        first = lines.number + 1
        try:
            row = next(rows, None)
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield _listed(first, row, columns, pseudonym_key)
        except (_Bad, csv.Error) as error:
            yield Problem(first, str(error))


def require_sound(file: BinaryIO) -> int:
    """Read a manifest to its end and return how many images it lists.

    Raises
    ------
    UsageError
        Lines are wrong; the text names the first of them, by number.
    """
    listed = 0
    problems: list[Problem] = []
    wrong = 0
    for seen in read_manifest(file):
        if isinstance(seen, Listed):
            listed += 1
            continue
        wrong += 1
        if len(problems) < SHOWN_PROBLEMS:
            problems.append(seen)
    if problems:
        more = f" (and {wrong - len(problems):,} more)" if wrong > len(problems) else ""
        raise UsageError(f"{MANIFEST_NAME} {'; '.join(map(str, problems))}{more}; correct it and scan again")
    return listed


class _Bad(Exception):
    """A line is wrong; the text says how."""


class _Lines:
    """A file's lines as text, counted; the csv module asks for them one at a time."""

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
            raise _Bad(f"longer than {MAX_LINE_BYTES:,} bytes")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _Bad("not UTF-8; save it as CSV UTF-8") from error


def _columns(lines: _Lines) -> dict[str, int]:
    header = next(lines, "")
    if ";" in header and "," not in header:
        lines.delimiter = ";"
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=lines.delimiter), [])]
    # Spreadsheets write empty columns beside the filled ones.
    while names and not names[-1]:
        names.pop()
    wanted = f"the first line names the columns: {','.join(REQUIRED)}, and if you like {','.join(OPTIONAL)}"
    for name in REQUIRED:
        if name not in names:
            raise _Bad(f"there is no column {name!r}; {wanted}")
    for name in names:
        if name not in REQUIRED + OPTIONAL:
            raise _Bad(f"there is no such column as {name!r}; {wanted}")
        if names.count(name) > 1:
            raise _Bad(f"the column {name!r} comes twice")
    return {name: names.index(name) for name in names}


def _listed(line: int, row: list[str], columns: dict[str, int], key: bytes | None) -> Listed:
    while len(row) > len(columns) and not row[-1].strip():
        row.pop()
    if len(row) != len(columns):
        raise _Bad(f"{len(row)} fields where the first line names {len(columns)}")
    cells = {name: row[at].strip() for name, at in columns.items()}
    patient = cells.get("patient")
    placed = Placement(
        _study(cells["study"]),
        body_part=_term(cells, "body_part"),
        human_label=_label(cells.get("label", "")),
        view=_term(cells, "view"),
        patient=pseudonym(key, patient) if key and patient else None,
    )
    return Listed(line, _image(row[columns["image"]].strip()), placed)


def _study(text: str) -> str:
    if not text:
        raise _Bad("no study")
    if len(text.encode()) > MAX_PATH_BYTES or not text.isprintable():
        raise _Bad(f"a study's name has at most {MAX_PATH_BYTES:,} bytes and no control characters")
    return text


def _image(text: str) -> str:
    if not text:
        raise _Bad("no image")
    if len(text.encode()) > MAX_PATH_BYTES or "\0" in text:
        raise _Bad(f"an image's path has at most {MAX_PATH_BYTES:,} bytes and no NUL")
    parts = text.split("/")
    if text.startswith("/") or ".." in parts:
        raise _Bad(f"the image {text!r} is not below the archive's root; write its path from there, without '..'")
    return PurePosixPath(text).as_posix()


def _label(text: str) -> Label | None:
    if not text:
        return None
    try:
        return Label(text.lower())
    except ValueError as error:
        raise _Bad(f"the label {text!r} is neither positive nor negative") from error


def _term(cells: dict[str, str], name: str) -> str | None:
    term = cells.get(name, "").upper()
    if term and not re.fullmatch(r"[A-Z0-9 _]{1,16}", term):
        raise _Bad(f"the {name} {term!r} is no DICOM code string: up to 16 of A-Z, 0-9, blank and underscore")
    return term or None
