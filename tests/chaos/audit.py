"""A record, by triggers, of every write to batches, outcomes and predictions: a check sees what was overwritten.

On PostgreSQL it also has the connection of each write, which tells workers apart even where one pretends to be another.
"""

from dataclasses import dataclass

from sqlalchemy import text

from db.session import Database

COLUMNS = "kind, transaction_id, connection, batch, token, state_before, state_after, worker, image"

TABLE = """CREATE TABLE audit (id {id}, kind TEXT NOT NULL, transaction_id BIGINT, connection TEXT, batch BIGINT,
    token BIGINT, state_before TEXT, state_after TEXT, worker TEXT, image BIGINT)"""

# Who held the batch before the write, or who has claimed it.
BATCH = """'batch', {transaction}, {connection}, OLD.id, NEW.token, OLD.state, NEW.state,
    CASE WHEN OLD.state = 'claimed' THEN OLD.worker ELSE NEW.worker END, NULL"""

WATCHED = (
    ("batches", "UPDATE", BATCH),
    ("outcomes", "INSERT", "'added', {transaction}, {connection}, NULL, NULL, NULL, NULL, NULL, NEW.image_id"),
    ("outcomes", "UPDATE", "'changed', {transaction}, {connection}, NULL, NULL, NULL, NULL, NULL, NEW.image_id"),
    ("outcomes", "DELETE", "'deleted', {transaction}, {connection}, NULL, NULL, NULL, NULL, NULL, OLD.image_id"),
    ("predictions", "UPDATE", "'rewritten', {transaction}, {connection}, NULL, NULL, NULL, NULL, NULL, NEW.content_id"),
)


@dataclass(frozen=True)
class Write:
    """One row of the record; which columns have a value depends on its kind."""

    kind: str
    transaction_id: int | None
    connection: str | None
    batch: int | None
    token: int | None
    state_before: str | None
    state_after: str | None
    worker: str | None
    image: int | None


def start_audit(database: Database) -> None:
    """Record all writes from now on."""
    with database.write() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql(TABLE.format(id="INTEGER PRIMARY KEY"))
            for table, operation, values in WATCHED:
                row = values.format(transaction="NULL", connection="NULL")
                connection.exec_driver_sql(
                    f"CREATE TRIGGER audit_{table}_{operation} AFTER {operation} ON {table} "
                    f"BEGIN INSERT INTO audit ({COLUMNS}) VALUES ({row}); END"
                )
            return
        connection.exec_driver_sql(TABLE.format(id="BIGSERIAL PRIMARY KEY"))
        for table, operation, values in WATCHED:
            # Process ids of connections repeat after the server has started again.
            row = values.format(
                transaction="txid_current()", connection="pg_backend_pid() || ' ' || pg_postmaster_start_time()"
            )
            connection.exec_driver_sql(
                f"CREATE FUNCTION audit_{table}_{operation}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN INSERT INTO audit ({COLUMNS}) VALUES ({row}); RETURN NULL; END $$"
            )
            connection.exec_driver_sql(
                f"CREATE TRIGGER audit_{table}_{operation} AFTER {operation} ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION audit_{table}_{operation}()"
            )


def writes(database: Database) -> list[Write]:
    """Return all recorded writes, in order."""
    with database.read() as connection:
        return [Write(*row) for row in connection.execute(text(f"SELECT {COLUMNS} FROM audit ORDER BY id"))]
