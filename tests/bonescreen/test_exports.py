"""`bonescreen results --output`: files for other programs, with their types, whatever a study is called."""

import csv
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from pyarrow import parquet

from bonescreen.exports.about import About
from bonescreen.exports.workbook import MAX_CHARACTERS, write_rows
from db import queries
from db.queries import ResultFilter, StudyRow
from db.run_queries import list_runs
from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import POSITIVE, embedded, screened
from tests.seeding import fill_with_results
from xray.vocabulary import RESEARCH_NOTICE

FILES = ("csv", "json", "jsonl", "parquet", "xlsx")
NAMES = {
    '=HYPERLINK("http://x.example")': [0.9],
    "http://www.example.com/": [0.8],
    "00123": [0.7],
    "\x1b[31mred": [0.6],
    "not in XML: \ufffe": [0.5],
    POSITIVE: [0.9, 0.8],
}


def _export(bonescreen: Bonescreen, folder: Path, form: str, *options: object) -> Path:
    output = folder / f"results.{form}"
    done = bonescreen("results", "--format", form, "-o", output, *options)
    assert (done.code, done.out) == (0, ""), done.err
    assert RESEARCH_NOTICE in done.err
    return output


def _sheet_rows(file: Path, sheet: str = "studies") -> Iterator[list[Any]]:
    book = openpyxl.load_workbook(file)
    yield from ([cell.value for cell in row] for row in book[sheet].iter_rows())


def test_json_lines_and_parquet_hold_the_rows_of_json(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home)
    expected = json.loads(bonescreen("results", "--format", "json").out)
    assert len(expected) == 5
    lines = _export(bonescreen, tmp_path, "jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    assert bonescreen("results", "--format", "jsonl").out.splitlines() == lines
    rows = parquet.read_table(_export(bonescreen, tmp_path, "parquet")).to_pylist()
    for row in rows:
        row["changed_at"] = row["changed_at"].isoformat(timespec="seconds")
    assert rows == expected


def test_parquet_has_types_and_says_where_it_is_from(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    run = screened(home)
    schema = parquet.read_schema(_export(bonescreen, tmp_path, "parquet", "--threshold", 0.15))
    types = {field.name: str(field.type) for field in schema}
    assert (types["study"], types["score"], types["flagged"], types["images"]) == ("string", "double", "bool", "int64")
    assert (types["changed_at"], types["study_date"]) == ("timestamp[us, tz=UTC]", "date32[day]")
    assert schema.metadata[b"bonescreen.notice"].decode() == RESEARCH_NOTICE
    (about,) = json.loads(schema.metadata[b"bonescreen.runs"])
    assert (about["run"], about["archive"], about["model"]) == (run, "clinic", "tiny 1")
    assert (about["model_digest"], about["study_threshold"]) == ("ab" * 32, 0.15)
    # No row at all has the same columns.
    assert parquet.read_schema(_export(bonescreen, tmp_path, "parquet", "--min-score", 1)).equals(schema)


def test_a_study_date_is_a_date_in_parquet(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import update

    from db.tables import studies

    screened(home, {POSITIVE: [0.9]})
    database = embedded(home)
    with database.write() as connection:
        connection.execute(update(studies).values(study_date="2024-02-29", accession="00042"))
    database.close()
    monkeypatch.setenv("BONESCREEN_KEEP", "date,accession")
    (row,) = parquet.read_table(_export(bonescreen, tmp_path, "parquet")).to_pylist()
    assert (row["study_date"].isoformat(), row["accession"]) == ("2024-02-29", "00042")
    titles, cells = _sheet_rows(_export(bonescreen, tmp_path, "xlsx"))
    of = dict(zip(titles, cells, strict=True))
    assert (of["study_date"], of["accession"]) == ("2024-02-29", "00042")


def test_in_a_workbook_every_name_is_a_text_and_every_number_a_number(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    screened(home, NAMES)
    book = openpyxl.load_workbook(_export(bonescreen, tmp_path, "xlsx"))
    assert book.sheetnames == ["studies", "about"]
    titles, *rows = book["studies"].iter_rows()
    columns = {cell.value: position for position, cell in enumerate(titles)}
    names = [row[columns["study"]] for row in rows]
    assert [cell.data_type for cell in names] == ["s"] * 6
    assert not any(cell.hyperlink for cell in names)
    assert {cell.value for cell in names} == {*list(NAMES)[:3], "\\x1b[31mred", "not in XML: \\ufffe", POSITIVE}
    first = rows[0]
    assert (first[columns["score"]].value, first[columns["flagged"]].value) == (pytest.approx(0.85), True)
    assert isinstance(first[columns["changed_at"]].value, datetime)
    assert first[columns["accession"]].value is None
    about = {row[0]: row[1] for row in _sheet_rows(tmp_path / "results.xlsx", "about")}
    assert (about["notice"], about["model"], about["run"]) == (RESEARCH_NOTICE, "tiny 1", 1)


def test_the_images_of_studies_are_exported_too(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home)
    expected = json.loads(bonescreen("results", "--images", "--format", "json").out)
    table = parquet.read_table(_export(bonescreen, tmp_path, "parquet", "--images")).to_pylist()
    assert table == expected
    titles, *rows = _sheet_rows(_export(bonescreen, tmp_path, "xlsx", "--images"), "images")
    assert titles == list(expected[0])
    assert [row[titles.index("image")] for row in rows] == [row["image"] for row in expected]


def test_what_does_not_fit_a_sheet_goes_to_further_ones(home: Path, tmp_path: Path) -> None:
    screened(home, {f"study{n}": [0.9 - n / 10] for n in range(5)})
    database = embedded(home)
    with (tmp_path / "book.xlsx").open("wb") as file:
        about = About.now(list_runs(database), None)
        write_rows(queries.results(database, ResultFilter()), StudyRow, about, file, tmp_path, most_rows=3)
    database.close()
    book = openpyxl.load_workbook(tmp_path / "book.xlsx")
    assert book.sheetnames == ["studies", "studies 2", "studies 3", "about"]
    listed = [[row[1] for row in _sheet_rows(tmp_path / "book.xlsx", name)] for name in book.sheetnames[:3]]
    assert listed == [["study", "study0", "study1"], ["study", "study2", "study3"], ["study", "study4"]]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_workbook_of_full_sheets_has_no_empty_one(home: Path, tmp_path: Path) -> None:
    screened(home, {f"study{n}": [0.9] for n in range(4)})
    database = embedded(home)
    about = About.now(list_runs(database), None)
    with (tmp_path / "book.xlsx").open("wb") as file:
        write_rows(queries.results(database, ResultFilter()), StudyRow, about, file, tmp_path, most_rows=3)
    with (tmp_path / "none.xlsx").open("wb") as file:
        write_rows(iter([]), StudyRow, about, file, tmp_path)
    database.close()
    assert openpyxl.load_workbook(tmp_path / "book.xlsx").sheetnames == ["studies", "studies 2", "about"]
    assert openpyxl.load_workbook(tmp_path / "none.xlsx").sheetnames == ["studies", "about"]


def test_a_name_too_long_for_a_cell_is_cut_where_it_can_be_seen(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    screened(home, {"🦴" * (MAX_CHARACTERS // 2 + 5): [0.5]})
    _, row = _sheet_rows(_export(bonescreen, tmp_path, "xlsx"))
    assert row[1] == "🦴" * (MAX_CHARACTERS // 2) + "…"


@pytest.mark.parametrize("form", FILES)
def test_only_its_owner_may_read_an_export_and_it_replaces_what_was_there(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, form: str
) -> None:
    screened(home)
    output = tmp_path / f"results.{form}"
    output.write_text("old")
    output.chmod(0o666)
    before = os.umask(0)
    try:
        _export(bonescreen, tmp_path, form)
    finally:
        os.umask(before)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert output.read_bytes() != b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", output.name]


def test_csv_in_a_file_is_that_of_standard_output(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, NAMES)
    assert _export(bonescreen, tmp_path, "csv").read_text() == bonescreen("results", "--format", "csv").out
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = datetime.fromisoformat(rows[0]["changed_at"])
    assert abs((datetime.now(UTC) - written).total_seconds()) < 3600


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "parquet"], "--format parquet needs a file, as in: --output results.parquet"),
        (["--format", "xlsx"], "--format xlsx needs a file, as in: --output results.xlsx"),
        (["-o", "x.csv"], "--output needs --format csv, json, jsonl, parquet or xlsx"),
        (["--format", "csv", "-o", "nowhere/x.csv"], "the folder nowhere does not exist"),
        (["--format", "csv", "-o", "."], ". is not a file; choose a different one"),
        (["--format", "csv", "-o", "/dev/stdout"], "/dev/stdout is not a file; choose a different one"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_read(
    bonescreen: Bonescreen, home: Path, options: list[str], said: str
) -> None:
    done = bonescreen("results", *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_full_disk_leaves_no_part_of_an_export(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, {f"study{n:03}" + "x" * 1000: [None] for n in range(200)})
    (tmp_path / "results.csv").write_text("old")
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from bonescreen.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "results", "--format", "csv", "-o", str(tmp_path / "results.csv")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BONESCREEN_HOME": str(home)})
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path / 'results.csv'} cannot be written: File too large"
    assert (tmp_path / "results.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "results.csv"]


def test_a_disk_that_is_full_when_the_last_bytes_are_written_is_named(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from bonescreen.exports.private_file import open_private\n"
        "from xray.errors import StorageOutage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with open_private(Path(sys.argv[1])) as file: file.write(bytes(2000))\n"
        "except StorageOutage as outage: sys.exit(str(outage))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "r.csv")], capture_output=True, text=True)
    assert done.stderr == f"{tmp_path / 'r.csv'} cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_library_says_how_to_install_it(home: Path, tmp_path: Path) -> None:
    screened(home)
    script = "import sys; sys.modules['pyarrow'] = None\nfrom bonescreen.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "results", "--format", "parquet", "-o", str(tmp_path / "r.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BONESCREEN_HOME": str(home)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "--format parquet needs pyarrow" in done.stderr
    assert "make install EXTRAS=parquet" in done.stderr
    assert not (tmp_path / "r.parquet").exists()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 25,000 studies, whose keys alone are 25 MB."""
    home = tmp_path_factory.mktemp("many")
    database = embedded(home)
    fill_with_results(database, 25_000, "{n:07}" + "x" * 1000)
    database.close()
    return home


@pytest.mark.parametrize("form", ["jsonl", "parquet", "xlsx"])
def test_memory_does_not_grow_with_the_number_of_studies(many: Path, tmp_path: Path, form: str) -> None:
    # Unlike ru_maxrss, the kernel's own peak leaves out the process that this one was forked from.
    script = (
        "import sys\n"
        "from bonescreen.cli import main\n"
        "for limit in ('10000', '25000'):\n"
        "    try: main([*sys.argv[1:], '--limit', limit])\n"
        "    except SystemExit as left: assert not left.code\n"
        "    print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", script, "results", "--format", form, "-o", str(tmp_path / f"r.{form}")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BONESCREEN_HOME": str(many)})
    assert done.returncode == 0, done.stderr
    small, large = (int(line) / 1000 for line in done.stdout.split())
    assert (tmp_path / f"r.{form}").stat().st_size > 100_000
    # The keys of the further rows are 15 MB, and twice as much as rows or as cells.
    assert large - small < 20
