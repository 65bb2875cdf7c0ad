"""A writer that is stopped within a transaction does not block the others."""

import pytest
from sqlalchemy import insert, select, update

from db import session
from db.migrate import upgrade
from db.session import Database
from db.tables import contents, images
from tests.seeding import found_files, scan
from xray.errors import DatabaseOutage


@pytest.mark.parametrize("rows", [1, 16])
def test_a_writer_stopped_within_a_transaction_loses_its_row_locks(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    stopped, other = Database(postgres_database_url), Database(postgres_database_url)
    upgrade(other)
    scan(other, found_files(4))
    monkeypatch.setattr(session, "_SET_IDLE_TIMEOUT", "SET LOCAL idle_in_transaction_session_timeout = '1s'")
    change = update(images).values(current=False)

    def write_and_stop() -> None:
        with stopped.write() as connection:
            connection.execute(change)
            # Inserting many rows at once used to stop the server's idle timer.
            connection.execute(insert(contents), [{"sha256": bytes([n]) * 32, "frame": 0} for n in range(rows)])
            with other.write() as free:
                assert free.execute(change).rowcount == 4
            connection.execute(select(contents))

    with pytest.raises(DatabaseOutage):
        write_and_stop()
    stopped.close()
    other.close()
