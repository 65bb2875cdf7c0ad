"""The formats of an export, and how rows are written in each."""

import io
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from bonescreen.context import require_packages
from bonescreen.exports import csv_text, json_text
from bonescreen.exports.about import About
from bonescreen.exports.columns import Row, RowType
from bonescreen.exports.private_file import check_target, open_private
from xray.errors import UsageError


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


TEXT = {Format.CSV: csv_text.write_rows, Format.JSON: json_text.write_list, Format.JSONL: json_text.write_lines}
"""The formats that standard output can take too."""


def check(form: Format, output: Path | None) -> None:
    """Check that a format can be written to a file, or to standard output, before the database is asked.

    Raises
    ------
    UsageError
        The format needs a file, or has none; the file cannot be written; or a library is not installed.
    """
    if form is Format.TABLE and output is not None:
        raise UsageError(f"--output needs --format {', '.join(TEXT)}, {Format.PARQUET} or {Format.XLSX}")
    if form in (Format.PARQUET, Format.XLSX) and output is None:
        raise UsageError(f"--format {form} needs a file, as in: --output results.{form}")
    if form is Format.PARQUET:
        require_packages("--format parquet", "pyarrow", extra="parquet")
    if output is not None:
        check_target(output)


def write(rows: Iterable[Row], kind: RowType, form: Format, about: About, output: Path | None) -> None:
    """Write rows to a file that only its owner may read, or to standard output; as they come, without holding them.

    Parameters
    ----------
    rows : iterable of StudyRow or ImageResult
    kind : type
        Of the rows.
    form : Format
        Any but the table.
    about : About
        What Parquet and XLSX say of where the rows are from.
    output : Path or None
        The file, or None for standard output.

    Raises
    ------
    StorageOutage
        The file cannot be written; there is no part of it then.
    """
    if output is None:
        TEXT[form](rows, kind, sys.stdout)
        return
    with open_private(output) as file:
        if form in TEXT:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
            TEXT[form](rows, kind, text)
            text.detach()
        elif form is Format.PARQUET:
            from bonescreen.exports import parquet

            parquet.write_rows(rows, kind, about, file)
        else:
            from bonescreen.exports import workbook

            workbook.write_rows(rows, kind, about, file, output.parent)
