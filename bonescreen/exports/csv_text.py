"""Rows as CSV: for spreadsheets, which must read no formula in it, and for programs."""

import csv
from collections.abc import Iterable, Sequence
from typing import TextIO

from bonescreen.exports.columns import Row, RowType, as_text, columns_of, values
from xray.printable import escape_controls

DIGITS = 4
"""Decimals of a score: more than the noise of the labels leaves meaningful. The other formats have all digits."""

FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def write_rows(rows: Iterable[Row], kind: RowType, file: TextIO) -> None:
    """Write rows of a kind, the columns' names first."""
    columns = columns_of(kind)
    names = [column.name for column in columns]
    write_cells(names, ((as_text(value) for value in values(row, columns)) for row in rows), file)


def write_cells(names: Sequence[str], rows: Iterable[Iterable[object]], file: TextIO) -> None:
    """Write rows of texts, numbers, truth values and None, after the columns' names."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def cell(value: object) -> object:
    """Write a value as CSV has it.

    A text that a spreadsheet would read as a formula (study keys are file names, which anybody may have chosen) gets an
    apostrophe in front; one that begins with an apostrophe gets another. `without_apostrophe` restores both.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}"
    if not isinstance(value, str):
        return value
    # A header or a manifest may hold sequences that control the terminal that the file is printed to.
    text = escape_controls(value)
    return f"'{text}" if value.startswith((*FORMULA_BEGINNINGS, "'")) else text


def without_apostrophe(text: str) -> str:
    """Return a text as it was before `cell` put an apostrophe in front.

    A spreadsheet may have taken the apostrophe for its own mark of a text, and removed it when it saved the file again:
    a text without one is as it was.
    """
    return text[1:] if text.startswith("'") and text[1:].startswith((*FORMULA_BEGINNINGS, "'")) else text
