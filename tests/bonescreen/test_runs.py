"""`runs`, `cancel`, `resume`, `retry`, `failures`."""

import json
from pathlib import Path

from db import ledger
from db.runs import open_run, register_archive, register_model
from db.scans import begin_scan
from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import INCOMPLETE, embedded, screened
from tests.seeding import MODEL
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE, Reason


def test_runs_are_listed_newest_first(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, archive="first")
    screened(home, {"read": [0.9], "waiting": [None]}, archive="second")
    listed = json.loads(bonescreen("runs", "--json").out)
    assert [(run["run"], run["archive"], run["state"], run["percent"]) for run in listed] == [
        (2, "second", "running", 50),
        (1, "first", "done", 100),
    ]
    *lines, last = bonescreen("runs").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["run", "state"], ["2", "running"], ["1", "done"]]
    assert all("tiny 1 (fp32)" in line for line in lines[1:])
    assert [run["precision"] for run in listed] == ["fp32", "fp32"]
    assert last == RESEARCH_NOTICE
    assert bonescreen("runs", "--json").err == f"{RESEARCH_NOTICE}\n"


def test_a_cancelled_run_is_resumed_where_it_stopped(bonescreen: Bonescreen, home: Path) -> None:
    run = screened(home, {"read": [0.9], "waiting": [None], "waiting too": [None]}, root=Path("/my clinic"))
    done = bonescreen("cancel", run)
    assert (done.code, done.out.split(".")[0]) == (0, "Run 1 is cancelled, 2 batches closed")
    assert json.loads(bonescreen("runs", "--json").out)[0]["state"] == "cancelled"
    done = bonescreen("resume", run)
    assert done.out.startswith("Run 1 is resumed: 2 batches to do.")
    assert "bonescreen screen '/my clinic'" in done.out
    assert json.loads(bonescreen("runs", "--json").out)[0]["state"] == "running"


def test_a_run_that_is_done_stays_done_when_it_is_cancelled_or_resumed(bonescreen: Bonescreen, home: Path) -> None:
    run = screened(home, {"read": [0.9]})
    assert "nothing to cancel" in bonescreen("cancel", run).out
    assert "nothing left to do" in bonescreen("resume", run).out
    assert json.loads(bonescreen("runs", "--json").out)[0]["state"] == "done"


def test_a_run_is_not_cancelled_while_a_scan_would_give_it_new_work(bonescreen: Bonescreen, home: Path) -> None:
    database = embedded(home)
    archive = register_archive(database, "clinic", "/clinic")
    run = open_run(database, archive, register_model(database, MODEL), 1)
    assert begin_scan(database, run, "mura", "host:7") is not None
    database.close()
    done = bonescreen("cancel", run)
    assert done.code == 2
    assert "is being scanned by host:7" in done.err


def test_retry_gives_the_failed_images_back_to_the_workers(bonescreen: Bonescreen, home: Path) -> None:
    run = screened(home)
    assert bonescreen("retry", run).out.startswith("2 failed images of run 1 will be read again.")
    assert json.loads(bonescreen("failures", "--json").out) == []
    database = embedded(home)
    assert ledger.count_open_batches(database, run) > 0
    database.close()
    assert bonescreen("retry", run).out == "Run 1 has no failed images.\n"


def test_a_cancelled_run_is_not_retried(bonescreen: Bonescreen, home: Path) -> None:
    run = screened(home, {"bad": [Reason.EMPTY], "waiting": [None]})
    bonescreen("cancel", run)
    done = bonescreen("retry", run)
    assert (done.code, done.err) == (2, "error: run 1 is cancelled; first: bonescreen resume 1\n")


def test_an_unknown_run_is_refused_by_every_command(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    for command in ("cancel", "resume", "retry", "status", "failures"):
        done = bonescreen(command, 9)
        assert (done.code, done.err) == (2, "error: there is no run 9; see: bonescreen runs\n")


def test_failures_are_listed_for_scripts_with_reason_and_attempts(bonescreen: Bonescreen, home: Path) -> None:
    run = screened(home)
    listed = json.loads(bonescreen("failures", run, "--json").out)
    assert listed[0] == {
        "run": run,
        "study": INCOMPLETE,
        "image": f"{INCOMPLETE}/image2.png",
        "reason": "truncated",
        "detail": "the file ends early",
        "attempts": 1,
    }
    assert len(listed) == 2


def test_failures_are_listed_for_people_with_reasons_in_words(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {f"study{n:02}": [Reason.TRUNCATED] for n in range(60)})
    out = bonescreen("failures").out
    assert "... and 10 more" in out
    assert f"60 images truncated: {REASON_TEXT[Reason.TRUNCATED]}" in out
    assert bonescreen("failures", 1).out.endswith("bonescreen retry 1\n")


def test_no_failures_is_said(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {"read": [0.9]})
    assert bonescreen("failures").out == "No failed images.\n"
