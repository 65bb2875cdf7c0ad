"""CSV tables with named columns."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from xray.errors import UsageError


def read_table(table: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with named columns.

    Returns
    -------
    list of tuple
        Line number and record, a missing cell as an empty string.

    Raises
    ------
    UsageError
        If the file cannot be read, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{table} has no column {', '.join(missing)}")
            return [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table} cannot be read: {error}") from error


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return CSV text that :func:`read_table` reads again, line by line ended by a line feed."""
    return "".join(f"{_line(row)}\n" for row in (columns, *rows))


def _line(row: Sequence[str]) -> str:
    # A writer quotes the characters that end its lines: written with a line feed alone, a carriage return stays bare.
    text = io.StringIO(newline="")
    csv.writer(text).writerow(row)
    return text.getvalue().removesuffix("\r\n")
