"""Heartbeats: one row for each worker and feeder process, with the problem that it waits for, if any."""

from dataclasses import dataclass

from sqlalchemy import delete, select

from db.session import Database, Now, insert_into
from db.tables import heartbeats

ALIVE_SECONDS = 20.0
"""A process whose last heartbeat is older counts as dead."""

DELETE_AFTER_SECONDS = 3600.0


@dataclass(frozen=True)
class Heartbeat:
    """The last report of a process; `problem` is what it waits for, None if it works or is idle."""

    name: str
    role: str
    queue: str | None
    problem: str | None
    age_seconds: float

    @property
    def alive(self) -> bool:
        """Whether the heartbeat is recent."""
        return self.age_seconds < ALIVE_SECONDS


def record_heartbeat(database: Database, name: str, role: str, queue: str | None, problem: str | None) -> None:
    """Record that a process is alive, and delete the rows of processes that died long ago."""
    with database.write() as connection:
        upsert = insert_into(connection, heartbeats).values(
            name=name, role=role, queue=queue, problem=problem, seen_at=Now()
        )
        updated = {column: upsert.excluded[column] for column in ("queue", "problem", "seen_at")}
        connection.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=updated))
        connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < Now() - DELETE_AFTER_SECONDS))


def remove_heartbeat(database: Database, name: str) -> None:
    """Delete the row of a process that shuts down normally."""
    with database.write() as connection:
        connection.execute(delete(heartbeats).where(heartbeats.c.name == name))


def list_heartbeats(database: Database) -> list[Heartbeat]:
    """List the processes that have sent a heartbeat within the last hour, by role and name."""
    age = (Now() - heartbeats.c.seen_at).label("age")
    with database.read() as connection:
        rows = connection.execute(select(heartbeats, age).order_by(heartbeats.c.role, heartbeats.c.name)).all()
    return [Heartbeat(row.name, row.role, row.queue, row.problem, row.age) for row in rows]
