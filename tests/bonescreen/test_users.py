"""`bonescreen users`: who may sign in to the pages."""

import os
import pty
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bonescreen.pages.users import LONGEST_NAME, Users, add_user, read_users
from tests.awaiting import PATIENCE
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.processes import BONESCREEN, run
from xray.errors import UsageError

PASSWORD = "correct horse battery"


@pytest.fixture
def here(home: Path) -> dict[str, str]:
    return {**os.environ, "BONESCREEN_HOME": str(home)}


def add(environ: dict[str, str], name: str, text: str) -> subprocess.CompletedProcess[str]:
    """Add a user with what is on standard input."""
    command = [*BONESCREEN, "users", "add", name]
    return subprocess.run(command, env=environ, input=text, capture_output=True, text=True, timeout=60 * PATIENCE)


def test_a_user_is_added_listed_and_removed(bonescreen: Bonescreen, here: dict[str, str], home: Path) -> None:
    assert bonescreen("users", "list").out == "No users. Add one: bonescreen users add NAME\n"
    done = add(here, "Zoë Doe", f"{PASSWORD}\nanother line\n")
    assert (done.returncode, done.stdout) == (0, "Added Zoë Doe.\n")
    assert bonescreen("users", "list").out == "Zoë Doe\n"
    assert Users(home).check("Zoë Doe", PASSWORD)
    assert bonescreen("users", "remove", "Zoë Doe").code == 0
    assert not Users(home).check("Zoë Doe", PASSWORD)
    done = bonescreen("users", "remove", "Zoë Doe")
    assert (done.code, "there is no user 'Zoë Doe'" in done.err) == (2, True)


def test_passwords_are_stored_hashed_where_only_their_owner_reads_them(home: Path) -> None:
    for name in ("ada", "bob"):
        add_user(home, name, PASSWORD)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "users").stat().st_mode) == 0o600
    first, second = read_users(home).values()
    assert first.startswith("scrypt$32768$8$1$")
    assert first != second
    assert PASSWORD not in (home / "users").read_text()
    assert sorted(file.name for file in home.iterdir()) == ["users", "users.lock"]


@pytest.mark.parametrize("name", ["", "a:b", " ada", "ada\n", "a\tb", "x" * (LONGEST_NAME + 1), "\u202eada"])
def test_a_name_that_cannot_be_used_is_refused(bonescreen: Bonescreen, home: Path, name: str) -> None:
    done = bonescreen("users", "add", name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a user's name has" in done.err
    assert not (home / "users").exists()


@pytest.mark.parametrize("password", ["", "short", "x" * 2_000])
def test_a_password_that_is_too_short_or_too_long_is_refused(here: dict[str, str], home: Path, password: str) -> None:
    done = add(here, "ada", f"{password}\n")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "10 to 1024 characters" in done.stderr
    assert read_users(home) == {}


def test_a_user_is_not_replaced(here: dict[str, str], home: Path) -> None:
    add_user(home, "ada", PASSWORD)
    done = add(here, "ada", "another long password\n")
    assert done.returncode == 2
    assert "bonescreen users remove 'ada'" in done.stderr
    assert Users(home).check("ada", PASSWORD)


@pytest.mark.parametrize(("second", "code"), [(PASSWORD, 0), ("something else", 2)])
def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(
    here: dict[str, str], home: Path, second: str, code: int
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*BONESCREEN, "users", "add", "ada"],
        env=here, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    for question, answer in ((b"Password: ", PASSWORD), (b"Again: ", second)):
        while question not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, f"{answer}\n".encode())
    assert process.wait(60 * PATIENCE) == code
    shown += os.read(ours, 1024)
    os.close(ours)
    assert PASSWORD.encode() not in shown
    assert (b"Added ada" in shown) == (list(read_users(home)) == ["ada"]) == (code == 0)


def test_users_that_are_added_at_once_are_all_kept(home: Path) -> None:
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda number: add_user(home, f"user{number}", PASSWORD), range(8)))
    assert sorted(read_users(home)) == [f"user{number}" for number in range(8)]


@pytest.mark.parametrize("line", ["ada", "ada:plain", "ada:scrypt$1$1$1$AAAA$AAAA", ":", "ada:md5$00"])
def test_a_damaged_line_is_named_and_nothing_is_served(bonescreen: Bonescreen, home: Path, line: str) -> None:
    add_user(home, "bob", PASSWORD)
    with (home / "users").open("a") as file:
        file.write(f"{line}\n")
    for command in (("users", "list"), ("users", "remove", "bob"), ("serve",)):
        done = bonescreen(*command)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "line 2 is damaged" in done.err
    with pytest.raises(UsageError):
        Users(home).check("bob", PASSWORD)


def test_the_same_letters_in_another_form_are_the_same_password(home: Path) -> None:
    add_user(home, "ada", "Gr\u00fc\u00dfe aus K\u00f6ln")
    assert Users(home).check("ada", "Gru\u0308\u00dfe aus Ko\u0308ln")


def test_a_home_that_cannot_be_written_is_said_in_one_line(here: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run({**here, "BONESCREEN_HOME": str(tmp_path / "file")}, "users", "remove", "ada")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "set BONESCREEN_HOME" in done.stderr
