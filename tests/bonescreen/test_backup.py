"""`bonescreen db backup` and what it refuses."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import POSITIVE, embedded, fill, screened


def test_the_copy_has_everything_and_only_its_owner_can_read_it(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    # Held open, so that what it has is in the write-ahead log and not in the file.
    database = embedded(home)
    fill(database)
    done = bonescreen("db", "backup", tmp_path / "copy.db")
    database.close()
    assert (done.code, done.err) == (0, "")
    assert f" to {tmp_path / 'copy.db'}: 0." in done.out
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (7,)


def test_a_forgotten_study_is_not_in_a_later_backup(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home)
    assert bonescreen("forget", POSITIVE, "--yes").code == 0
    assert bonescreen("db", "backup", tmp_path / "copy.db").code == 0
    assert POSITIVE.encode() not in (tmp_path / "copy.db").read_bytes()


@pytest.mark.parametrize("name", ["there.db", "link.db", "missing/copy.db"])
def test_what_exists_is_not_overwritten_and_a_folder_must_exist(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, name: str
) -> None:
    screened(home)
    (tmp_path / "there.db").write_text("mine")
    (tmp_path / "link.db").symlink_to("nowhere")
    done = bonescreen("db", "backup", tmp_path / name)
    assert done.code == 2
    assert "error: " in done.err
    assert (tmp_path / "there.db").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "link.db", "there.db"]


def test_a_damaged_database_leaves_no_copy_that_could_be_taken_for_a_backup(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    screened(home, {f"study{n}": [0.1] for n in range(200)})
    file = home / "bonescreen.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:20_000] + b"\xff" * 40_000 + whole[60_000:])
    done = bonescreen("db", "backup", tmp_path / "copy.db")
    assert done.code == 1
    assert "damaged" in done.err or "malformed" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_on_postgresql_it_names_pg_dump_without_the_password(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://ward:secret@db.example/results?sslmode=verify-full&password=secret"
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", url)
    done = bonescreen("db", "backup", "/backup/monday.dump")
    assert done.code == 2
    command = "pg_dump --format=custom --file=/backup/monday.dump"
    assert f"{command} --dbname='postgresql://ward@db.example/results?sslmode=verify-full'" in done.err
    assert "secret" not in done.out + done.err
