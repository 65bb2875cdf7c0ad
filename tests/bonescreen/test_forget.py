"""`bonescreen forget`: says what it removes, asks, and removes it."""

import os
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from db import ledger
from db.session import Database
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.processes import BONESCREEN
from tests.ledgers import NEGATIVE, POSITIVE, STUDIES, embedded, fill, screened
from tests.seeding import MODEL


def files_of(home: Path) -> bytes:
    return b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_a_study_is_removed_its_bytes_too_and_the_others_stay(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    assert POSITIVE.encode() in files_of(home)
    done = bonescreen("forget", POSITIVE, "--yes")
    assert (done.code, done.err) == (0, "")
    assert f"The study {POSITIVE} of the archive clinic (/clinic):\n" in done.out
    assert "  2 images, 2 outcomes (predictions and failures) of 1 run are removed.\n" in done.out
    assert "its next scan brings them back" in done.out
    assert f"Removed the study {POSITIVE} from the database.\n" in done.out
    assert POSITIVE.encode() not in files_of(home)
    assert NEGATIVE in bonescreen("results").out
    assert POSITIVE not in bonescreen("results").out
    assert bonescreen("study", POSITIVE).code == 2


def test_a_run_is_removed_and_the_archives_studies_stay(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("forget", 1, "--yes")
    assert done.code == 0
    assert "remove them with: bonescreen forget clinic" in done.out
    assert bonescreen("runs").out.startswith("No runs yet.")
    with closing(sqlite3.connect(home / "bonescreen.db")) as connection:
        assert connection.execute("SELECT count(*) FROM studies").fetchone() == (len(STUDIES),)


def test_an_archive_is_removed_with_everything(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("forget", "clinic", "--yes")
    assert done.code == 0
    assert "  5 studies, 7 images, 7 outcomes (predictions and failures) of 1 run are removed.\n" in done.out
    assert bonescreen("runs").out.startswith("No runs yet.")
    for text in (*STUDIES, "clinic"):
        assert text.encode() not in files_of(home)


def test_without_a_terminal_nothing_is_removed_that_was_not_confirmed(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("forget", "clinic")
    assert (done.code, done.err) == (
        2,
        "error: nothing was removed, as nobody can be asked here; confirm with: --yes\n",
    )
    assert bonescreen("runs").out.count("clinic") == 1


def test_an_open_run_must_be_cancelled_first(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {"read": [0.9], "waiting": [None]})
    done = bonescreen("forget", "clinic", "--yes")
    assert (done.code, done.err) == (2, "error: run 1 is open; first: bonescreen cancel 1\n")
    assert bonescreen("cancel", 1).code == 0
    assert bonescreen("forget", "clinic", "--yes").code == 0


def test_a_name_that_could_be_several_things_is_not_guessed(bonescreen: Bonescreen, home: Path) -> None:
    database = embedded(home)
    other = replace(MODEL, queue="q2", digest="cd" * 32)
    for archive in ("first", "2"):
        fill(database, {"2": [0.9], "a/case": [0.1]}, archive=archive, model=MODEL)
    fill(database, {"2": [0.9], "b/case": [0.1]}, archive="2", model=other)
    ledger.cancel(database, 1)
    database.close()
    done = bonescreen("forget", 2, "--yes")
    assert done.code == 2
    assert "say which with: --kind archive or --kind run or --kind study" in done.err
    done = bonescreen("forget", 2, "--kind", "study", "--yes")
    assert (done.code, done.err.count("--archive")) == (2, 2)
    assert "'case' matches more than one study" in bonescreen("forget", "case", "--yes").err
    assert bonescreen("forget", 2, "--kind", "study", "--archive", "first", "--yes").code == 0
    assert bonescreen("forget", 2, "--kind", "run", "--yes").code == 0
    assert "nothing is stored about 'x'" in bonescreen("forget", "x").err


def test_a_study_is_found_by_its_ending_although_there_is_a_run_of_that_number(
    bonescreen: Bonescreen, home: Path
) -> None:
    screened(home, {"XR_HAND/patient1/1": [0.9]})
    done = bonescreen("forget", 1, "--kind", "study", "--yes")
    assert (done.code, done.err) == (0, "")
    assert "Removed the study XR_HAND/patient1/1 from the database.\n" in done.out
    done = bonescreen("forget", 1, "--kind", "study", "--archive", "clinic", "--yes")
    said = "nothing is stored about the study '1' in the archive 'clinic'; see: bonescreen results, bonescreen runs"
    assert (done.code, done.err) == (2, f"error: {said}\n")
    assert bonescreen("runs").out.count("clinic") == 1


def test_deleted_bytes_that_a_reader_keeps_are_named_and_erased_later(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened(home)
    monkeypatch.setattr("db.sqlite_file.BUSY_SECONDS", 0.2)
    with closing(sqlite3.connect(home / "bonescreen.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM images").fetchone()
        done = bonescreen("forget", POSITIVE, "--yes")
        assert done.code == 1
        assert "their bytes are still in" in done.err
        assert done.err.endswith("once that is over, run: bonescreen db vacuum\n")
        assert POSITIVE.encode() in files_of(home)
    assert bonescreen("db", "vacuum").code == 0
    assert POSITIVE.encode() not in files_of(home)


def test_on_postgresql_the_rest_is_said_to_be_the_administrators(
    bonescreen: Bonescreen, home: Path, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", postgres_database_url)
    assert bonescreen("db", "upgrade").code == 0
    database = Database(postgres_database_url)
    fill(database)
    database.close()
    done = bonescreen("forget", "clinic", "--yes")
    assert done.code == 0
    assert "removing them is for its administrator" in done.out
    assert "are gone" not in done.out
    assert bonescreen("runs").out.startswith("No runs yet.")


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 1), ("y", 0, 0)])
def test_at_a_terminal_it_asks(home: Path, environ: dict[str, str], answer: str, code: int, left: int) -> None:
    screened(home)
    terminal, its_input = os.openpty()
    try:
        os.write(terminal, f"{answer}\n".encode())
        done = subprocess.run(
            [*BONESCREEN, "forget", POSITIVE], env=environ, stdin=its_input, capture_output=True, text=True, check=False
        )
    finally:
        os.close(terminal)
        os.close(its_input)
    assert done.returncode == code
    assert "Remove it? [y/N]: " in done.stdout
    assert ("Nothing was removed." in done.stdout) == bool(left)
    with closing(sqlite3.connect(home / "bonescreen.db")) as connection:
        query = "SELECT count(*) FROM studies WHERE key = ?"
        assert connection.execute(query, (POSITIVE,)).fetchone() == (left,)
