"""Runs (one archive screened with one model version), and the archives and model versions that they refer to."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from db.session import Database, Now, insert_into
from db.tables import archives, models, runs
from xray.errors import UsageError
from xray.vocabulary import Precision

RUN_LOCK = 0x72756E
"""Any constant: with a run's number it names a lock of PostgreSQL."""


@dataclass(frozen=True)
class ModelVersion:
    """What the database keeps of a model package: its queue, its thresholds, and how it is described."""

    name: str
    version: str
    digest: str
    precision: str
    finding: str
    image_threshold: float
    study_threshold: float
    body_parts: Sequence[str]
    modalities: Sequence[str]
    queue: str
    distance_threshold: float | None = None


def register_archive(database: Database, name: str, root: str) -> int:
    """Return the id of an archive, and add it if it is new; store where it was scanned last, for messages."""
    with database.write() as connection:
        upsert = insert_into(connection, archives).values(name=name, root=root)
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"root": upsert.excluded.root})
        archive_id: int = connection.execute(upsert.returning(archives.c.id)).scalar_one()
    return archive_id


def archive_layout(database: Database, archive_id: int) -> str | None:
    """Return the layout of an archive's last finished scan, or None before the first one."""
    with database.read() as connection:
        query = select(archives.c.layout).where(archives.c.id == archive_id)
        layout: str | None = connection.execute(query).scalar_one()
    return layout


def archive_roots(database: Database) -> dict[str, str]:
    """Map every archive's name to the root it was last scanned at."""
    with database.read() as connection:
        return {row.name: row.root for row in connection.execute(select(archives.c.name, archives.c.root))}


def register_model(database: Database, model: ModelVersion) -> int:
    """Return the id of a model version, and add it if it is new."""
    values = {
        **vars(model),
        "body_parts": " ".join(model.body_parts),
        "modalities": " ".join(model.modalities),
    }
    with database.write() as connection:
        connection.execute(insert_into(connection, models).values(**values).on_conflict_do_nothing())
        this_model = (models.c.digest == model.digest, models.c.precision == model.precision)
        model_id: int = connection.execute(select(models.c.id).where(*this_model)).scalar_one()
    return model_id


def open_run(database: Database, archive_id: int, model_id: int, batch_size: int) -> int:
    """Return the id of the run of a model version over an archive, and add it if it is new."""
    with database.write() as connection:
        connection.execute(
            insert_into(connection, runs)
            .values(archive_id=archive_id, model_id=model_id, batch_size=batch_size, created_at=Now())
            .on_conflict_do_nothing()
        )
        this_run = (runs.c.archive_id == archive_id, runs.c.model_id == model_id)
        connection.execute(update(runs).where(*this_run).values(batch_size=batch_size))
        run_id: int = connection.execute(select(runs.c.id).where(*this_run)).scalar_one()
    return run_id


def set_priority(database: Database, run_id: int, priority: int) -> None:
    """Set a run's priority; workers take the batches of the run with the highest first."""
    with database.write() as connection:
        connection.execute(update(runs).where(runs.c.id == run_id).values(priority=priority))


def archive_precision(database: Database, archive: str, digest: str) -> Precision | None:
    """Return the precision of an archive's latest run with a model package, or None if there is none."""
    query = (
        select(models.c.precision)
        .join(runs, runs.c.model_id == models.c.id)
        .join(archives, archives.c.id == runs.c.archive_id)
        .where(archives.c.name == archive, models.c.digest == digest)
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    with database.read() as connection:
        precision = connection.execute(query).scalar_one_or_none()
    return None if precision is None else Precision(precision)


def lock_run(connection: Connection, run_id: int) -> None:
    """Be the only transaction that works on a run, until the end of this one; taken before any lock of its rows."""
    _lock(connection, run_id, "pg_advisory_xact_lock")


def share_run(connection: Connection, run_id: int) -> None:
    """Keep others from locking a run until the end of this transaction; taken before any lock of its rows."""
    _lock(connection, run_id, "pg_advisory_xact_lock_shared")


def _lock(connection: Connection, run_id: int, function: str) -> None:
    # Not a lock of the run's row: while some workers share it, others may join them, so that who wants it for himself
    # may wait for ever. On SQLite a writing transaction is the only one anyway.
    if connection.dialect.name == "postgresql":
        connection.execute(select(getattr(func, function)(RUN_LOCK, run_id)))


def require_run(database: Database, run_id: int) -> None:
    """Check that a run exists.

    Raises
    ------
    UsageError
        There is no such run.
    """
    with database.read() as connection:
        found = connection.execute(select(runs.c.id).where(runs.c.id == run_id)).scalar_one_or_none()
    if found is None:
        raise UsageError(f"there is no run {run_id}; see: bonescreen runs")
