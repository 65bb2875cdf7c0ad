"""The columns of an export: their names and types, which are the same in every format and for every run."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import get_args, get_type_hints

from db.queries import ImageResult, StudyRow

Row = StudyRow | ImageResult
RowType = type[StudyRow] | type[ImageResult]
Value = str | int | float | bool | date | datetime | None


class ColumnType(StrEnum):
    """What a column holds, besides nothing."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    TRUTH = "truth value"
    DATE = "date"
    TIME = "time in UTC"


_BY_NAME = {"study_date": ColumnType.DATE, "changed_at": ColumnType.TIME}
_BY_TYPE: dict[object, ColumnType] = {
    str: ColumnType.TEXT,
    int: ColumnType.INTEGER,
    float: ColumnType.NUMBER,
    bool: ColumnType.TRUTH,
}


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    type: ColumnType


def columns_of(kind: RowType) -> tuple[Column, ...]:
    """Return the columns of a kind of rows, in their order."""
    hints = get_type_hints(kind).items()
    return tuple(Column(name, _BY_NAME.get(name) or _BY_TYPE[_without_none(hint)]) for name, hint in hints)


def _without_none(hint: object) -> object:
    return next(part for part in get_args(hint) or (hint,) if part is not type(None))


def values(row: Row, columns: tuple[Column, ...]) -> Iterator[Value]:
    """Yield a row's values: dates and times as such, everything else as it is stored."""
    for column in columns:
        value = getattr(row, column.name)
        if value is None:
            yield None
        elif column.type is ColumnType.DATE:
            yield date.fromisoformat(value)
        elif column.type is ColumnType.TIME:
            yield datetime.fromtimestamp(value, UTC)
        else:
            yield value


def record(row: Row, columns: tuple[Column, ...]) -> dict[str, str | int | float | bool | None]:
    """Return a row as JSON has it: dates and times as ISO 8601, times in UTC."""
    return {column.name: as_text(value) for column, value in zip(columns, values(row, columns), strict=True)}


def as_text(value: Value) -> str | int | float | bool | None:
    """Write a date or time as ISO 8601, and return any other value as it is."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return value.isoformat() if isinstance(value, date) else value
