"""Whether a database can be written is found out by writing: on disks that are really full, too."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, insert, make_url, select, text
from sqlalchemy.engine import Engine

from db.heartbeats import list_heartbeats
from db.migrate import upgrade
from db.session import Database
from db.tables import heartbeats
from db.write_check import write_fault
from tests.archives import folder_for_others
from xray.errors import StorageOutage


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of three megabytes."""
    with folder_for_others() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0777", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            assert "CI" not in os.environ, "in CI nothing is skipped"
            pytest.skip("this user may not mount a file system")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write to a disk until it is full."""
    with suppress(OSError), (folder / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return folder / "other"


def rows(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(heartbeats.c.name)).all())


def test_a_database_that_can_be_written_has_no_fault_and_keeps_no_trace(database: Database) -> None:
    assert write_fault(database) is None
    assert rows(database) == 0


def test_a_full_disk_of_sqlite_is_named_until_there_is_space(small_disk: Path) -> None:
    database = Database(f"sqlite:///{small_disk / 'test.db'}")
    upgrade(database)
    assert write_fault(database) is None
    other = fill(small_disk)
    assert "no space left for the database" in (write_fault(database) or "")
    other.unlink()
    assert write_fault(database) is None
    database.close()


def test_a_full_disk_of_postgresql_is_named_until_there_is_space(postgres_database_url: str, small_disk: Path) -> None:
    database = Database(postgres_database_url)
    upgrade(database)
    admin = create_engine(
        make_url(postgres_database_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        data = connection.execute(text("SELECT current_setting('data_directory')")).scalar_one()
        if not os.path.isdir(data):
            pytest.skip("the server is on another machine")
        os.mkdir(small_disk / "tables")
        os.chown(small_disk / "tables", os.stat(data).st_uid, -1)
        connection.execute(text(f"CREATE TABLESPACE small LOCATION '{small_disk / 'tables'}'"))
        connection.execute(text("ALTER TABLE heartbeats SET TABLESPACE small"))
        try:
            assert write_fault(database) is None
            other = fill(small_disk)
            assert "no space left for the database" in (write_fault(database) or "")
            other.unlink()
            assert write_fault(database) is None
        finally:
            connection.execute(text("ALTER TABLE heartbeats SET TABLESPACE pg_default"))
            connection.execute(text("DROP TABLESPACE small"))
    admin.dispose()
    database.close()


def _grow(database: Database) -> None:
    for number in range(1000):
        with database.write() as connection:
            connection.execute(insert(heartbeats).values(name=f"{number}", role="worker", seen_at=number))


def test_a_sqlite_database_that_may_not_grow_is_named_and_its_check_is_not_listed(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(database)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(connection: object, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + 8}")  # type: ignore[attr-defined]

    database.close()
    event.listen(Engine, "connect", limit)
    try:
        with pytest.raises(StorageOutage, match="no space left for the database"):
            _grow(database)
        assert "database or disk is full" in (write_fault(database) or "")
        assert list_heartbeats(database) == []
    finally:
        event.remove(Engine, "connect", limit)
    database.close()
