"""Who is alive and what hinders them: one row a process, renewed while it lives."""

from dataclasses import dataclass

from sqlalchemy import delete, select

from db.session import Database, Now, insert_into
from db.tables import heartbeats

ALIVE_SECONDS = 20.0
"""A process silent for longer is taken for gone."""

FORGET_SECONDS = 3600.0


@dataclass(frozen=True)
class Heartbeat:
    """A process as it last reported: `problem` says what it waits for, None when all is well."""

    name: str
    role: str
    queue: str | None
    problem: str | None
    age_seconds: float

    @property
    def alive(self) -> bool:
        """Whether the report is recent."""
        return self.age_seconds < ALIVE_SECONDS


def record_heartbeat(database: Database, name: str, role: str, queue: str | None, problem: str | None) -> None:
    """Report one process alive; rows of those long gone are dropped on the way."""
    with database.write() as connection:
        upsert = insert_into(connection, heartbeats).values(
            name=name, role=role, queue=queue, problem=problem, seen_at=Now()
        )
        fresh = {column: upsert.excluded[column] for column in ("queue", "problem", "seen_at")}
        connection.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=fresh))
        connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < Now() - FORGET_SECONDS))


def remove_heartbeat(database: Database, name: str) -> None:
    """Take a process's row away as it ends in good order."""
    with database.write() as connection:
        connection.execute(delete(heartbeats).where(heartbeats.c.name == name))


def list_heartbeats(database: Database) -> list[Heartbeat]:
    """List the processes that reported within the last hour."""
    age = (Now() - heartbeats.c.seen_at).label("age")
    with database.read() as connection:
        rows = connection.execute(select(heartbeats, age).order_by(heartbeats.c.role, heartbeats.c.name)).all()
    return [Heartbeat(row.name, row.role, row.queue, row.problem, row.age) for row in rows]
