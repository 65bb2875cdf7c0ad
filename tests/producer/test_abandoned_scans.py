"""Scans whose processes died: a feeder finishes all that it can, and says which it cannot."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db import scans
from db.heartbeats import list_heartbeats
from db.runs import open_run, register_archive, register_model
from db.session import Database, Now
from db.tables import scans as scans_table
from producer.feeder import Feeder
from producer.transport import Transport
from tests.archives import png
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.clinics import put
from tests.seeding import MODEL
from xray.settings import read_settings

NAMES = ("a", "b", "c")


@pytest.fixture
def roots(tmp_path: Path, database: Database) -> dict[str, Path]:
    """Archives whose scans were abandoned before they found anything, the first one first."""
    roots = {name: tmp_path / name for name in NAMES}
    for name, root in roots.items():
        put(root, "s/1.png", png(1))
        run = open_run(database, register_archive(database, name, str(root)), register_model(database, MODEL), 4)
        assert scans.begin_scan(database, run, "folder", "elsewhere:1") is not None
    with database.write() as connection:
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))
    return roots


@pytest.fixture
def silent(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Storage below the first archive's root that does not answer until the event is set."""
    answers, scandir = threading.Event(), os.scandir

    def waiting_scandir(path: Any = ".") -> Any:
        if os.fspath(path) == str(roots["a"]):
            answers.wait()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", waiting_scandir)
    yield answers
    answers.set()


@pytest.fixture
def feeding(
    database: Database, broker: TcpBroker, roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A feeder that has the roots of all archives but for the last one."""
    # It gives workers so much time at first.
    monkeypatch.setattr("producer.feeder.RENEW_SECONDS", 0.1)
    archives = ",".join(f"{name}={root}" for name, root in roots.items() if name != "c")
    environ = {"BONESCREEN_ARCHIVES": archives, "BONESCREEN_HOME": str(tmp_path), "BONESCREEN_QUIET_SECONDS": "0"}
    environ["BONESCREEN_DATABASE_URL"] = "postgresql://another/host"
    transport, stop = Transport(broker.url), threading.Event()
    feeder = Feeder(database, transport, read_settings(environ))
    running = threading.Thread(target=feeder.run, args=(stop,))
    running.start()
    yield
    stop.set()
    running.join()
    transport.close()


def waiting(database: Database) -> list[str]:
    return [scan.archive for scan in scans.open_scans(database)]


def problems(database: Database) -> str:
    return "".join(beat.problem or "" for beat in list_heartbeats(database))


def test_one_archive_that_does_not_answer_does_not_keep_the_scans_of_others_waiting_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    roots: dict[str, Path],
    silent: threading.Event,
    feeding: None,
) -> None:
    monkeypatch.setattr("producer.abandoned_scans.LEASE_SECONDS", 1.0)
    await_that(lambda: waiting(database) == ["a", "c"], 20, "the second archive's scan is finished")
    await_that(lambda: f"the archive at {roots['a']} does not answer" in problems(database), 20, "the first is named")
    silent.set()
    await_that(lambda: waiting(database) == ["c"], 20, "the first archive's scan is finished")
    await_that(lambda: problems(database) == "", 20, "nothing is wrong any more")


def test_each_archive_that_is_away_is_named(database: Database, roots: dict[str, Path], feeding: None) -> None:
    for name in ("a", "b"):
        roots[name].rename(roots[name].with_name(f"{name}.away"))
    texts = [f"the archive at {roots[name]} is missing" for name in ("a", "b")]
    both = "; ".join(text + ": is it mounted?" for text in texts)
    await_that(lambda: problems(database) == both, 20, "both are named at once")
    roots["a"].with_name("a.away").rename(roots["a"])
    await_that(lambda: texts[0] not in problems(database), 20, "the first is back")
    assert texts[1] in problems(database)
