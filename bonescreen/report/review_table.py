"""The CSV file of reviews that a report saves and `bonescreen review import` reads."""

import csv
import io
from collections.abc import Iterator, Mapping
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
    """A file's lines that have a decision, what is wrong with others, and how many have none."""

    lines: list[ReviewLine]
    wrong: list[WrongLine]
    undecided: int


def read_review_table(file: Path) -> ReviewTable:
    """Read a file, as the report saved it or as a spreadsheet wrote it again.

    Raises
    ------
    UsageError
        It cannot be read, is no CSV file, or lacks a column.
    """
    lines: list[ReviewLine] = []
    wrong: list[WrongLine] = []
    undecided = 0
    for number, record in _records(file):
        if not record["decision"].strip():
            undecided += 1
            continue
        read = _read_line(number, record)
        if isinstance(read, WrongLine):
            wrong.append(read)
        else:
            lines.append(read)
    return ReviewTable(lines, wrong, undecided)


def _records(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} is too large for reviews ({MOST_BYTES // 1_000_000} MB at most)")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8; save it as CSV in UTF-8") from None
    header = text.partition("\n")[0]
    # A spreadsheet writes semicolons where its language writes numbers with commas.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if header.count(";") else ",", restval="")
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{file} has no column {', '.join(missing)}; it is not a file that a report has saved")
        previous = reader.line_num
        for record in reader:
            # A note may have several lines; the record's first one is named.
            yield previous + 1, {name: record[name] or "" for name in COLUMNS}
            previous = reader.line_num
    except csv.Error as error:
        raise UsageError(f"{file} is not CSV: {error}") from error


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
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise UsageError(f"{text!r} is not a run's number")
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
