"""Rows as JSON: one list, or an object a line (JSON lines, https://jsonlines.org)."""

import json
from collections.abc import Iterable, Mapping
from typing import TextIO

from bonescreen.exports.columns import Row, RowType, columns_of, record


def write_list(rows: Iterable[Row], kind: RowType, file: TextIO) -> None:
    """Write rows of a kind as one JSON list, a row a line."""
    columns = columns_of(kind)
    write_objects((record(row, columns) for row in rows), file)


def write_objects(objects: Iterable[Mapping[str, object]], file: TextIO) -> None:
    """Write objects as one JSON list, an object a line, without holding it in memory."""
    opening = "[\n"
    for each in objects:
        file.write(opening + json.dumps(each))
        opening = ",\n"
    file.write("[]\n" if opening == "[\n" else "\n]\n")


def write_lines(rows: Iterable[Row], kind: RowType, file: TextIO) -> None:
    """Write rows of a kind as JSON lines."""
    columns = columns_of(kind)
    for row in rows:
        file.write(json.dumps(record(row, columns)) + "\n")
