"""`bonescreen metrics`: the numbers, their server, and the alert rules and dashboard made of them."""

import json
import re
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from sqlalchemy import update

from db.heartbeats import Activity, record_heartbeat
from db.runs import open_run, register_archive, register_model
from db.scans import begin_scan
from db.session import Database, Now
from db.tables import scans
from tests.awaiting import PATIENCE
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.processes import BONESCREEN
from tests.broker import TcpBroker, free_port
from tests.ledgers import STUDIES, embedded, fill, screened
from tests.pages import Pages
from tests.seeding import MODEL
from xray.vocabulary import OPEN_STATES

MONITORING = Path(__file__).parent.parent.parent / "docs" / "monitoring"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Return every sample by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_the_numbers_are_those_of_the_ledger(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {**STUDIES, "open": [None, None]})
    database = embedded(home)
    record_heartbeat(database, "host:1", "worker", MODEL.queue, None)
    record_heartbeat(database, "host:2", "worker", MODEL.queue, "the archive is away")
    record_heartbeat(database, "host:3", "worker", MODEL.queue, None, Activity.OUTSIDE_HOURS)
    other = open_run(database, register_archive(database, "other", "/other"), register_model(database, MODEL), 1)
    assert begin_scan(database, other, "folder", "host:3") is not None
    done = bonescreen("metrics")
    found = samples(done.out)
    assert (done.code, done.err) == (0, "")
    assert value(found, "bonescreen_database_up") == 1
    assert value(found, "bonescreen_broker_up") == 0
    assert sum(value(found, "bonescreen_batches", state=state) for state in OPEN_STATES) == 2
    assert value(found, "bonescreen_open_batch_images") == 2
    assert value(found, "bonescreen_images_total", outcome="predicted", reason="") == 5
    assert value(found, "bonescreen_images_total", outcome="failed", reason="truncated") == 1
    assert value(found, "bonescreen_images_total", outcome="failed", reason="vanished") == 0
    assert value(found, "bonescreen_processes", role="worker", state="working") == 1
    assert value(found, "bonescreen_processes", role="worker", state="waiting") == 1
    assert value(found, "bonescreen_processes", role="worker", state="outside_hours") == 1
    assert value(found, "bonescreen_processes", role="feeder", state="working") == 0
    assert value(found, "bonescreen_open_scans", state="scanning") == 1
    with database.write() as connection:
        connection.execute(update(scans).where(scans.c.run_id == 1).values(finished_at=Now() - 500))
        connection.execute(update(scans).where(scans.c.run_id == other).values(lease_expires_at=Now() - 1))
    database.close()
    found = samples(bonescreen("metrics").out)
    assert 500 <= value(found, "bonescreen_oldest_open_batch_age_seconds") < 500 + 60 * PATIENCE
    assert value(found, "bonescreen_open_scans", state="abandoned") == 1


def test_no_label_names_a_path_a_study_or_an_archive(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {**STUDIES, "open": [None]}, archive="ward", root=Path("/DOE-JANE"))
    said = bonescreen("metrics").out
    assert {name for name in (*STUDIES, "ward", "DOE", "image1", "open/") if name in said} == set()


def test_messages_are_counted_in_the_broker_and_an_outage_is_a_number(
    bonescreen: Bonescreen, home: Path, broker: TcpBroker, monkeypatch: pytest.MonkeyPatch, postgres_database_url: str
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", postgres_database_url)
    monkeypatch.setenv("BONESCREEN_BROKER_URL", broker.url)
    assert bonescreen("db", "upgrade").code == 0
    database = Database(postgres_database_url)
    fill(database, {"open": [0.9, None]})
    database.close()
    with broker.client() as client:
        client.rpush(MODEL.queue, "one", "two")
    found = samples(bonescreen("metrics").out)
    assert value(found, "bonescreen_queue_messages", queue=MODEL.queue) == 2
    assert value(found, "bonescreen_broker_up") == 1
    broker.kill()
    done = bonescreen("metrics")
    assert value(samples(done.out), "bonescreen_broker_up") == 0
    assert "bonescreen_queue_messages" not in done.out
    assert TcpBroker.PASSWORD not in done.out + done.err
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", "postgresql://ward:secret@127.0.0.1:1/none")
    done = bonescreen("metrics")
    found = samples(done.out)
    assert (done.code, value(found, "bonescreen_database_up")) == (0, 0)
    assert {name for name, _ in found} == {"bonescreen_database_up", "bonescreen_broker_up"}


@contextmanager
def served(environ: dict[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [*BONESCREEN, "metrics", *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_they_are_served_on_loopback_only_until_it_is_told_to_stop(home: Path, environ: dict[str, str]) -> None:
    screened(home)
    port = free_port()
    with served(environ, "--serve", str(port)) as (process, said):
        assert said == f"Metrics: http://127.0.0.1:{port}/metrics\n"
        pages = Pages(port)
        first = samples(pages.text("/metrics"))
        assert value(first, "bonescreen_images_total", outcome="predicted", reason="") == 5
        assert pages.ask("/")[0] == 404
        assert pages.ask("/metrics", "POST", b"x")[0] == 405
        # A client that asks for nothing keeps no other waiting, and each answer is of now.
        with socket.create_connection(("127.0.0.1", port)):
            screened(home, {"more": [0.5]}, archive="more")
            again = samples(pages.text("/metrics"))
        assert value(again, "bonescreen_images_total", outcome="predicted", reason="") == 6
        assert _listening(process.pid) == {("127.0.0.1", port)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * PATIENCE) == 0


def _listening(pid: int) -> set[tuple[str, int]]:
    found = psutil.Process(pid).net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def test_beyond_loopback_it_says_that_anybody_can_read_them(home: Path, environ: dict[str, str]) -> None:
    screened(home)
    with served(environ, "--serve", f"0.0.0.0:{free_port()}") as (process, _):
        assert process.stderr is not None
        assert "there are no credentials" in process.stderr.readline()


@pytest.mark.parametrize("address", ["70000", "host", "1.2.3.4:", "-1"])
def test_what_is_no_port_is_refused(bonescreen: Bonescreen, home: Path, address: str) -> None:
    screened(home)
    done = bonescreen("metrics", f"--serve={address}")
    assert done.code == 2
    assert done.err.startswith("error: --serve must be a ")


def test_a_port_in_use_is_said(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = bonescreen("metrics", "--serve", other.getsockname()[1])
    assert done.code == 1
    assert "cannot listen on 127.0.0.1 port" in done.err


# -- alert rules and dashboard -----------------------------------------------------------------------------------


def expressions() -> Iterator[str]:
    rules: Any = YAML(typ="safe").load((MONITORING / "alerts.yml").read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    board = json.loads((MONITORING / "dashboard.json").read_text())
    yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])


@pytest.fixture
def labels(bonescreen: Bonescreen, home: Path, broker: TcpBroker, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the labels of each metric, with their values, of a system in which all is up."""
    screened(home, {"open": [0.9, None]})
    monkeypatch.setenv("BONESCREEN_BROKER_URL", broker.url)
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, pairs in samples(bonescreen("metrics").out):
        found[name].update({})
        for label, text in pairs:
            found[name][label].add(text)
    return found


@pytest.mark.parametrize("expression", list(expressions()))
def test_each_metric_and_label_that_an_alert_or_a_panel_names_exists(expression: str, labels: dict[str, Any]) -> None:
    named = re.findall(r"\b(bonescreen_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    for name, selector in named:
        assert name in labels
        for label, text in re.findall(r'(\w+)="([^"]*)"', selector):
            assert text in labels[name][label]
    everywhere = set().union(*(labels[name] for name, _ in named))
    for grouped in re.findall(r"\bby \(([^)]+)\)", expression):
        assert set(re.split(r", ", grouped)) <= everywhere


def test_every_metric_is_in_an_alert_or_a_panel(labels: dict[str, Any]) -> None:
    assert set(re.findall(r"\bbonescreen_\w+", " ".join(expressions()))) == labels.keys()


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules: Any = YAML(typ="safe").load((MONITORING / "alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert re.fullmatch(r"Bonescreen[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
