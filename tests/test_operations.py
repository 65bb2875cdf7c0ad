"""docs/operations.md and docs/security.md: units, scripts and tables that are right."""

import fcntl
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from db.tables import metadata

DOCS = Path(__file__).parent.parent / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
SECURITY = (DOCS / "security.md").read_text()
TEXT_COLUMNS = {"TEXT", "VARCHAR", "BLOB"}
OF_THE_WORK = {
    *("archives.layout", "scans.layout", "batches.state", "batches.epoch"),
    *("heartbeats.role", "heartbeats.queue", "heartbeats.activity", "heartbeats.precisions"),
}
"""Text columns that hold words of ours, and are not listed."""


def test_every_column_that_could_name_a_patient_is_described() -> None:
    listed = set(re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)?)`", SECURITY))
    columns = {
        f"{table.name}.{column.name}": table.name
        for table in metadata.sorted_tables
        for column in table.columns
        if str(column.type).split("(")[0] in TEXT_COLUMNS and table.name != "models"
    }
    assert {name for name, table in columns.items() if not {name, table} & listed} == OF_THE_WORK & columns.keys()
    every = {f"{table.name}.{column.name}" for table in metadata.sorted_tables for column in table.columns}
    named = {name for name in listed if "." in name and name.split(".")[0] in metadata.tables}
    assert named <= every


def test_the_metrics_that_are_described_are_those_there_are() -> None:
    source = (DOCS.parent / "bonescreen" / "metrics.py").read_text()
    names = {
        name if name != "bonescreen_images" else f"{name}_total" for name in re.findall(r'"(bonescreen_\w+)"', source)
    }
    rows = "\n".join(re.findall(r"^\| `bonescreen_.*", OPERATIONS, re.MULTILINE))
    assert set(re.findall(r"`(bonescreen_\w+)", rows)) == names


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    units = re.findall(r"```ini\n(.*?)```", OPERATIONS, re.DOTALL)
    assert len(units) == 2
    for number, unit in enumerate(units):
        file = tmp_path / f"bonescreen-{number}.service"
        # The program is not where the page has it.
        file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE))
        done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if file.name in line]
        assert said == []


SAID = {0: "", 1: "Not finished", 2: "is wrong", 3: "could not be looked at"}


def nightly(tmp_path: Path, code: int) -> subprocess.CompletedProcess[str]:
    """Run the script that the page has for cron, with a `bonescreen screen` that ends with a code."""
    (script,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", OPERATIONS, re.DOTALL)
    stand_in = tmp_path / "bin" / "bonescreen"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = screen ] && exit {code}\nexit 0\n')
    stand_in.chmod(0o755)
    here = {
        "/opt/bonescreen/.venv/bin": stand_in.parent,
        "/var/lib/bonescreen": tmp_path,
        "/backup": tmp_path / "copies",
    }
    for path, other in here.items():
        script = script.replace(path, str(other))
    (tmp_path / "copies").mkdir()
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("code", SAID)
def test_the_nightly_script_says_nothing_when_all_is_well_and_what_is_wrong_else(tmp_path: Path, code: int) -> None:
    said = SAID[code]
    done = nightly(tmp_path, code)
    assert (done.returncode, done.stderr) == (code, "")
    assert (said in done.stdout) if said else done.stdout == ""
    assert "db backup " in (tmp_path / "calls").read_text()


def test_the_nightly_script_keeps_the_log_of_a_night_that_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "nightly.log").write_text("Scanned /data/archive\n")
    with (tmp_path / "nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = nightly(tmp_path, 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not finished" in done.stdout
    assert (tmp_path / "nightly.log").read_text() == "Scanned /data/archive\n"
    assert not (tmp_path / "calls").exists()
