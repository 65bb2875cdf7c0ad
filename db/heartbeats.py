"""Heartbeats: one row for each worker and feeder process: what it does, and the problem that it waits for, if any."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, select

from db.session import Database, Now, insert_into
from db.tables import heartbeats

ALIVE_SECONDS = 20.0
"""A process whose last heartbeat is older counts as dead."""

DELETE_AFTER_SECONDS = 3600.0


class Activity(StrEnum):
    """What a worker does."""

    STARTING = "starting"
    LOADING = "loading the model"
    SCREENING = "screening"
    IDLE = "idle"
    OUTSIDE_HOURS = "waits for its hours"


@dataclass(frozen=True)
class Heartbeat:
    """The last report of a process; None is for what its role does not report.

    Parameters
    ----------
    queue : str or None
        The queues that a worker takes batches from, separated by spaces.
    problem : str or None
        What it waits for; None if it works or is idle.
    activity : str or None
        What a worker does, an `Activity`.
    precisions : str or None
        What a worker's processor computes natively, such as ``bf16 fp32 int8``.
    """

    name: str
    role: str
    queue: str | None
    problem: str | None
    age_seconds: float
    activity: str | None
    precisions: str | None

    @property
    def alive(self) -> bool:
        """Whether the heartbeat is recent."""
        return self.age_seconds < ALIVE_SECONDS


def record_heartbeat(
    database: Database,
    name: str,
    role: str,
    queue: str | None,
    problem: str | None,
    activity: str | None = None,
    precisions: str | None = None,
) -> None:
    """Record that a process is alive, and delete the rows of processes that died long ago; see `Heartbeat`."""
    values = {"queue": queue, "problem": problem, "activity": activity, "precisions": precisions, "seen_at": Now()}
    with database.write() as connection:
        upsert = insert_into(connection, heartbeats).values(name=name, role=role, **values)
        updated = {column: upsert.excluded[column] for column in values}
        connection.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=updated))
        connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < Now() - DELETE_AFTER_SECONDS))


def remove_heartbeat(database: Database, name: str) -> None:
    """Delete the row of a process that shuts down normally."""
    with database.write() as connection:
        connection.execute(delete(heartbeats).where(heartbeats.c.name == name))


def remove_all_heartbeats(database: Database) -> None:
    """Delete the rows of all processes, after all were stopped; one that still runs reports again within seconds."""
    with database.write() as connection:
        connection.execute(delete(heartbeats))


def list_heartbeats(database: Database) -> list[Heartbeat]:
    """List the processes that have sent a heartbeat within the last hour, by role and name."""
    age = (Now() - heartbeats.c.seen_at).label("age")
    with database.read() as connection:
        recent = select(heartbeats, age).where(heartbeats.c.seen_at >= Now() - DELETE_AFTER_SECONDS)
        rows = connection.execute(recent.order_by(heartbeats.c.role, heartbeats.c.name)).all()
    return [
        Heartbeat(row.name, row.role, row.queue, row.problem, row.age, row.activity, row.precisions) for row in rows
    ]
