"""The CSV file of reviews that a report saves and `bonescreen review import` reads."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bonescreen.exports.csv_text import without_apostrophe
from db.queries import as_count, as_score
from db.reviews import check_note
from xray.errors import UsageError
from xray.vocabulary import Decision, Label, StudyStatus

COLUMNS = ("run", "archive", "study", "model", "model_digest", "status", "label", "score", "decision", "note")
MOST_BYTES = 100_000_000

Word = TypeVar("Word", StudyStatus, Label, Decision)


@dataclass(frozen=True)
class ReviewLine:
    """A line of the file: a decision, and what the report said of the study's result."""

    line: int
    run: int
    archive: str
    study: str
    digest: str
    status: StudyStatus
    label: Label | None
    score: float | None
    decision: Decision
    note: str | None


@dataclass(frozen=True)
class WrongLine:
    """What is wrong with a line of the file."""

    line: int
    column: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.text}"


@dataclass(frozen=True)
class ReviewTable:
    """A file's lines that have a decision, what is wrong with others, and which have a note but no decision."""

    lines: list[ReviewLine]
    wrong: list[WrongLine]
    only_notes: list[int]


def read_review_table(file: Path) -> ReviewTable:
    """Read a file, as the report saved it or as a spreadsheet wrote it again.

    Raises
    ------
    UsageError
        It cannot be read, is no CSV file, or lacks a column.
    """
    lines: list[ReviewLine] = []
    wrong: list[WrongLine] = []
    only_notes: list[int] = []
    for number, record in _records(file):
        if isinstance(record, WrongLine):
            wrong.append(record)
            continue
        if not record["decision"].strip():
            if record["note"].strip():
                only_notes.append(number)
            continue
        read = _read_line(number, record)
        if isinstance(read, WrongLine):
            wrong.append(read)
        else:
            lines.append(read)
    return ReviewTable(lines, wrong, only_notes)


def _records(file: Path) -> Iterator[tuple[int, dict[str, str] | WrongLine]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} is too large for reviews ({MOST_BYTES // 1_000_000} MB at most)")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; save it as CSV in UTF-8") from None
    try:
        yield from _cells(file, text)
    except csv.Error as error:
        raise UsageError(f"{file} is not CSV: {error}; is a quotation mark missing, or not doubled?") from error


def _cells(file: Path, text: str) -> Iterator[tuple[int, dict[str, str] | WrongLine]]:
    header = next((line for line in text.splitlines() if line), "")
    # A spreadsheet writes semicolons where its language writes numbers with commas, and tabs if it is told to. It is
    # strict because, where a quotation mark is missing, the lines that follow would be taken for a part of the note.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    names: list[str] = []
    end = 0
    for row in reader:
        # A note may have several lines; the record's first one is named.
        first, end = end + 1, reader.line_num
        if not row:
            continue
        if not names:
            names = row
            _check_names(file, names)
        elif beyond := "".join(row[len(names) :]).strip():
            wrong = f"{beyond!r} is after the last column; a text with a comma or semicolon needs quotation marks"
            yield first, WrongLine(first, names[-1], wrong)
        else:
            record = dict(zip(names, row, strict=False))
            yield first, {name: record.get(name, "") for name in COLUMNS}
    _check_names(file, names)


def _check_names(file: Path, names: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise UsageError(f"{file} has no column {', '.join(missing)}; it is not a file that a report has saved")
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise UsageError(f"{file} has the column {', '.join(twice)} more than once; leave one of them")


def _read_line(line: int, record: Mapping[str, str]) -> ReviewLine | WrongLine:
    column = ""
    try:
        column = "run"
        run = _number(record[column])
        column = "status"
        status = _word(record[column], StudyStatus)
        column = "label"
        label = _word(record[column], Label) if record[column].strip() else None
        column = "score"
        score = as_score(_decimal(record[column])) if record[column].strip() else None
        column = "decision"
        decision = _word(record[column], Decision)
        column = "note"
        note = check_note(without_apostrophe(record[column]))
    except UsageError as error:
        return WrongLine(line, column, str(error))
    return ReviewLine(
        line=line,
        run=run,
        archive=record["archive"],
        study=without_apostrophe(record["study"]),
        digest=record["model_digest"].strip(),
        status=status,
        label=label,
        score=score,
        decision=decision,
        note=note,
    )


def _number(text: str) -> int:
    # Python refuses to read a number of thousands of digits.
    if not (text.strip().isascii() and text.strip().isdigit() and len(text) < 100):
        raise UsageError(f"{text[:100]!r} is not a run's number")
    return as_count(int(text))


def _decimal(text: str) -> float:
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        raise UsageError(f"{text!r} is not a number") from None


def _word(text: str, words: type[Word]) -> Word:
    word = text.strip().lower()
    if word not in set(words):
        raise UsageError(f"{text!r} is none of {', '.join(words)}")
    return words(word)
