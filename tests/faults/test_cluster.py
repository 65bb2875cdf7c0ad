"""A realistic cluster: Debian's Redis and PostgreSQL, workers with different mounts, two models, and Flower."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ColumnElement, func, select

from db.migrate import upgrade
from db.run_queries import RunState, RunSummary, list_runs
from db.session import Database
from db.tables import archives, batches, images
from tests.archives import truncated
from tests.awaiting import await_that
from tests.broker import TcpBroker, free_port
from tests.faults.conftest import join_cluster
from tests.faults.debian import REDIS, debian_postgres, require_debian_servers
from tests.faults.stack import ARCHIVE, Archive, Command, Stack, fill
from tests.pages import Pages
from tests.tiny import write_tiny_package
from xray.message import TASK_NAME
from xray.network.package import ModelPackage
from xray.vocabulary import OPEN_STATES

IMAGES, UNREADABLE, SIDE = 2000, 3, 64
PATIENT, UID = "DOE-JANE-19480321", "1.2.840.99999.4711"
MOUNTS = {"alpha": "ward-nas", "beta": "radiology-san", "gamma": "ward-nas"}
"""The workers, and the folder in which each has the archive; gamma has the other model."""

USER, PASSWORD = "radiology", "s3cr3t"


@dataclass(frozen=True)
class IdentifyingArchive(Archive):
    """An archive whose paths contain patients' names and UIDs."""

    def path(self, number: int) -> str:
        return f"{PATIENT}-{number:05}/{UID}.{number}/image1.png"


@pytest.fixture(autouse=True)
def debian_servers() -> None:
    require_debian_servers()


@pytest.fixture
def mounts(tmp_path: Path) -> dict[str, Archive]:
    """One archive under two roots, as two hosts mount it: by worker."""
    first, second = (IdentifyingArchive(tmp_path / mount / ARCHIVE, IMAGES) for mount in ("ward-nas", "radiology-san"))
    fill(first, side=SIDE)
    for number in range(UNREADABLE):
        file = first.root / first.path(number * 700)
        file.write_bytes(truncated(file.read_bytes()))
    shutil.copytree(first.root, second.root, copy_function=os.link)
    return {name: first if mount == "ward-nas" else second for name, mount in MOUNTS.items()}


class Cluster:
    """One stack per worker, all on one database and one broker, and Flower."""

    def __init__(self, stacks: dict[str, Stack], broker: TcpBroker, database_url: str) -> None:
        self.stacks = stacks
        self.broker = broker
        self.database = Database(database_url)
        self.flower = Pages(free_port(), USER, PASSWORD)

    def start_flower(self) -> Command:
        command = self.stacks["alpha"].start("flower", "--port", str(self.flower.port))
        await_that(lambda: "Flower: http" in command.text, 30, "Flower listens")
        return command

    def api(self, path: str) -> Any:
        return json.loads(self.flower.text(f"/api/{path}"))

    def runs(self) -> list[RunSummary]:
        """Return the runs, the first model's first."""
        return sorted(list_runs(self.database), key=lambda run: run.run)

    def count(self, which: ColumnElement[bool]) -> int:
        """Count batches."""
        with self.database.read() as connection:
            return connection.execute(select(func.count()).where(which)).scalar_one()

    def workers_of(self, run: int) -> set[str]:
        """Return the names of the workers that processed a run's batches, from the ledger."""
        query = select(batches.c.worker).where(batches.c.run_id == run)
        with self.database.read() as connection:
            return {
                str(name).rpartition(":")[0].removeprefix(f"{socket.gethostname()}/")
                for name in connection.execute(query).scalars()
            }

    def tasks(self) -> dict[str, dict[str, Any]]:
        tasks: dict[str, dict[str, Any]] = self.api("tasks")
        return tasks

    def images_reported(self) -> int:
        """Count the images in the results that Flower has seen."""
        results = " ".join(task["result"] or "" for task in self.tasks().values())
        return sum(int(number) for number in re.findall(r"'images': (\d+)", results))

    def pages(self) -> Iterator[str]:
        """Yield everything that Flower serves: all pages, also of each worker and task, and the API."""
        table = "/tasks/datatable?draw=1&start=0&length=1000&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"
        tasks = self.tasks()
        paths = ["/workers", "/workers?json=1", "/tasks", table, "/broker", "/metrics", "/api/workers?refresh=1"]
        paths += ["/api/tasks", "/api/task/types", "/api/queues/length"]
        paths += [f"/worker/worker@{name}" for name in self.stacks]
        for path in paths:
            yield self.flower.text(path)
        for task in tasks:
            yield self.flower.text(f"/task/{task}") + self.flower.text(f"/api/task/info/{task}")


@pytest.fixture
def cluster(tmp_path: Path, mounts: dict[str, Archive], tiny_package: ModelPackage) -> Iterator[Cluster]:
    other = write_tiny_package(tmp_path / "other", seed=1, graph=True)
    broker = TcpBroker(tmp_path / "broker", free_port(), REDIS)
    with debian_postgres() as url, ExitStack() as end:
        end.callback(broker.stop)
        broker.start()
        stacks = {}
        for name, archive in mounts.items():
            package = other if name == "gamma" else tiny_package
            stacks[name] = join_cluster(tmp_path / "homes" / name, archive, package, broker, url)
            stacks[name].environ |= {
                "BONESCREEN_BATCH_SIZE": "25",
                "BONESCREEN_WORKER_NAME": name,
                "BONESCREEN_FLOWER_USER": USER,
                "BONESCREEN_FLOWER_PASSWORD": PASSWORD,
            }
            end.callback(stacks[name].close)
        made = Cluster(stacks, broker, url)
        end.callback(made.database.close)
        upgrade(made.database)
        yield made


def test_workers_with_different_mounts_share_a_run_and_another_model_has_a_run_and_worker_of_its_own(
    tmp_path: Path, cluster: Cluster
) -> None:
    with recorded_commands(cluster.broker, tmp_path / "commands") as recorded:
        commands = [cluster.start_flower()]
        for name in ("alpha", "gamma"):
            code, answer = cluster.stacks[name].run("enqueue", ARCHIVE, "--layout", "folder")
            assert code == 0, answer
            assert not [mark for mark in (PATIENT, UID) if mark in answer]
        commands += [stack.start("worker") for stack in cluster.stacks.values()]
        await_that(lambda: all(run.processed for run in cluster.runs()), 90, "both runs have results")
        seen = [stored_keys(cluster.broker)]
        assert [run.state for run in cluster.runs()] == [RunState.RUNNING] * 2
        seen += cluster.pages()
        await_that(lambda: not cluster.count(batches.c.state.in_(OPEN_STATES)), 120, "both runs are done")
        await_that(lambda: cluster.images_reported() == 2 * IMAGES, 20, "Flower has seen every batch's end")
        seen += [stored_keys(cluster.broker), *cluster.pages()]
    seen += [recorded.read_text(errors="replace"), *(command.text for command in commands)]
    assert_each_image_is_processed_once_in_each_run(cluster)
    assert_each_batch_went_to_a_worker_with_its_model(cluster)
    assert_no_path_patient_or_uid_appears(cluster, seen)


def assert_each_image_is_processed_once_in_each_run(cluster: Cluster) -> None:
    for run in cluster.runs():
        assert (run.images, run.processed, run.failed) == (IMAGES, IMAGES, UNREADABLE)
        assert (run.state, run.inferred) == (RunState.DONE, IMAGES - UNREADABLE)
    with cluster.database.read() as connection:
        assert connection.execute(select(func.sum(batches.c.images))).scalar_one() == 2 * IMAGES


def assert_each_batch_went_to_a_worker_with_its_model(cluster: Cluster) -> None:
    first, second = (run.run for run in cluster.runs())
    assert cluster.workers_of(first) == {"alpha", "beta"}
    assert cluster.workers_of(second) == {"gamma"}
    by_run: dict[int, set[str]] = defaultdict(set)
    for task in cluster.tasks().values():
        for run in re.findall(r"'run': (\d+)", task["result"] or ""):
            by_run[int(run)].add(task["worker"])
    assert by_run == {first: {"worker@alpha", "worker@beta"}, second: {"worker@gamma"}}
    workers = cluster.api("workers?refresh=1")
    assert set(workers) == {f"worker@{name}" for name in MOUNTS}
    for name, worker in workers.items():
        (queue,) = worker["active_queues"]
        digest = cluster.runs()[name == "worker@gamma"].digest
        assert digest[:16] in queue["name"]


def assert_no_path_patient_or_uid_appears(cluster: Cluster, texts: Sequence[str]) -> None:
    marks = {*MOUNTS.values(), ARCHIVE, PATIENT, UID, "image1"}
    text = "\n".join([*texts, *bodies("\n".join(texts))])
    assert {mark for mark in marks if mark in text} == set()
    # The search would find them: messages appear with their number, and the ledger has every mark.
    assert re.search(r"\[\[1\], \{\}", text)
    assert TASK_NAME in text
    with cluster.database.read() as connection:
        root = connection.execute(select(archives.c.name + archives.c.root)).scalar_one()
        path = connection.execute(select(images.c.path)).scalars().first()
    assert {mark for mark in marks if mark in f"{root} {path}"} == marks - {MOUNTS["beta"]}


def bodies(text: str) -> list[str]:
    """Return the bodies of the messages in a text, which Celery encodes as base64."""
    packed = set(re.findall(r'body\\*": \\*"([A-Za-z0-9+/=]+)', text))
    return [base64.b64decode(body).decode(errors="replace") for body in packed]


@contextmanager
def recorded_commands(broker: TcpBroker, log: Path) -> Iterator[Path]:
    """Record every command that the broker receives within the block."""
    with log.open("wb") as output:
        listener = subprocess.Popen(
            [REDIS.with_name("redis-cli"), "-p", str(broker.port), "monitor"],
            env={**os.environ, "REDISCLI_AUTH": TcpBroker.PASSWORD},
            stdout=output,
        )
        try:
            await_that(lambda: log.stat().st_size, 10, "the recording has started")
            yield log
        finally:
            listener.terminate()
            listener.wait()


def stored_keys(broker: TcpBroker) -> str:
    """Return every key in the broker, with its value, as text."""
    texts = []
    with broker.client() as client:
        read = {
            b"string": client.get,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
        }
        for key in client.scan_iter():
            # A key may be deleted between the two queries, as workers are running.
            if (kind := client.type(key)) != b"none":
                texts.append(f"{key!r} {read[kind](key)!r}")
    return "\n".join(texts)
