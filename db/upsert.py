"""INSERT ... ON CONFLICT, which SQLAlchemy spells once a dialect, and lists cut to a statement's size."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

CHUNK = 500
"""Rows a statement: well under SQLite's and PostgreSQL's limits on bound values."""


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Start an insert that can be given ``on_conflict_do_nothing`` or ``on_conflict_do_update``."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list into pieces of at most `CHUNK`."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
