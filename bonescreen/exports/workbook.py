"""Rows as an XLSX workbook, in which every text is a text."""

import tempfile
from collections.abc import Callable, Iterable
from datetime import date, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from xlsxwriter import Workbook

from bonescreen.exports.about import About
from bonescreen.exports.columns import Column, ColumnType, Row, RowType, columns_of, values
from db.queries import StudyRow
from xray.printable import escape_controls, escaped
from xray.vocabulary import RESEARCH_NOTICE

MAX_ROWS = 1_048_576
"""Rows of a sheet, with its title row."""

MAX_CHARACTERS = 32_767
"""Characters of a cell; UTF-16 code units, of which some characters need two."""

_NOT_IN_XML = {ord(character): escaped(character) for character in "\ufffe\uffff"}
_WIDTHS = {"study": 44, "image": 54, "path": 54, "detail": 30, "model": 16, "changed_at": 20}

Write = Callable[[int, int, Any], object]


def write_rows(
    rows: Iterable[Row], kind: RowType, about: About, file: BinaryIO, folder: Path, most_rows: int = MAX_ROWS
) -> None:
    """Write rows of a kind: the sheet ``studies`` or ``images``, further ones when it is full, and the sheet ``about``.

    Parameters
    ----------
    rows : iterable of StudyRow or ImageResult
    kind : type
        Of the rows.
    about : About
        What the last sheet says.
    file : BinaryIO
        Open for writing.
    folder : Path
        Where XlsxWriter keeps the rows until the workbook is closed; it has to have as much space again, uncompressed.
    most_rows : int
        Rows of a sheet at most, with its title row.
    """
    columns = columns_of(kind)
    name = "studies" if kind is StudyRow else "images"
    with tempfile.TemporaryDirectory(prefix=".bonescreen-", dir=folder) as private:
        # Rows in constant memory are written in order; without the last three, a text could become a formula, a link
        # or a number.
        book = Workbook(
            file,
            {
                "constant_memory": True,
                "tmpdir": private,
                "strings_to_formulas": False,
                "strings_to_urls": False,
                "strings_to_numbers": False,
                "remove_timezone": True,
            },
        )
        book.set_properties({"title": f"bonescreen: {name}", "comments": RESEARCH_NOTICE})
        remaining = iter(rows)
        for number in range(1, 1_000_000):
            first = next(remaining, None)
            if first is None and number > 1:
                break
            held = islice(remaining, most_rows - 2)
            sheet = book.add_worksheet(name if number == 1 else f"{name} {number}")
            _fill(book, sheet, chain([] if first is None else [first], held), columns)
        _describe(book, about)
        book.close()


def _fill(book: Any, sheet: Any, rows: Iterable[Row], columns: tuple[Column, ...]) -> None:
    title = book.add_format({"bold": True})
    formats = {
        ColumnType.NUMBER: book.add_format({"num_format": "0.000"}),
        ColumnType.TIME: book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
    }
    for position, column in enumerate(columns):
        sheet.set_column(position, position, _WIDTHS.get(column.name, 12), formats.get(column.type))
        sheet.write_string(0, position, column.name, title)
    sheet.freeze_panes(1, 0)
    sheet.set_header(f"&L{RESEARCH_NOTICE}")
    last = 0
    for last, row in enumerate(rows, 1):
        for position, value in enumerate(values(row, columns)):
            _write(sheet, last, position, value)
    sheet.autofilter(0, 0, last, len(columns) - 1)


def _write(sheet: Any, row: int, position: int, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, position, value)
    elif isinstance(value, datetime):
        sheet.write_datetime(row, position, value)
    elif isinstance(value, int | float):
        sheet.write_number(row, position, value)
    else:
        # A date as text: a sheet's dates begin in 1900.
        sheet.write_string(row, position, _cell_text(value.isoformat() if isinstance(value, date) else str(value)))


def _cell_text(text: str) -> str:
    """Return a text that XML can hold and that fits a cell; a name that is cut ends with an ellipsis."""
    safe = escape_controls(text).translate(_NOT_IN_XML)
    units = safe.encode("utf-16-le")
    if len(units) <= 2 * MAX_CHARACTERS:
        return safe
    return units[: 2 * (MAX_CHARACTERS - 1)].decode("utf-16-le", errors="ignore") + "…"


def _describe(book: Any, about: About) -> None:
    sheet = book.add_worksheet("about")
    sheet.set_column(0, 0, 24)
    sheet.set_column(1, 1, 80)
    lines: list[tuple[str, object]] = [*about.facts().items(), ("times", "in UTC")]
    lines += [fact for run in about.run_facts() for fact in run.items()]
    for row, (name, value) in enumerate(lines):
        sheet.write_string(row, 0, name)
        _write(sheet, row, 1, value)
