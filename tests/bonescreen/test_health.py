"""`bonescreen health`: a container's health check."""

import socket
from pathlib import Path

import pytest
from sqlalchemy import update

from db.heartbeats import ALIVE_SECONDS, record_heartbeat
from db.tables import heartbeats
from tests.bonescreen.conftest import Bonescreen
from tests.ledgers import embedded, screened

HERE = socket.gethostname()


def _beat(home: Path, role: str, *, host: str = HERE, problem: str | None = None) -> None:
    database = embedded(home)
    record_heartbeat(database, f"{host}:{role}", role, None, problem)
    database.close()


def test_roles_that_are_alive_here_are_healthy(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    _beat(home, "worker")
    _beat(home, "feeder")
    done = bonescreen("health", "worker", "feeder")
    assert (done.code, done.out) == (0, "Alive here: worker, feeder.\n")


def test_a_worker_on_another_host_does_not_count_here(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    _beat(home, "worker", host=f"{HERE}-2")
    _beat(home, "feeder")
    done = bonescreen("health", "worker", "feeder")
    assert (done.code, done.out) == (1, f"No worker {HERE} is alive.\n")
    assert bonescreen("health", "feeder").code == 0


def test_two_workers_on_one_host_are_told_apart_by_their_names(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened(home)
    _beat(home, "worker", host=f"{HERE}/gpu1")
    _beat(home, "worker", host="elsewhere/gpu2")
    monkeypatch.setenv("BONESCREEN_WORKER_NAME", "gpu1")
    assert bonescreen("health", "worker").code == 0
    monkeypatch.setenv("BONESCREEN_WORKER_NAME", "gpu2")
    done = bonescreen("health", "worker")
    assert (done.code, done.out) == (1, f"No worker {HERE}/gpu2 is alive.\n")


def test_a_process_without_recent_heartbeats_is_not_alive(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    _beat(home, "feeder")
    database = embedded(home)
    with database.write() as connection:
        connection.execute(update(heartbeats).values(seen_at=heartbeats.c.seen_at - ALIVE_SECONDS))
    database.close()
    assert bonescreen("health", "feeder").code == 1


def test_a_process_that_waits_is_unhealthy_and_its_problem_is_shown(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    _beat(home, "worker", problem="the archive 'clinic' has no root on this host")
    done = bonescreen("health", "worker")
    assert done.code == 1
    assert done.out == f"The worker {HERE}:worker waits: the archive 'clinic' has no root on this host\n"


def test_without_a_database_nothing_is_healthy(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/none")
    done = bonescreen("health", "feeder")
    assert done.code == 1
    assert "does not answer" in done.err
    assert "secret" not in done.out + done.err


@pytest.mark.parametrize("roles", [[], ["broker"]])
def test_a_role_must_be_given_and_known(bonescreen: Bonescreen, home: Path, roles: list[str]) -> None:
    assert bonescreen("health", *roles).code == 2
