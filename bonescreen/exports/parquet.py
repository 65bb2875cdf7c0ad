"""Rows as Parquet, with typed columns, and metadata that says where they are from."""

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as arrow
from pyarrow.parquet import ParquetWriter

from bonescreen.exports.about import About
from bonescreen.exports.columns import Column, ColumnType, Row, RowType, columns_of, values

ROWS_AT_ONCE = 5_000
"""Rows in a row group, which is what is held in memory."""

_TYPES: dict[ColumnType, Any] = {
    ColumnType.TEXT: arrow.string(),
    ColumnType.INTEGER: arrow.int64(),
    ColumnType.NUMBER: arrow.float64(),
    ColumnType.TRUTH: arrow.bool_(),
    ColumnType.DATE: arrow.date32(),
    ColumnType.TIME: arrow.timestamp("us", tz="UTC"),
}


def write_rows(rows: Iterable[Row], kind: RowType, about: About, file: BinaryIO) -> None:
    """Write rows of a kind; the keys of its metadata begin with ``bonescreen.``, and ``bonescreen.runs`` is JSON."""
    columns = columns_of(kind)
    schema = arrow.schema([arrow.field(column.name, _TYPES[column.type]) for column in columns], _metadata(about))
    with ParquetWriter(file, schema, compression="zstd") as writer:
        remaining = iter(rows)
        while chunk := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(_table(chunk, columns, schema))


def _metadata(about: About) -> dict[str, str]:
    facts = {**about.facts(), "runs": json.dumps(about.run_facts())}
    return {f"bonescreen.{name}": value for name, value in facts.items()}


def _table(chunk: list[Row], columns: tuple[Column, ...], schema: Any) -> Any:
    by_column = zip(*(values(row, columns) for row in chunk), strict=True)
    arrays = [arrow.array(cells, _TYPES[column.type]) for column, cells in zip(columns, by_column, strict=True)]
    return arrow.Table.from_arrays(arrays, schema=schema)
