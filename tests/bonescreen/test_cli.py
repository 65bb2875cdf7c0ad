"""Help, usage errors, exit codes, and characters that never reach a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bonescreen.cli import GROUPS
from db.run_queries import newest_runs
from tests.bonescreen.conftest import Bonescreen, Done
from tests.ledgers import embedded, screened
from xray.vocabulary import RESEARCH_NOTICE


def test_help_starts_without_any_heavy_import() -> None:
    program = (
        "import sys\nfrom bonescreen.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'openvino', 'celery'} & sys.modules.keys()\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_version_is_printed(bonescreen: Bonescreen) -> None:
    assert bonescreen("--version").out.startswith("bonescreen 0.")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_help_lists_every_command_under_a_heading_in_80_columns(
    bonescreen: Bonescreen, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = bonescreen(*arguments)
    assert (done.code, done.err) == (0, "")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    headings = re.findall(r"^(\S.*):$", done.out, re.MULTILINE)
    assert headings == ["Options", "Screen", "Results", "Web pages", "Models and training", "Cluster", "Maintenance"]
    for name in (name for commands in GROUPS.values() for name in commands):
        assert re.search(rf"^  {name} +\S", done.out, re.MULTILINE)


@pytest.mark.parametrize("command", [["results"], ["models"], ["models", "show"], ["db", "upgrade"]])
def test_each_command_has_the_short_option_for_help(bonescreen: Bonescreen, command: list[str]) -> None:
    short, long = bonescreen(*command, "-h"), bonescreen(*command, "--help")
    assert (short.code, short.err) == (0, "")
    assert short.out == long.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "there is no command 'nonsense'; see: bonescreen --help"),
        (["scren", "archive"], "there is no command 'scren'; did you mean screen?"),
        (["models", "shw"], "there is no command 'shw'; did you mean show?"),
        (["runs", "--nonsense"], "there is no option --nonsense; see: bonescreen runs --help"),
        (["runs", "--jsn"], "there is no option --jsn; did you mean --json?; see: bonescreen runs --help"),
        (["runs", "--json=yes"], "--json takes no value"),
        (["results", "--limit"], "--limit needs a value"),
        (["runs", "1", "2"], "too many arguments: 1 2; see: bonescreen runs --help"),
        (["study"], "STUDY is missing; see: bonescreen study --help"),
        (["heatmap", "key"], "--output is missing; see: bonescreen heatmap --help"),
        (["results", "--min-score", "2"], "--min-score must be a number from 0 to 1; see: bonescreen results --help"),
        (["results", "--limit", "few"], "--limit must be a whole number; see: bonescreen results --help"),
        (["results", "--limit", "0"], "--limit must be a whole number of at least 1; see: bonescreen results --help"),
        (
            ["results", "--format", "xml"],
            "--format must be table, csv, json, jsonl, parquet or xlsx; see: bonescreen results --help",
        ),
        (["flower", "--port", "0"], "--port must be a whole number from 1 to 65535; see: bonescreen flower --help"),
        (["health", "broker"], "ROLE must be worker or feeder; see: bonescreen health --help"),
        (
            ["train", "any", "--epochs", "0"],
            "--epochs must be a whole number of at least 1; see: bonescreen train --help",
        ),
        (["cancel", "first"], "RUN must be a whole number; see: bonescreen cancel --help"),
    ],
)
def test_a_usage_error_is_one_plain_line(bonescreen: Bonescreen, arguments: list[str], text: str) -> None:
    assert bonescreen(*arguments) == Done(2, "", f"error: {text}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry", 2**63],
        ["resume", "99999999999999999999"],
        ["failures", 2**63],
        ["status", 2**63],
        ["results", "--run", 2**63],
        ["results", "--limit", 2**63],
        ["study", "key", "--run", 2**63],
        ["study", "\udcff"],
        ["heatmap", "\udcff", "-o", "."],
        ["results", "--body-part", "\udcff"],
    ],
)
def test_what_no_database_can_store_is_a_usage_error(
    bonescreen: Bonescreen, home: Path, arguments: list[object]
) -> None:
    screened(home)
    done = bonescreen(*arguments)
    assert (done.code, done.out) == (2, "")
    assert re.match(r"error: (RUN|STUDY|--run|--limit|--body-part)\b.*; see: bonescreen [a-z]+ --help\n\Z", done.err)


def test_the_largest_numbers_that_a_database_stores_are_accepted(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    assert bonescreen("results", "--limit", 2**63 - 1).code == 0
    assert f"there is no run {2**63 - 1}" in bonescreen("results", "--run", 2**63 - 1).err


@pytest.mark.parametrize("command", ["screen", "enqueue"])
def test_an_empty_path_does_not_mean_the_current_folder(bonescreen: Bonescreen, home: Path, command: str) -> None:
    done = bonescreen(command, "examples/archive", "")
    assert (done.code, done.err) == (2, "error: an empty path; give the folder that holds the studies\n")
    assert not home.exists()


def test_a_study_is_found_by_its_name_in_a_locale_that_cannot_write_it(home: Path) -> None:
    screened(home, {"手首.jpg": [0.9]})
    command = [sys.executable, "-m", "bonescreen", "study", "手首.jpg", "--json"]
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert (done.returncode, [study["study"] for study in json.loads(done.stdout)]) == (0, ["手首.jpg"])


def test_a_command_before_the_first_screening_says_what_to_run(bonescreen: Bonescreen, home: Path) -> None:
    done = bonescreen("results")
    assert done.code == 2
    assert done.err == f"error: nothing has been screened yet in {home}; run: bonescreen screen PATH\n"
    assert not home.exists()


def test_a_wrong_setting_is_one_line_and_no_traceback(bonescreen: Bonescreen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONESCREEN_ENGINE", "abacus")
    done = bonescreen("runs")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: BONESCREEN_ENGINE='abacus'")


def test_a_damaged_database_is_reported_as_damaged(bonescreen: Bonescreen, home: Path) -> None:
    home.mkdir()
    (home / "bonescreen.db").write_bytes(b"no database" * 1000)
    done = bonescreen("runs")
    assert done.code == 1
    assert "is damaged" in done.err


def test_a_configured_database_without_tables_asks_for_the_upgrade(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", f"sqlite:///{tmp_path / 'mine.db'}")
    done = bonescreen("runs")
    assert done.code == 2
    assert "run: bonescreen db upgrade" in done.err
    assert "is at revision 0010" in bonescreen("db", "upgrade").out
    assert "is up to date" in bonescreen("db", "upgrade").out
    assert bonescreen("runs").code == 0


def test_a_reader_that_closes_its_pipe_is_not_an_error(home: Path) -> None:
    screened(home, {f"study{n}": [0.5] for n in range(100)})
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bonescreen", "results", "--format", "csv"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=os.environ, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("closed", "written"), [(">&-", ""), ("2>&-", "run,study,"), (">&- 2>&- <&-", "")])
def test_a_closed_stream_is_not_replaced_by_the_next_file_that_is_opened(home: Path, closed: str, written: str) -> None:
    screened(home)
    command = ["sh", "-c", f'exec "$0" -m bonescreen results --format csv {closed}', sys.executable]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(written)
    assert RESEARCH_NOTICE not in done.stdout
    assert "Traceback" not in done.stderr
    database = embedded(home)
    assert newest_runs(database) == [1]
    database.close()


def test_an_interrupt_while_the_commands_are_imported_ends_without_a_traceback() -> None:
    # Python says what it imports as it goes: how far it is, without a clock.
    command = [sys.executable, "-v", "-m", "bonescreen", "--help"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [next(line for line in process.stderr if line.startswith("import 'typer'"))]
        process.send_signal(signal.SIGINT)
        said += process.stderr
    assert process.returncode == 130
    assert not [line for line in said if line.startswith("Traceback")]


def test_file_names_cannot_control_the_terminal(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {"[bold]brackets[/bold]/\x1b[2Jclear": [0.9]})
    done = bonescreen("results")
    assert "[bold]brackets[/bold]/\\x1b[2Jclear" in done.out
    assert "\x1b" not in done.out
